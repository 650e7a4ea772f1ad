"""Writes strips as a tiled pyramidal TIFF that OpenSlide and libtiff read, without holding the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import write_atomically

TILE_PX = 256
LEVEL_RATIO = 4
LEVELS = 3
JPEG_QUALITY = 82
UM_PER_CM = 10_000.0

Canvas = NDArray[np.uint8]


def _cut_tiles(strips: Iterable[Canvas]) -> Iterator[Canvas]:
    """Tiles in row-major order; strips must be `TILE_PX` high but for the last."""
    for strip in strips:
        for left in range(0, strip.shape[1], TILE_PX):
            yield strip[:, left : left + TILE_PX]


def _keep_reduced(strips: Iterable[Canvas], reduced: list[Canvas]) -> Iterator[Canvas]:
    """Pass strips on, and keep each one reduced by `LEVEL_RATIO`: a sixteenth of the pixels."""
    for strip in strips:
        size = (strip.shape[1] // LEVEL_RATIO, strip.shape[0] // LEVEL_RATIO)
        if size[1]:
            reduced.append(np.asarray(cv2.resize(strip, size, interpolation=cv2.INTER_AREA), np.uint8))
        yield strip


def _rows_of(image: Canvas) -> Iterator[Canvas]:
    for top in range(0, image.shape[0], TILE_PX):
        yield image[top : top + TILE_PX]


def write_pyramid(
    path: Path, strips: Iterable[Canvas], *, width_px: int, height_px: int, um_per_px: float, threads: int = 2
) -> None:
    """Write a pyramid of `LEVELS` levels, JPEG in tiles, with its resolution in the TIFF tags.

    Parameters
    ----------
    path:
        Where the TIFF appears once it is whole.
    strips:
        uint8 RGB [row, column, 3], `TILE_PX` rows each but the last, from the top.
    width_px, height_px:
        Size of level 0.
    um_per_px:
        Resolution of level 0.
    threads:
        Threads that compress tiles while the caller paints.

    Raises
    ------
    OutputError
        The folder cannot be written or the disk is full.
    """
    import tifffile

    def options(ratio: float) -> dict[str, Any]:
        pixels_per_cm = UM_PER_CM / (um_per_px * ratio)
        return {
            "dtype": np.uint8,
            "tile": (TILE_PX, TILE_PX),
            # Compressed as YCbCr, which the tags then say.
            "photometric": "rgb",
            "subsampling": (2, 2),
            "compression": "jpeg",
            "compressionargs": {"level": JPEG_QUALITY},
            "resolution": (pixels_per_cm, pixels_per_cm),
            "resolutionunit": "CENTIMETER",
            "metadata": None,
            "software": "histocast demo-data",
            "maxworkers": threads,
        }

    with write_atomically(path) as temporary, tifffile.TiffWriter(temporary) as writer:
        shape = (height_px, width_px, 3)
        for level in range(LEVELS):
            reduced: list[Canvas] = []
            tiles = _cut_tiles(_keep_reduced(strips, reduced))
            writer.write(tiles, shape=shape, subfiletype=1 if level else 0, **options(width_px / shape[1]))
            image = np.concatenate(reduced)
            shape, strips = image.shape, _rows_of(image)
