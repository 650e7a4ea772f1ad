"""The environment of a task: the slide, the bundle and the predictor that a stage works with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from histocast.errors import DataError, UsageError

if TYPE_CHECKING:
    from histocast.bundle import Bundle
    from histocast.inference.predictor import Predictor
    from histocast.progress import Clock
    from histocast.records import SlideRecord
    from histocast.slide import Slide


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


@contextmanager
def opened_slide(location: SlideLocation, scratch: Path, clock: Clock) -> Iterator[tuple[Slide, str]]:
    """Yield the slide and the digest of its bytes, companions included; opening it counts as waiting for the store.

    Raises `DataError`: of the block or of opening the slide, which can still be read then; `MissingInputError` or
    `StorageUnavailable`: as for `Source.stat`, also in place of a `DataError` where the slide can no longer be read: a
    library that reads by itself takes a mount that vanished for damage.
    """
    from histocast.slide import open_slide
    from histocast.slide.companions import slide_digest
    from histocast.storage import open_source, sampled_digest

    name = f"slide of sample {location.sample}"
    try:
        with open_source(location.uri, version=location.version, name=name) as source:
            with clock.spent("store"):
                digest = slide_digest(source)
                opened = open_slide(source, sample=location.sample, mpp=location.mpp, scratch=scratch)
            with opened as slide:
                yield slide, digest
    except DataError:
        with open_source(location.uri, version=location.version, name=name) as again:
            sampled_digest(again)
        raise


@contextmanager
def opened_predictor(
    folder: Path, bundle: Bundle, *, names: tuple[str, ...], threads: int, scratch: Path, clock: Clock
) -> Iterator[Predictor]:
    """Yield what runs graphs of a bundle, at the place the environment says.

    A server of the task's own is started for encoders alone: the fusion graph is small, and PREDICT has no GPU.
    """
    from histocast.inference import open_predictor

    with clock.spent("starting"):
        opened = open_predictor(folder, bundle, names=names, threads=threads, **_place(scratch, names))
    with opened as predictor:
        yield predictor


def fetch_bundle(uri: str, outdir: Path, *, files: tuple[str, ...] | None = None) -> tuple[Path, Bundle]:
    """Return the local folder of a bundle, and the bundle; of an ``s3://`` one only ``files`` are copied.

    Copies are kept by digest: under ``HISTOCAST_CACHE``, which tasks of a machine may share and which holds at most
    ``HISTOCAST_CACHE_GB`` (20), else within ``outdir``.
    """
    from histocast.bundle import read_bundle
    from histocast.storage import fetch_bundle as fetch

    if shared := os.environ.get("HISTOCAST_CACHE"):
        folder = fetch(uri, Path(shared), files=files, limit_bytes=_cache_limit_bytes())
    else:
        folder = fetch(uri, outdir / ".histocast-cache", files=files)
    return folder, read_bundle(folder)


def _cache_limit_bytes() -> int:
    given = os.environ.get("HISTOCAST_CACHE_GB") or "20"
    try:
        limit_gb = float(given)
    except ValueError:
        limit_gb = 0.0
    if not 0 < limit_gb < float("inf"):
        raise UsageError(f"HISTOCAST_CACHE_GB is {given!r}", expected="gigabytes, more than 0", where="environment")
    return int(limit_gb * 1e9)


def triton_url() -> str | None:
    """Return where the inference servers are; through the environment, so that moving them keeps the cache."""
    return os.environ.get("HISTOCAST_TRITON_URL") or None


class Place(TypedDict):
    """Where graphs run, as `open_predictor` takes it."""

    triton_url: str | None
    own_server: Path | None


def _place(scratch: Path, names: tuple[str, ...]) -> Place:
    """Where graphs run: on servers, on one of the task's own (``HISTOCAST_SERVING=task``), or in process."""
    serving = os.environ.get("HISTOCAST_SERVING") or "inprocess"
    if serving not in ("inprocess", "task"):
        raise UsageError(f"HISTOCAST_SERVING is {serving!r}", expected="inprocess or task", where="environment")
    return {"triton_url": triton_url(), "own_server": scratch if serving == "task" and names != (FUSION,) else None}


def refuse_other_bundle(record: SlideRecord, folder: Path) -> None:
    """Raise `UsageError` where a slide was tiled with another bundle."""
    from histocast.bundle import bundle_digest

    if (found := bundle_digest(folder)) != record.bundle_digest:
        raise UsageError(
            f"bundle {found}",
            expected=f"{record.bundle_digest}, with which the slide was tiled",
            where=f"sample {record.sample}",
            advice="use one bundle for all stages, or run 'histocast tile' again",
        )
