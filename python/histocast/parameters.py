"""The pipeline's parameters, from which ``nextflow_schema.json`` and ``conf/parameters.config`` are generated.

This is where a parameter is declared. One that is an option of a stage has its default, its bounds and, where it means the
same, its description from there. `main.nf` checks what a user gives against the schema before any task starts.

>>> python -m histocast.parameters > nextflow_schema.json  # doctest: +SKIP
>>> python -m histocast.parameters --config > conf/parameters.config  # doctest: +SKIP
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field
from pydantic.config import JsonDict

from histocast.parameter_forms import FORMS, ICONS
from histocast.records import Record
from histocast.stages.check import Check
from histocast.stages.cohort import Cohort
from histocast.stages.encode import Encode
from histocast.stages.stage import FORMATS, Stage
from histocast.stages.train import Train

GROUPS = {
    "run": "What to run",
    "inputs": "Inputs",
    "outputs": "Outputs",
    "decisions": "Decisions",
    "serving": "Inference",
    "resources": "Machines",
}


CLUSTERS = ("slurm", "lsf", "pbs", "pbspro", "sge")


def _parameter(
    group: str,
    description: str,
    *,
    needed_by: str | None = None,
    used_by: str | None = None,
    used_with: Sequence[Sequence[str]] = (),
    used_when: Mapping[str, str] | None = None,
    **facts: Any,
) -> Any:
    """Declare a parameter.

    ``needed_by`` names the workflow that cannot do without it, ``used_by`` the only workflow that uses it. Of each group of
    profiles in ``used_with`` the run must have one, because the parameter has no effect without them. Nor has it where nothing
    in ``used_when`` holds: another parameter, ``profile`` or ``container`` (what starts one), with what its value begins with,
    ``*`` for any value, nothing for none.
    """
    extra: JsonDict = {"group": group}
    if needed_by:
        extra["needed_by"] = needed_by
    if used_by or needed_by:
        extra["used_by"] = used_by or needed_by
    if used_with:
        extra["used_with"] = [list(profiles) for profiles in used_with]
    if used_when:
        extra["used_when"] = dict(used_when)
    return Field(description=description, json_schema_extra=extra, **facts)


def _option(group: str, stage: type[Stage], name: str, description: str | None = None, **facts: Any) -> Any:
    """Declare a parameter that is an option of a stage; see `_parameter`."""
    field = stage.model_fields[name]
    bounds = {key: getattr(mark, key) for mark in field.metadata for key in ("ge", "le") if hasattr(mark, key)}
    text = description or " ".join((field.description or "").split())
    return _parameter(group, text, default=field.get_default(), **bounds, **facts)


class Parameters(Record):
    """Every parameter of ``nextflow run``, with its default, its bounds and its group in ``--help``."""

    help: bool = _parameter("run", "Show this text and exit.", default=False)
    workflow: Literal["predict", "train"] = _parameter(
        "run", "Predict expression with a bundle, or train models and export them as bundles.", default="predict"
    )

    input: str = _parameter(
        "inputs",
        "CSV table: sample,slide[,mpp][,spots] and any metadata; to train sample,slide,counts,patient[,spots][,mpp].",
    )
    bundle: str | None = _parameter(
        "inputs", "Model bundle to predict with: a folder, or an s3:// prefix.", needed_by="predict", default=None
    )
    genes: str | None = _parameter(
        "inputs",
        "What to predict: a file with one gene per line, each of the bundle's, or genes.parquet of 'histocast genes embed'; "
        "to train, the panel in place of the recipe's.",
        default=None,
    )
    recipe: str | None = _parameter(
        "inputs", "Recipe to train by: a JSON file, or the name of a shipped one.", needed_by="train", default=None
    )
    methods: str | None = _parameter(
        "inputs",
        "Methods and variants (dkan:no-gene-text) to train, with commas between them; the recipe's own by default.",
        used_by="train",
        default=None,
    )
    gene_text: str | None = _parameter(
        "inputs",
        "Embedded genes of 'histocast genes embed', to train methods that read descriptions.",
        used_by="train",
        default=None,
    )
    unseen_genes: str | None = _option("inputs", Train, "unseen_genes", used_by="train")
    encoders: str | None = _parameter(
        "inputs",
        "Folders of 'histocast export-encoder', with commas between them, for encoders of the recipe that need weights.",
        used_by="train",
        default=None,
    )
    encoder_weights: str | None = _option("inputs", Train, "encoder_weights", used_by="train")

    checkpoints: str | None = _parameter(
        "inputs",
        "Folder on a file system that all tasks share: a training that is killed goes on from there when its task is "
        "tried again, or the run is resumed.",
        used_by="train",
        default=None,
    )

    outdir: str = _parameter("outputs", "Folder, or s3:// prefix, for the results.", default="results")
    trace_report_suffix: str | None = _parameter(
        "outputs",
        "In the names of Nextflow's own trace, report and timeline; when the run began, by default.",
        default=None,
        pattern=r"^[\w.-]+$",
        examples=["2026-03-01_12-00-00"],
    )

    on_slide_error: Literal["fail", "skip"] = _option(
        "decisions",
        Check,
        "on_slide_error",
        "Whether the run fails, at its end, when a slide failed.",
        used_by="predict",
    )
    allow_metadata: str | None = _option("decisions", Check, "allow_metadata", used_by="predict")
    cohort: bool = _option(
        "decisions",
        Check,
        "cohort",
        "Gather the slides of the run as one data set under cohort/. Refused where the bundle's predictions cannot be "
        "compared between slides.",
        used_by="predict",
    )
    signatures: str | None = _option("inputs", Cohort, "signatures", used_by="predict", used_when={"cohort": "true"})
    batch: str | None = _option("decisions", Cohort, "batch", used_by="predict", used_when={"cohort": "true"})
    report: bool = _parameter(
        "outputs",
        "Write a page for each sample; outcomes are stated without one, too.",
        used_by="predict",
        default=True,
    )
    formats: str = _parameter(
        "outputs",
        "Formats of a sample's predictions, with commas between them: geojson (for QuPath), zarr and spatialdata besides "
        "h5ad and parquet, which are written always.",
        used_by="predict",
        default="h5ad,parquet",
        pattern=rf"^({'|'.join(FORMATS)})(,({'|'.join(FORMATS)}))*$",
        examples=["h5ad,parquet,geojson,spatialdata"],
    )
    report_genes: str | None = _option("decisions", Check, "report_genes", used_by="predict")
    max_unreadable: float = _option("decisions", Encode, "max_unreadable", used_by="predict")

    serving: Literal["inprocess", "task"] = _parameter(
        "serving",
        "Where graphs run: within the task, with onnxruntime, or on a Triton server that the task starts for itself.",
        used_by="predict",
        used_when={"triton_url": ""},
        default="inprocess",
    )

    precision: Literal["fp32", "tf32", "fp16"] = _parameter(
        "serving",
        "Precision of encoders on GPUs. Servers of --triton_url must be of the same; fp16 needs servers with TensorRT.",
        used_by="predict",
        # Outside containers the machine's own onnxruntime may be one for GPUs.
        used_when={"profile": "gpu", "triton_url": "*", "serving": "task", "container": ""},
        default="fp32",
    )

    triton_url: str | None = _parameter(
        "serving",
        "Triton servers that run the graphs instead, for example grpc://a:8001,b:8001.",
        used_by="predict",
        default=None,
    )

    tasks_per_server: int = _parameter(
        "serving",
        "Most tasks of a stage that use an address of --triton_url at once; more wait, so that servers are not flooded.",
        used_by="predict",
        used_when={"triton_url": "*"},
        default=4,
        ge=1,
    )

    node_cache: str | None = _parameter(
        "resources",
        "Folder on every machine that runs tasks, in which an s3:// bundle stays for the next task; default: none.",
        used_by="predict",
        used_when={"bundle": "s3://", "serving": "task"},
        default=None,
        pattern=r"^/[\w./-]+$",
        examples=["/var/cache/histocast"],
    )
    max_cpus: int | None = _parameter(
        "resources", "Most CPUs a task may ask for; those of this machine by default.", default=None, ge=1
    )
    max_memory: str | None = _parameter(
        "resources",
        "Most memory a task may ask for, for example 16.GB; that of this machine by default.",
        default=None,
        pattern=r"^\d+(\.\d+)?[. ]?[KMGT]?B$",
        examples=["16.GB"],
    )
    queue: str | None = _parameter(
        "resources",
        "Queue of the tasks: of LSF, PBS, SGE or AWS Batch; on Slurm the partition.",
        default=None,
        used_with=[(*CLUSTERS, "awsbatch")],
    )
    gpu_queue: str | None = _parameter(
        "resources",
        "Partition or queue of the tasks that use a GPU; --queue by default.",
        default=None,
        used_with=[(*CLUSTERS, "awsbatch"), ("gpu",)],
    )
    on_demand_queue: str | None = _parameter(
        "resources",
        "AWS Batch queue of on-demand machines, for tasks that lost two spot instances.",
        default=None,
        used_with=[("awsbatch",)],
    )
    gpu_on_demand_queue: str | None = _parameter(
        "resources", "The same for the tasks that use a GPU.", default=None, used_with=[("awsbatch",), ("gpu",)]
    )
    cluster_options: str | None = _parameter(
        "resources",
        "Options of every job of a cluster, for example '--account=lab --time=12:00:00' on Slurm.",
        default=None,
        used_with=[CLUSTERS],
    )
    penv: str | None = _parameter(
        "resources",
        "Parallel environment of SGE that gives a task slots on one host, for example smp.",
        default=None,
        used_with=[("sge",)],
    )
    job_role: str | None = _parameter(
        "resources", "ARN of the role that AWS Batch jobs take.", default=None, used_with=[("awsbatch",)]
    )
    registry: str | None = _parameter(
        "resources",
        "Where the images of the tasks lie, for example registry.example.org/team; this machine by default.",
        default=None,
        used_with=[("docker", "podman", "apptainer", "singularity", "awsbatch", "k8s")],
    )


def pipeline_schema() -> dict[str, Any]:
    """``nextflow_schema.json``: a JSON Schema whose ``$defs`` are the groups of ``--help``."""
    plain = Parameters.model_json_schema()
    groups: dict[str, Any] = {}
    for key, title in GROUPS.items():
        members = {name: facts for name, facts in plain["properties"].items() if facts["group"] == key}
        required = [name for name in plain["required"] if name in members]
        groups[key] = {
            "title": title,
            "fa_icon": ICONS[key],
            "type": "object",
            "properties": {name: {**_property(facts), **FORMS.get(name, {})} for name, facts in members.items()},
            **({"required": required} if required else {}),
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:histocast:nextflow_schema",
        "title": "histocast pipeline parameters",
        "description": "Generated by python -m histocast.parameters; do not edit.",
        "type": "object",
        "$defs": groups,
        "allOf": [{"$ref": f"#/$defs/{key}"} for key in groups],
    }


def _property(facts: dict[str, Any]) -> dict[str, Any]:
    """Write one property in the flat form Nextflow tools read: ``type`` may be a list, no ``anyOf``."""
    flat = {key: value for key, value in facts.items() if key not in ("group", "title", "anyOf", "const")}
    options = facts.get("anyOf", [])
    for option in options:
        flat.update({key: value for key, value in option.items() if key != "type"})
    if options:
        flat["type"] = [option["type"] for option in options]
    if "const" in facts:
        flat["enum"] = [facts["const"]]
    if flat.get("default", ...) is None:
        del flat["default"]
    return flat


def pipeline_config() -> str:
    """``conf/parameters.config``: the default of every parameter."""
    lines = [
        "// Generated by python -m histocast.parameters --config; do not edit.",
        "// The configuration itself reads some of these, and the strict parser of Nextflow 25.04 would take a plain default over",
        "// the value of the command line. Where 0 or false is a value, ?: would take it for none.",
    ]
    for name, field in Parameters.model_fields.items():
        default = None if field.is_required() else field.default
        value = f"'{default}'" if isinstance(default, str) else json.dumps(default)
        zero = default is True or any(getattr(mark, "ge", None) == 0 for mark in field.metadata)
        lines.append(f"params.{name} = {value if zero else f'params.{name} ?: {value}'}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write((pipeline_config() if "--config" in sys.argv else json.dumps(pipeline_schema(), indent=2)) + "\n")
