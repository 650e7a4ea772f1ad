"""Verbs of the predict workflow: predict-slide check tile encode predict report summarise provenance."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histocast.cli import options
from histocast.errors import DataError, StaleInputError

if TYPE_CHECKING:
    from histocast.records import Stage, Verdict
    from histocast.stages.environment import Facts


class OnSlideError(StrEnum):
    """What a slide that cannot be processed does to the run."""

    fail = "fail"
    skip = "skip"


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (predict_slide, check, tile, encode, predict, report, summarise, provenance):
        app.command()(verb)


def predict_slide(
    slide: Annotated[str, typer.Argument(help="Path or s3:// URI of the slide.")],
    *,
    bundle: options.BundleUri,
    sample: Annotated[str, typer.Option(help="Name in the outputs; a file name can hold a patient's name.")] = "slide",
    mpp: options.Mpp = None,
    spots: options.Spots = None,
    genes: options.Genes = None,
    outdir: options.Outdir = Path(),
) -> None:
    """Predict one slide from start to finish, without Nextflow."""
    from histocast.stages.predict_slide import predict_slide as run_predict_slide

    written = run_predict_slide(slide, bundle=bundle, outdir=outdir, sample=sample, mpp=mpp, spots=spots, genes=genes)
    for path in (written, *(written.with_suffix(suffix) for suffix in (".parquet", ".html"))):
        typer.echo(path)


def check(
    *,
    samplesheet: Annotated[str, typer.Option("--input", help="Samplesheet CSV: sample,slide[,mpp][,spots].")],
    bundle: options.BundleUri,
    genes: options.Genes = None,
    report_genes: options.ReportGenes = None,
    on_slide_error: Annotated[OnSlideError, typer.Option(help="Whether a missing slide fails the sheet.")] = (
        OnSlideError.fail
    ),
    allow_metadata: Annotated[
        str | None,
        typer.Option(
            help="Columns of metadata, with commas between them, that are taken although their names suggest an identifier "
            "of a person."
        ),
    ] = None,
    outdir: options.Outdir = Path(),
) -> None:
    """Check the samplesheet, the bundle and the gene panel.

    Writes samples.json.
    """
    from histocast.progress import log
    from histocast.stages.check import check as run_check

    record = run_check(
        samplesheet,
        bundle=bundle,
        genes=genes,
        report_genes=report_genes,
        on_slide_error=on_slide_error.value,
        allow_metadata=allow_metadata,
        outdir=outdir,
    )
    log(f"check: {len(record.samples)} samples, bundle {record.bundle_digest[:19]}")


def tile(
    *,
    sample: options.Sample,
    slide: options.Slide,
    bundle: options.BundleUri,
    version: options.Version = None,
    mpp: options.Mpp = None,
    spots: options.Spots = None,
    outdir: options.Outdir = Path(),
    record_errors: options.RecordErrors = False,
) -> None:
    """Find tissue and place tiles on it.

    Writes slide.json, tiles.parquet, thumbnail.png and tissue.png.
    """
    from histocast.stages.environment import SlideLocation
    from histocast.stages.tile import tile as run_tile

    location = SlideLocation(sample, slide, version=version, mpp=mpp)
    _run_stage(
        "tile",
        sample,
        outdir,
        lambda: run_tile(location, bundle=bundle, spots=spots, outdir=outdir),
        record_errors=record_errors,
    )


def encode(
    *,
    slide: options.Slide,
    slide_record: options.SlideRecordFile,
    tiles: options.Tiles,
    bundle: options.BundleUri,
    version: options.Version = None,
    mpp: options.Mpp = None,
    max_unreadable: Annotated[
        float, typer.Option(min=0, max=1, help="Share of unreadable tiles above which the slide fails.")
    ] = 0.05,
    threads: options.Threads = None,
    outdir: options.Outdir = Path(),
    record_errors: options.RecordErrors = False,
) -> None:
    """Run the encoders over all tiles: features.parquet."""
    from histocast.records import SlideRecord, read_record
    from histocast.stages.encode import encode as run_encode
    from histocast.stages.environment import SlideLocation

    record = read_record(slide_record, SlideRecord)
    location = SlideLocation(record.sample, slide, version=version, mpp=mpp)
    _run_stage(
        "encode",
        record.sample,
        outdir,
        lambda: run_encode(
            location,
            record=record,
            tiles=tiles,
            bundle=bundle,
            outdir=outdir,
            max_unreadable=max_unreadable,
            threads=threads,
        ),
        record_errors=record_errors,
    )


def predict(
    *,
    slide_record: options.SlideRecordFile,
    tiles: options.Tiles,
    features: Annotated[Path, typer.Option(help="features.parquet of 'encode'.")],
    thumbnail: options.Thumbnail,
    bundle: options.BundleUri,
    genes: options.Genes = None,
    threads: options.Threads = None,
    outdir: options.Outdir = Path(),
) -> None:
    """Predict expression from features.

    Writes <sample>.h5ad and <sample>.parquet.
    """
    from histocast.records import SlideRecord, read_record
    from histocast.stages.predict import predict as run_predict

    record = read_record(slide_record, SlideRecord)
    _run_stage(
        "predict",
        record.sample,
        outdir,
        lambda: run_predict(
            record=record,
            tiles=tiles,
            features=features,
            thumbnail=thumbnail,
            bundle=bundle,
            genes=genes,
            threads=threads,
            outdir=outdir,
        ),
    )


def report(
    *,
    expression: Annotated[Path, typer.Option(help="<sample>.h5ad of 'predict'.")],
    slide_record: options.SlideRecordFile,
    tiles: options.Tiles,
    thumbnail: options.Thumbnail,
    tissue: Annotated[Path, typer.Option(help="tissue.png of 'tile'.")],
    report_genes: options.ReportGenes = None,
    outdir: options.Outdir = Path(),
) -> None:
    """Write the page of one sample: <sample>.html."""
    from histocast.records import SlideRecord, read_record
    from histocast.stages.report import report as run_report

    record = read_record(slide_record, SlideRecord)

    _run_stage(
        "report",
        record.sample,
        outdir,
        lambda: run_report(
            expression=expression,
            record=record,
            tiles=tiles,
            thumbnail=thumbnail,
            tissue=tissue,
            report_genes=report_genes,
            outdir=outdir,
        ),
    )


def summarise(
    *,
    samples: Annotated[Path, typer.Option(help="samples.json of 'check'.")],
    status: Annotated[list[Path], typer.Option(help="A <stage>.status.json, or a folder of them; give it often.")],
    outdir: options.Outdir = Path(),
) -> None:
    """Account for every row of the samplesheet.

    Writes summary.html, summary.parquet, outcomes.json and <sample>/status.json. Prints one line for each sample that
    failed.
    """
    from histocast.records import CheckRecord, StatusRecord, read_record
    from histocast.stages.summarise import summarise as write_summary

    files = [file for path in status for file in (sorted(path.rglob("*.status.json")) if path.is_dir() else [path])]
    records = [read_record(file, StatusRecord) for file in files]
    for result in write_summary(read_record(samples, CheckRecord), records, outdir=outdir):
        for stage in result.stages:
            if stage.error:
                typer.echo(f"{result.sample}, {stage.stage}: {stage.error.message.splitlines()[0]}")


def provenance(
    *,
    run: Annotated[Path, typer.Option(help="run.json: what the workflow engine knows of the run.")],
    samples: Annotated[Path, typer.Option(help="samples.json of 'check'.")],
    outcomes: Annotated[Path, typer.Option(help="outcomes.json of 'summarise'.")],
    outdir: options.Outdir = Path(),
) -> None:
    """Describe a run and its results as an RO-Crate.

    Writes provenance.json.
    """
    from datetime import UTC, datetime

    from histocast.artifacts import write_json
    from histocast.records import BatchStatus, CheckRecord, RunRecord, read_record
    from histocast.stages.provenance import describe_run

    crate = describe_run(
        read_record(run, RunRecord),
        check=read_record(samples, CheckRecord),
        batch=read_record(outcomes, BatchStatus),
        ended=datetime.now(UTC),
    )
    write_json(outdir / "provenance.json", crate)


def _run_stage(
    stage: Stage,
    sample: str,
    outdir: Path,
    work: Callable[[], Facts | tuple[Facts, Verdict]],
    *,
    record_errors: bool = False,
) -> None:
    """Do a stage's work and write how it ended, with the verdict where ``work`` returns one.

    With ``record_errors`` a fault of the slide or of its spots is written down as well, and is no failure of the verb: a
    `DataError` that is no `StaleInputError`. Every other error can be the fault of a machine, and is raised.
    """
    from histocast.artifacts import write_json
    from histocast.foreign_errors import machine_fault_behind
    from histocast.progress import log
    from histocast.records import StageError, StatusRecord
    from histocast.software import software_versions

    started_s = time.monotonic()
    path = outdir / f"{stage}.status.json"
    software = software_versions()
    try:
        done = work()
    except DataError as error:
        if not record_errors or isinstance(error, StaleInputError) or machine_fault_behind(error):
            raise
        cause = StageError.from_exception(error)
        failure = StatusRecord(sample=sample, stage=stage, outcome="failed", error=cause, software=software)
        write_json(path, failure)
        log(f"{stage} {sample}: failed, recorded in {path.name}\n{error.message}")
        return
    facts, verdict = done if isinstance(done, tuple) else (done, None)
    facts = {**facts, "seconds": round(time.monotonic() - started_s, 3)}
    write_json(
        path,
        StatusRecord(sample=sample, stage=stage, outcome="ok", facts=facts, software=software, verdict=verdict),
    )
    log(f"{stage} {sample}: done in {facts['seconds']} s{f': {verdict.headline}' if verdict else ''}")
