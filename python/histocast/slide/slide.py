"""An opened slide: what it is, its thumbnail, and tiles of a physical size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.foreign_errors import machine_fault_behind
from histocast.records import LevelRecord
from histocast.slide.colour import check_has_colour
from histocast.slide.companions import refuse_unread
from histocast.slide.reader import CannotOpen, OpenReader, Pixels, Reader
from histocast.slide.store_wait import StoreWait
from histocast.slide.windows import choose_level, place_windows
from histocast.storage import Source
from histocast.units import check_um_per_px

if TYPE_CHECKING:
    from histocast.slide.batches import TileBatch
    from histocast.slide.thumbnail import Overview

# Asked in this order: fast and exact first, then complete, then whole images. A module is imported only when
# its turn comes.
READERS = ("histocast.slide.tiff", "histocast.slide.openslide", "histocast.slide.image")

Centres = NDArray[np.float64]


@dataclass(frozen=True)
class SlideFacts:
    """The facts of a slide that may stand in an artifact."""

    reader: str
    """Which reader opened it: ``tiff``, ``openslide`` or ``image``."""
    width_px: int
    """Of level 0."""
    height_px: int
    levels: tuple[LevelRecord, ...]
    um_per_px: float
    """Of level 0."""
    um_per_px_source: Literal["file", "samplesheet"]
    file_um_per_px: float | None
    """What the file itself says of level 0."""
    vendor: str | None
    objective_power: float | None


class Slide:
    """One slide. Use as a context manager; one thread at a time."""

    def __init__(self, reader: Reader, *, facts: SlideFacts, where: str) -> None:
        self.facts = facts
        self._reader = reader
        self._where = where
        self._store_wait = StoreWait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the reader; the source stays open."""
        self._reader.close()

    @property
    def waited_on_store_s(self) -> float:
        """Seconds until now in which `read_tiles` had nothing to decode, because stored bytes were not there yet.

        Readers that read by themselves, as OpenSlide does, count as decoding.
        """
        return self._store_wait.seconds

    def thumbnail(self, max_px: int = 2048) -> tuple[Pixels, float]:
        """Return the slide in small, and its resolution.

        It is made from the pyramid: the associated thumbnail can be of another crop, and label and macro
        show the patient's name.

        ``max_px``: most pixels along the longer side.
        Returns: RGB uint8 [row, column, 3], and um per pixel. Pixel (row 0, column 0) begins at the slide's origin; the
            last row and column may reach beyond its edge, in white. What could not be read is grey.
        Raises `DataError`: most of it cannot be decoded, or it is black and white.
        """
        overview = self.overview(max_px)
        return overview.pixels, self.facts.um_per_px * overview.downsample

    def overview(self, max_px: int = 2048) -> Overview:
        """Return the slide in small, as `thumbnail`, and which of its pixels could not be read."""
        from histocast.slide.thumbnail import make_overview

        overview = make_overview(self._reader, max_px=max_px, where=self._where)
        # What could not be read is drawn grey, which is no colour of the slide.
        seen = np.where(overview.unreadable[..., None], np.uint8(255), overview.pixels)
        check_has_colour(seen, where=self._where)
        return overview

    def read_tiles(
        self,
        centres_level0_px: Centres,
        *,
        tile_px: int,
        um_per_px: float,
        batch_tiles: int = 64,
        threads: int,
    ) -> Iterator[TileBatch]:
        """Yield tiles of a physical size around points, in the reader's order.

        The coarsest level at least as fine as ``um_per_px`` is read; the window of whole pixels nearest to
        the tile's place is cut out and resized by area. What lies outside the slide is white.

        ``centres_level0_px``: (x, y) [tile, 2] in level-0 pixels.
        ``tile_px``: side of a tile.
        ``um_per_px``: resolution of a tile.
        ``batch_tiles``: tiles in a batch; the last one may hold fewer.
        ``threads``: threads that decode and cut.
        Raises `DataError`: the slide is more than twice as coarse as requested, or was overwritten meanwhile;
        `StorageUnavailable`: the store did not answer, also after retries.
        """
        from histocast.slide.sweep import read_ahead

        centres = np.asarray(centres_level0_px, dtype=np.float64).reshape(-1, 2)
        number = choose_level(
            self._reader.levels,
            slide_um_per_px=self.facts.um_per_px,
            requested_um_per_px=um_per_px,
            where=self._where,
        )
        extent_level0_px = tile_px * um_per_px / self.facts.um_per_px
        windows = place_windows(centres, self._reader.levels[number], number=number, extent_level0_px=extent_level0_px)
        return read_ahead(
            self._reader,
            windows,
            tile_px=tile_px,
            batch_tiles=batch_tiles,
            threads=threads,
            store_wait=self._store_wait,
        )


def open_slide(source: Source, *, sample: str, mpp: float | None, scratch: Path) -> Slide:
    """Open a slide with the first reader that can.

    Parameters
    ----------
    source:
        The slide's bytes. Its errors name it by its sample from here on.
    sample:
        Name of the sample.
    mpp:
        Micrometres per pixel of level 0 from the samplesheet, which wins over the file's own.
    scratch:
        Folder for a copy of a remote slide, where one is needed.

    Raises
    ------
    DataError
        No reader can open it, or nobody states its resolution, or states an impossible one.
    MissingInputError, StorageUnavailable
        As for `Source.stat`.
    """
    where = source.name = f"slide of sample {sample}"
    reader = _open_reader(source, scratch=scratch, where=where)
    try:
        facts = _describe(reader, mpp=mpp, where=where)
    except DataError:
        reader.close()
        raise
    return Slide(reader, facts=facts, where=where)


def _open_reader(source: Source, *, scratch: Path, where: str) -> Reader:
    if source.stat().size_bytes == 0:
        raise DataError("the file is empty", expected="a slide", where=where, advice="copy the slide again")
    refuse_unread(source.uri, name=where)
    reasons = []
    for module in READERS:
        opener: OpenReader = import_module(module).open_reader
        try:
            return opener(source, scratch=scratch)
        except CannotOpen as reason:
            if fault := machine_fault_behind(reason):
                raise fault from reason
            reasons.append(f"{module.rpartition('.')[2]}: {reason}")
    raise DataError(
        f"no reader can open it ({'; '.join(reasons)})",
        expected="a whole-slide image, or a plain TIFF, JPEG or PNG",
        where=where,
        advice="check that the file is complete and is what its name says; copy it again if it was cut off",
    )


def _describe(reader: Reader, *, mpp: float | None, where: str) -> SlideFacts:
    metadata, levels = reader.metadata, reader.levels
    stated = mpp if mpp is not None else metadata.um_per_px
    if stated is None:
        unused = f": {metadata.unused_resolution}" if metadata.unused_resolution else ""
        raise DataError(
            f"the file does not state its resolution{unused}",
            expected="micrometres per pixel",
            where=where,
            advice="fill the samplesheet column 'mpp'",
        )
    return SlideFacts(
        reader=reader.name,
        width_px=levels[0].width_px,
        height_px=levels[0].height_px,
        levels=tuple(
            LevelRecord(width_px=level.width_px, height_px=level.height_px, downsample=level.downsample)
            for level in levels
        ),
        um_per_px=check_um_per_px(stated, where=where),
        um_per_px_source="file" if mpp is None else "samplesheet",
        file_um_per_px=metadata.um_per_px,
        vendor=metadata.vendor,
        objective_power=metadata.objective_power,
    )
