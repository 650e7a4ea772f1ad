"""The stages of the predict workflow, and all of them for one slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from histocast.api.surroundings import (
    FUSION,
    SlideLocation,
    fetch_bundle,
    opened_predictor,
    opened_slide,
    triton_url,
)
from histocast.errors import ConfigError, UsageError
from histocast.processors import available_threads
from histocast.scratch import scratch_folder

if TYPE_CHECKING:
    from histocast.records import CheckRecord, SlideRecord
    from histocast.serving.repository import RepositoryOptions

Facts = dict[str, float | int | str]


def check(
    samplesheet: str,
    *,
    bundle: str,
    outdir: Path,
    genes: str | None = None,
    report_genes: str | None = None,
    on_slide_error: Literal["fail", "skip"],
) -> CheckRecord:
    """Judge a samplesheet, a bundle and a gene panel; write ``samples.json``."""
    from histocast.artifacts import write_json
    from histocast.check import check_samples
    from histocast.storage import fetch_file

    with scratch_folder(outdir) as scratch:
        folder, _ = fetch_bundle(bundle, outdir)
        panel = fetch_file(genes, scratch) if genes else None
        record = check_samples(
            samplesheet,
            bundle_folder=folder,
            genes=panel,
            report_genes=report_genes,
            on_slide_error=on_slide_error,
            triton_url=triton_url(),
        )
    write_json(outdir / "samples.json", record)
    return record


def tile(location: SlideLocation, *, bundle: str, outdir: Path, spots: str | None = None) -> Facts:
    """Find tissue and lay tiles: ``slide.json``, ``tiles.parquet``, ``thumbnail.png``, ``tissue.png``."""
    from histocast.bundle import bundle_digest
    from histocast.progress import Clock
    from histocast.storage import fetch_file
    from histocast.tiles import tile_slide

    folder, read = fetch_bundle(bundle, outdir, files=("bundle.json",))
    with scratch_folder(outdir) as scratch, opened_slide(location, scratch, Clock()) as (slide, slide_digest):
        record = tile_slide(
            slide,
            sample=location.sample,
            geometry=read.geometry,
            spots=fetch_file(spots, scratch) if spots else None,
            slide_digest=slide_digest,
            bundle_digest=bundle_digest(folder),
            outdir=outdir,
        )
    return {
        "tiles": record.tile_count,
        "tissue_area_mm2": record.tissue_area_mm2,
        "reader": record.reader,
        "slide_digest": slide_digest,
    }


def encode(
    location: SlideLocation,
    *,
    record: SlideRecord,
    tiles: Path,
    bundle: str,
    outdir: Path,
    max_unreadable: float = 0.05,
    threads: int | None = None,
) -> Facts:
    """Run every encoder over every tile in tissue: ``features.parquet``."""
    from histocast.encode import encode_tiles
    from histocast.progress import Clock

    clock = Clock()
    with clock.spent("store"):
        folder, read = fetch_bundle(bundle, outdir)
    _same_bundle(record, folder)
    threads = threads or available_threads()
    names = tuple(encoder.name for encoder in read.encoders)
    with (
        scratch_folder(outdir) as scratch,
        opened_slide(location, scratch, clock) as (slide, slide_digest),
        opened_predictor(folder, read, names=names, threads=threads, scratch=scratch, clock=clock) as predictor,
    ):
        if slide_digest != record.slide_digest:
            raise ConfigError(
                f"a slide with digest {slide_digest}",
                expected=record.slide_digest,
                where=f"sample {record.sample}",
                advice="the slide changed since it was tiled: run 'histocast tile' again",
            )
        return encode_tiles(
            slide,
            record=record,
            tiles=tiles,
            bundle=read,
            predictor=predictor,
            outdir=outdir,
            max_unreadable=max_unreadable,
            threads=threads,
            clock=clock,
        )


def predict(
    *,
    record: SlideRecord,
    tiles: Path,
    features: Path,
    thumbnail: Path,
    bundle: str,
    outdir: Path,
    genes: str | None = None,
    threads: int | None = None,
) -> Facts:
    """Turn features into expression: ``<sample>.h5ad`` and ``<sample>.parquet``."""
    from histocast.bundle import sha256_of_file
    from histocast.expression import predict_expression
    from histocast.progress import Clock
    from histocast.storage import fetch_file

    clock = Clock()
    with clock.spent("store"):
        folder, read = fetch_bundle(bundle, outdir)
    _same_bundle(record, folder)
    threads = threads or available_threads()
    with (
        scratch_folder(outdir) as scratch,
        opened_predictor(folder, read, names=(FUSION,), threads=threads, scratch=scratch, clock=clock) as predictor,
    ):
        with clock.spent("store"):
            panel = fetch_file(genes, scratch) if genes else None
        facts = predict_expression(
            record=record,
            tiles=tiles,
            features=features,
            thumbnail=thumbnail,
            bundle_folder=folder,
            bundle=read,
            predictor=predictor,
            genes=panel,
            scratch=scratch,
            outdir=outdir,
            clock=clock,
        )
        files = {kind: outdir / f"{record.sample}.{kind}" for kind in ("h5ad", "parquet")}
        return {**facts, **{f"{kind}_sha256": sha256_of_file(path) for kind, path in files.items()}}


def write_model_repository(bundle: str, *, outdir: Path, options: RepositoryOptions) -> list[str]:
    """Add a bundle's graphs to a model repository for inference servers; return the models' names."""
    from histocast.serving.repository import write_repository
    from histocast.serving.verify import verify_bundle

    with scratch_folder(outdir) as scratch:
        folder, _ = fetch_bundle(bundle, scratch)
        return write_repository(folder, verify_bundle(folder), outdir, options=options)


def predict_slide(
    slide: str | Path,
    *,
    bundle: str | Path,
    outdir: str | Path,
    sample: str | None = None,
    mpp: float | None = None,
    spots: str | Path | None = None,
    genes: str | Path | None = None,
) -> Path:
    """Predict one slide from start to finish, in this process.

    Parameters
    ----------
    slide:
        Path or ``s3://`` URI.
    bundle:
        Folder or ``s3://`` prefix of a bundle.
    outdir:
        Folder for every artifact; the results are ``<sample>.h5ad``, ``.parquet`` and ``.html``.
    sample:
        Name in the outputs; ``slide`` where none is given, since a file name can hold an accession number.
    mpp:
        Micrometres per pixel, where the file does not say.
    spots:
        Table of measured spots; a grid is laid where it is absent.
    genes:
        File with a gene a line, each of the bundle's; or ``genes.parquet`` of ``histocast genes embed``, for genes
        that the bundle need not know. All genes of the bundle by default.

    Returns
    -------
    Path
        The AnnData file.

    Raises
    ------
    HistocastError
        See `histocast.errors`.
    """
    from histocast.records import SlideRecord, read_record
    from histocast.report import report_sample

    outdir, bundle = Path(outdir), str(bundle)
    location = SlideLocation(sample or "slide", str(slide), mpp=mpp)
    tile(location, bundle=bundle, outdir=outdir, spots=str(spots) if spots else None)
    record = read_record(outdir / "slide.json", SlideRecord)
    tiles, thumbnail = outdir / "tiles.parquet", outdir / "thumbnail.png"
    encode(location, record=record, tiles=tiles, bundle=bundle, outdir=outdir)
    predict(
        record=record,
        tiles=tiles,
        features=outdir / "features.parquet",
        thumbnail=thumbnail,
        bundle=bundle,
        outdir=outdir,
        genes=str(genes) if genes else None,
    )
    expression = outdir / f"{location.sample}.h5ad"
    report_sample(
        expression=expression,
        record=record,
        tiles=tiles,
        thumbnail=thumbnail,
        tissue=outdir / "tissue.png",
        outdir=outdir,
    )
    return expression


def _same_bundle(record: SlideRecord, folder: Path) -> None:
    from histocast.bundle import bundle_digest

    if (found := bundle_digest(folder)) != record.bundle_digest:
        raise UsageError(
            f"bundle {found}",
            expected=f"{record.bundle_digest}, with which the slide was tiled",
            where=f"sample {record.sample}",
            advice="use one bundle for all stages, or run 'histocast tile' again",
        )
