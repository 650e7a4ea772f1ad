"""The pixels of a section's tiles in one file, for a method that trains its encoder.

``pixels.npy`` is uint8 [tile, tile_px, tile_px, 3], a row a tile in tissue in the order of ``tiles.parquet``. It is
mapped into memory, never read whole: 150 KB a tile of 224 px.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histocast.artifacts import PIXELS_FILE, write_atomically
from histocast.bundle import TileGeometry
from histocast.encode.encode import BATCH_TILES, read_centres, stopped
from histocast.errors import OutputError
from histocast.progress import Meter
from histocast.records import SlideRecord

if TYPE_CHECKING:
    from histocast.slide import Slide


def keep_pixels(
    slide: Slide, *, record: SlideRecord, tiles: Path, geometry: TileGeometry, outdir: Path, threads: int
) -> None:
    """Write ``pixels.npy``; a tile that cannot be read is black, and its features say so.

    Parameters
    ----------
    slide:
        Where the pixels come from.
    record:
        What TILE said of the slide.
    tiles:
        ``tiles.parquet``.
    geometry:
        Of a tile.

    Raises
    ------
    DataError
        The tiles are another slide's.
    OutputError
        The disk has no room.
    """
    tile_id, centres_level0_px = read_centres(tiles, record)
    side = geometry.tile_px
    shape = (len(tile_id), side, side, 3)
    batches = slide.read_tiles(
        centres_level0_px, tile_px=side, um_per_px=geometry.um_per_px, batch_tiles=BATCH_TILES, threads=threads
    )
    with (
        write_atomically(outdir / PIXELS_FILE) as temporary,
        Meter(f"keep pixels {record.sample}", total=len(tile_id)) as meter,
        stopped(batches),
    ):
        _reserve(temporary, shape)
        kept = np.load(temporary, mmap_mode="r+")
        for batch in batches:
            kept[batch.index] = batch.pixels
            meter.advance(len(batch.index))
        kept.flush()


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """Write the header and take all the room: writing a memory map to a full disk ends the process by a signal."""
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        )
        size_bytes = int(np.prod(shape, dtype=np.int64))
        if size_bytes == 0:
            return
        try:
            os.posix_fallocate(stream.fileno(), stream.tell(), size_bytes)
        except OSError as error:
            raise OutputError(
                f"no room for {size_bytes / 1e9:.2f} GB of pixels: {error.strerror or error}",
                where=str(path.parent),
                advice="make room, or prepare without --keep-pixels",
            ) from error
