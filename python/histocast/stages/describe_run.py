"""What PROVENANCE writes: ``provenance.json``, a run as an RO-Crate after the Process Run Crate profile.

The crate describes the folder of results, whose files it names relative to it; a copy of it there under the name
``ro-crate-metadata.json`` makes that folder a crate. Slides are named by their samples and their digests.

https://w3id.org/ro/crate/1.1, https://w3id.org/ro/wfrun/process/0.5
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from histocast.records import BatchStatus, CheckRecord, RunRecord, SampleRecord, SampleStatus, Stage
from histocast.ro_crate import FAILED, Crate, Entity, act, add_file, describe_crate, run_files

BUNDLE, GENES = "#bundle", "#genes"

ABOUT = {
    "description": "Spatial gene expression predicted from H&E slides. Predictions, not measurements; research only.",
    "license": "Not stated here: it follows from those of the slides and of the bundle.",
}

BATCH_FILES = {
    "summary.html": "Every row of the samplesheet with its outcome",
    "summary.parquet": "Every row of the samplesheet with its outcome, as a table",
    "histocast_mqc.json": "The summary for a report of MultiQC",
    "pipeline_info/samples.json": "Rows of the samplesheet as they were validated, with locations",
}
COHORT_FILES = {
    "cohort/slides.parquet": "Every row of the samplesheet with its quality and metadata, as a table",
    "cohort/cohort.h5ad": "Slides by genes, as AnnData",
    "cohort/cohort.html": "Slides as one data set, for reading",
}
SIGNATURES = {"cohort/signatures.parquet": "Scores of gene sets on each slide"}
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
    graph = run_files(run, {**BATCH_FILES, **_cohort_files(run, batch)})
    inputs = [_bundle(check), *_genes(check)]
    slides = {sample.sample: sample for sample in check.samples}
    actions = [_act_on_sample(graph, slides[status.sample], status, inputs) for status in batch.samples]
    failed = [sample.sample for sample in batch.samples if sample.outcome == "failed"]
    whole: Entity = {}
    if failed:
        whole["error"] = f"{len(failed)} of {len(batch.samples)} samples failed: {', '.join(failed[:20])}"
    if failed and run.parameters.get("on_slide_error") != "skip":
        whole["actionStatus"] = FAILED
    return describe_crate(
        run,
        graph,
        met=(stage.software for sample in batch.samples for stage in sample.stages),
        used=[*inputs, *(graph[_slide_id(status.sample)] for status in batch.samples)],
        actions=actions,
        ended=ended,
        whole=whole,
        about=ABOUT,
    )


def _cohort_files(run: RunRecord, batch: BatchStatus) -> dict[str, str]:
    """What COHORT writes, which gathers slides where any was predicted."""
    is_predicted = any(
        stage.stage == "predict" and stage.outcome == "ok" for sample in batch.samples for stage in sample.stages
    )
    if not run.parameters.get("cohort") or not is_predicted:
        return {}
    return COHORT_FILES | (SIGNATURES if run.parameters.get("signatures") else {})


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
    error = status.stages[-1].error
    return act(
        f"#run/{name}",
        f"Sample {name}",
        used=[slide, *inputs],
        made=results,
        error=f"{status.stages[-1].stage}: {error.message}" if error else None,
    )


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
