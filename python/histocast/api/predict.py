"""The stages of the predict workflow, and all of them for one slide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypedDict

from histocast.errors import ConfigError, OutputError, UsageError

if TYPE_CHECKING:
    from histocast.bundle import Bundle
    from histocast.progress import Clock
    from histocast.records import CheckRecord, SlideRecord
    from histocast.serving.predictor import Predictor
    from histocast.serving.repository import RepositoryOptions
    from histocast.slide import Slide

Facts = dict[str, float | int | str]

FUSION = "fusion"


@dataclass(frozen=True)
class SlideLocation:
    """Where a slide lies, and what the caller knows of it."""

    sample: str
    uri: str
    """Path or ``s3://`` URI."""
    version: str | None = None
    """ETag, or size and time, as CHECK saw it; another one is refused."""
    mpp: float | None = None
    """Micrometres per pixel, where the file does not say or says it wrong."""


def available_threads() -> int:
    """Processors this process may use, which in a container or a job is not the machine's count."""
    return len(os.sched_getaffinity(0))


@contextmanager
def scratch_folder(outdir: Path) -> Iterator[Path]:
    """Yield a folder for large temporary files: ``HISTOCAST_SCRATCH``, else one within ``outdir``."""
    parent = Path(os.environ.get("HISTOCAST_SCRATCH", outdir))
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=".scratch-", dir=parent)
    except OSError as error:
        raise OutputError(
            f"cannot make a folder here: {error.strerror}",
            where=str(parent),
            advice="choose a folder that can be written by --outdir, or for scratch by HISTOCAST_SCRATCH",
        ) from error
    with folder as name:
        yield Path(name)


@contextmanager
def _opened_slide(location: SlideLocation, scratch: Path, clock: Clock) -> Iterator[tuple[Slide, str]]:
    """Yield the slide and the digest of its bytes; opening it counts as waiting for the store."""
    from histocast.slide import open_slide
    from histocast.storage import open_source, sampled_digest

    name = f"slide of sample {location.sample}"
    with open_source(location.uri, version=location.version, name=name) as source:
        with clock.spent("store"):
            digest = sampled_digest(source)
            opened = open_slide(source, sample=location.sample, mpp=location.mpp, scratch=scratch)
        with opened as slide:
            yield slide, digest


@contextmanager
def _opened_predictor(
    folder: Path, bundle: Bundle, *, names: tuple[str, ...], threads: int, scratch: Path, clock: Clock
) -> Iterator[Predictor]:
    """Yield what runs graphs of a bundle, at the place the environment says."""
    from histocast.serving import open_predictor

    with clock.spent("starting"):
        opened = open_predictor(folder, bundle, names=names, threads=threads, **_place(scratch))
    with opened as predictor:
        yield predictor


def fetch_bundle(uri: str, outdir: Path, *, files: tuple[str, ...] | None = None) -> tuple[Path, Bundle]:
    """Return the local folder of a bundle, and the bundle; of an ``s3://`` one only ``files`` are copied.

    Copies are kept under ``HISTOCAST_CACHE`` by digest, else within ``outdir``.
    """
    from histocast.bundle import read_bundle
    from histocast.storage import fetch_bundle as fetch

    cache = Path(os.environ.get("HISTOCAST_CACHE", outdir / ".histocast-cache"))
    folder = fetch(uri, cache, files=files)
    return folder, read_bundle(folder)


def check(
    samplesheet: str, *, bundle: str, outdir: Path, genes: str | None = None, on_slide_error: Literal["fail", "skip"]
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
    with scratch_folder(outdir) as scratch, _opened_slide(location, scratch, Clock()) as (slide, slide_digest):
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
        _opened_slide(location, scratch, clock) as (slide, slide_digest),
        _opened_predictor(folder, read, names=names, threads=threads, scratch=scratch, clock=clock) as predictor,
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
        _opened_predictor(folder, read, names=(FUSION,), threads=threads, scratch=scratch, clock=clock) as predictor,
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


def triton_url() -> str | None:
    """Return where the inference servers are; through the environment, so that moving them keeps the cache."""
    return os.environ.get("HISTOCAST_TRITON_URL") or None


class Place(TypedDict):
    """Where graphs run, as `open_predictor` takes it."""

    triton_url: str | None
    own_server: Path | None


def _place(scratch: Path) -> Place:
    """Where graphs run: on servers, on one of the task's own (``HISTOCAST_SERVING=task``), or in process."""
    serving = os.environ.get("HISTOCAST_SERVING") or "inprocess"
    if serving not in ("inprocess", "task"):
        raise UsageError(f"HISTOCAST_SERVING is {serving!r}", expected="inprocess or task", where="environment")
    return {"triton_url": triton_url(), "own_server": scratch if serving == "task" else None}


def _same_bundle(record: SlideRecord, folder: Path) -> None:
    from histocast.bundle import bundle_digest

    if (found := bundle_digest(folder)) != record.bundle_digest:
        raise UsageError(
            f"bundle {found}",
            expected=f"{record.bundle_digest}, with which the slide was tiled",
            where=f"sample {record.sample}",
            advice="use one bundle for all stages, or run 'histocast tile' again",
        )
