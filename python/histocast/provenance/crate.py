"""``provenance.json``: a run as an RO-Crate, after the Process Run Crate profile.

The crate describes the folder of results, whose files it names relative to it; a copy of it there under the name
``ro-crate-metadata.json`` makes that folder a crate. Slides are named by their samples and their digests.

https://w3id.org/ro/crate/1.1, https://w3id.org/ro/wfrun/process/0.5
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import RootModel

from histocast.provenance.entities import (
    Entity,
    add_file,
    parameter_values,
    reference,
    references,
    software,
)
from histocast.records import BatchStatus, CheckRecord, RunRecord, SampleRecord, SampleStatus, Stage

CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"

RUN, PIPELINE, ENGINE, BUNDLE, GENES = "#run", "#pipeline", "#nextflow", "#bundle", "#genes"

BATCH_FILES = {
    "summary.html": "Every row of the samplesheet with its outcome",
    "summary.parquet": "Every row of the samplesheet with its outcome, as a table",
    "pipeline_info/params.json": "Parameters of the run",
    "pipeline_info/samples.json": "Rows of the samplesheet as they were judged, with locations",
    "pipeline_info/trace.txt": "Tasks with their resources",
    "pipeline_info/report.html": "Report of the workflow engine",
    "pipeline_info/timeline.html": "Timeline of the tasks",
    "pipeline_info/dag.html": "Diagram of the processes",
}
SAMPLE_FILES: dict[str, tuple[str, Stage]] = {
    "h5ad": ("Predicted expression, as AnnData", "predict"),
    "parquet": ("Predicted expression, as a table", "predict"),
    "html": ("Report of the sample", "report"),
}


class Crate(RootModel[dict[str, Any]]):
    """An RO-Crate's metadata document."""


def describe_run(run: RunRecord, *, check: CheckRecord, batch: BatchStatus, ended: datetime) -> Crate:
    """Return the crate of a run: one action for the whole, and one for each sample.

    Parameters
    ----------
    run:
        What the workflow engine knows.
    check, batch:
        What CHECK found and how every sample ended.
    ended:
        When the last task of a sample had ended.
    """
    graph: dict[str, Entity] = {}
    for path, name in BATCH_FILES.items():
        add_file(graph, path, name)
    images, libraries = software(stage.software for sample in batch.samples for stage in sample.stages)
    values = parameter_values(run.parameters)
    inputs = [_bundle(check), *_genes(check)]
    slides = {sample.sample: sample for sample in check.samples}
    actions = [_act_on_sample(graph, slides[status.sample], status, inputs) for status in batch.samples]
    context = [*images, *values, *libraries, *inputs, _engine(run), _pipeline(run, libraries), *actions]
    graph.update({entity["@id"]: entity for entity in context})
    graph[RUN] = _act(run, batch, graph, ended) | {
        "object": references([*inputs, *values]) + [reference(_slide_id(name)) for name in slides],
        "containerImage": references(images),
    }
    return Crate({"@context": CONTEXT, "@graph": [*_roots(run, graph, ended, actions), *graph.values()]})


def _roots(run: RunRecord, graph: dict[str, Entity], ended: datetime, actions: list[Entity]) -> list[Entity]:
    """The two entities that make a document an RO-Crate."""
    files = [entity for entity in graph.values() if entity["@type"] == "File"]
    return [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "conformsTo": reference(SPECIFICATION),
            "about": reference("./"),
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": f"histocast run {run.run_name}",
            "description": "Spatial gene expression forecast from H&E slides. Predictions, not measurements; research only.",
            "datePublished": ended.isoformat(timespec="seconds"),
            "license": "Not stated here: it follows from those of the slides and of the bundle.",
            "conformsTo": reference(PROFILE),
            "hasPart": references(files),
            "mentions": [reference(RUN), *references(actions)],
        },
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
    ]


def _act(run: RunRecord, batch: BatchStatus, graph: dict[str, Entity], ended: datetime) -> Entity:
    failed = [sample.sample for sample in batch.samples if sample.outcome == "failed"]
    ends_badly = bool(failed) and run.parameters.get("on_slide_error") != "skip"
    action: Entity = {
        "@id": RUN,
        "@type": "CreateAction",
        "name": f"histocast {run.pipeline_version}, run {run.run_name}",
        "identifier": run.session_id,
        "instrument": reference(PIPELINE),
        "startTime": run.started,
        "endTime": ended.isoformat(timespec="seconds"),
        "actionStatus": _status(is_ok=not ends_badly),
        "result": references(entity for entity in graph.values() if entity["@type"] == "File"),
    }
    if failed:
        action["error"] = f"{len(failed)} of {len(batch.samples)} samples failed: {', '.join(failed[:20])}"
    return action


def _act_on_sample(
    graph: dict[str, Entity], sample: SampleRecord, status: SampleStatus, inputs: list[Entity]
) -> Entity:
    """The action of one sample; its slide and its files go into the graph."""
    name = sample.sample
    facts = {stage.stage: stage.facts for stage in status.stages}
    slide: Entity = {"@id": _slide_id(name), "@type": "CreativeWork", "name": f"Slide of sample {name}"}
    if digest := facts.get("tile", {}).get("slide_digest"):
        slide["identifier"] = digest
    if sample.size_bytes is not None:
        slide["contentSize"] = str(sample.size_bytes)
    graph[slide["@id"]] = slide
    results = [add_file(graph, f"{name}/status.json", f"How every stage ended for sample {name}")]
    for suffix, (title, stage) in SAMPLE_FILES.items():
        if sha256 := facts.get(stage, {}).get(f"{suffix}_sha256"):
            results.append(add_file(graph, f"{name}/{name}.{suffix}", f"{title}: {name}", sha256=str(sha256)))
    action: Entity = {
        "@id": f"#run/{name}",
        "@type": "CreateAction",
        "name": f"Sample {name}",
        "instrument": reference(PIPELINE),
        "object": [reference(slide["@id"]), *references(inputs)],
        "result": references(results),
        "actionStatus": _status(is_ok=status.outcome == "ok"),
    }
    if error := status.stages[-1].error:
        action["error"] = f"{status.stages[-1].stage}: {error.message}"
    return action


def _status(*, is_ok: bool) -> Entity:
    return reference(f"http://schema.org/{'Completed' if is_ok else 'Failed'}ActionStatus")


def _slide_id(sample: str) -> str:
    return f"#slide/{sample}"


def _bundle(check: CheckRecord) -> Entity:
    return {
        "@id": BUNDLE,
        "@type": "CreativeWork",
        "name": f"Model bundle {check.bundle_name or 'of unknown name'}",
        "identifier": check.bundle_digest,
        **({"version": check.bundle_version} if check.bundle_version else {}),
    }


def _genes(check: CheckRecord) -> Iterable[Entity]:
    if check.genes_digest:
        yield {"@id": GENES, "@type": "CreativeWork", "name": "Gene panel", "identifier": check.genes_digest}


def _engine(run: RunRecord) -> Entity:
    return {
        "@id": ENGINE,
        "@type": "ComputerLanguage",
        "name": "Nextflow",
        "version": run.nextflow_version,
        "url": reference("https://www.nextflow.io/"),
    }


def _pipeline(run: RunRecord, libraries: list[Entity]) -> Entity:
    place = f"in containers of {run.container_engine}" if run.container_engine else "without containers"
    return {
        "@id": PIPELINE,
        "@type": ["SoftwareSourceCode", "ComputationalWorkflow"],
        "name": run.pipeline,
        "version": run.pipeline_version,
        **({"identifier": run.revision} if run.revision else {}),
        "programmingLanguage": reference(ENGINE),
        "softwareRequirements": references(libraries),
        "description": f"Tasks ran {place}, with the profiles: {run.profile}",
    }
