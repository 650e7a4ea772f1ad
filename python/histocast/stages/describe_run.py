"""What PROVENANCE writes: ``provenance.json``, a run as an RO-Crate after the Process Run Crate profile.

The crate describes the folder of results, whose files it names relative to it; a copy of it there under the name
``ro-crate-metadata.json`` makes that folder a crate. Slides are named by their samples and their digests.

https://w3id.org/ro/crate/1.1, https://w3id.org/ro/wfrun/process/0.5
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from histocast.records import BatchStatus, CheckRecord, RunRecord, SampleRecord, SampleStatus, Stage
from histocast.ro_crate import (
    PIPELINE,
    RUN,
    Crate,
    Entity,
    act,
    add_file,
    as_crate,
    describe_engine,
    describe_pipeline,
    engine_files,
    parameter_values,
    reference,
    references,
    software,
    status_of,
)

BUNDLE, GENES = "#bundle", "#genes"

DESCRIPTION = "Spatial gene expression predicted from H&E slides. Predictions, not measurements; research only."
LICENCE = "Not stated here: it follows from those of the slides and of the bundle."

BATCH_FILES = {
    "summary.html": "Every row of the samplesheet with its outcome",
    "summary.parquet": "Every row of the samplesheet with its outcome, as a table",
    "pipeline_info/samples.json": "Rows of the samplesheet as they were validated, with locations",
}
SAMPLE_FILES: dict[str, tuple[str, Stage]] = {
    "h5ad": ("Predicted expression, as AnnData", "predict"),
    "parquet": ("Predicted expression, as a table", "predict"),
    "genes.parquet": ("What is known of each predicted gene", "predict"),
    "slide.parquet": ("Statistics of each gene over the slide, and the slide's quality", "predict"),
    "html": ("Report of the sample", "report"),
    "geojson": ("Tiles and tissue for QuPath", "report"),
    "zarr.zip": ("Predicted expression, as AnnData in Zarr", "report"),
    "spatialdata.zarr/": ("Overview, tiles and predicted expression, as SpatialData", "report"),
}


def describe_run(run: RunRecord, *, check: CheckRecord, batch: BatchStatus, ended: datetime) -> Crate:
    """Return the crate of a run: one action for the whole, and one for each sample.

    ``run``: what the workflow engine knows.
    ``check``, ``batch``: what CHECK found and how every sample ended.
    ``ended``: when the last task of a sample had ended.
    """
    graph: dict[str, Entity] = {}
    for path, name in {**BATCH_FILES, **engine_files(run)}.items():
        add_file(graph, path, name)
    images, libraries = software(stage.software for sample in batch.samples for stage in sample.stages)
    values = parameter_values(run.parameters)
    inputs = [_bundle(check), *_genes(check)]
    slides = {sample.sample: sample for sample in check.samples}
    actions = [_act_on_sample(graph, slides[status.sample], status, inputs) for status in batch.samples]
    context = [*images, *values, *libraries, *inputs, describe_engine(run), describe_pipeline(run, libraries), *actions]
    graph.update({entity["@id"]: entity for entity in context})
    graph[RUN] = _act(run, batch, graph, ended) | {
        "object": references([*inputs, *values]) + [reference(_slide_id(name)) for name in slides],
        "containerImage": references(images),
    }
    return as_crate(run, graph, actions, ended=ended, description=DESCRIPTION, licence=LICENCE)


def _act(run: RunRecord, batch: BatchStatus, graph: dict[str, Entity], ended: datetime) -> Entity:
    failed = [sample.sample for sample in batch.samples if sample.outcome == "failed"]
    ends_badly = bool(failed) and run.parameters.get("on_slide_error") != "skip"
    action = act(run, graph, ended=ended, is_ok=not ends_badly)
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
        if sha256 := facts.get(stage, {}).get(f"{suffix.rstrip('/')}_sha256"):
            results.append(add_file(graph, f"{name}/{name}.{suffix}", f"{title}: {name}", sha256=str(sha256)))
    action: Entity = {
        "@id": f"#run/{name}",
        "@type": "CreateAction",
        "name": f"Sample {name}",
        "instrument": reference(PIPELINE),
        "object": [reference(slide["@id"]), *references(inputs)],
        "result": references(results),
        "actionStatus": status_of(is_ok=status.outcome == "ok"),
    }
    if error := status.stages[-1].error:
        action["error"] = f"{status.stages[-1].stage}: {error.message}"
    return action


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
