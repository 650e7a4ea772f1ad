"""A slide in small, put together from windows that shrink by a whole number."""

from __future__ import annotations

import os

import cv2
import numpy as np

from histocast.errors import DataError
from histocast.slide.reader import Level, Pixels, Reader
from histocast.slide.sweep import sweep_tiles
from histocast.slide.windows import Windows

_WINDOW_PX = 512
# Where more than this share is damaged there is nothing to fill the holes from.
_MAX_DAMAGED = 0.5
_FILL_RADIUS_PX = 3


def make_thumbnail(reader: Reader, *, max_px: int, where: str) -> tuple[Pixels, float]:
    """Return the thumbnail and how many level-0 pixels one of its pixels spans.

    Damaged places are filled from around them: left white they would count as glass, and the tiles there
    would vanish instead of being reported as unreadable.

    Raises
    ------
    DataError
        More than half of the level cannot be decoded.
    """
    number = _choose_level(reader.levels, max_px)
    level = reader.levels[number]
    shrink = -(-max(level.width_px, level.height_px) // max_px)
    side_px = max(1, _WINDOW_PX // shrink)
    rows, columns = (-(-side // (shrink * side_px)) for side in (level.height_px, level.width_px))
    lattice = np.indices((rows, columns)).reshape(2, -1)
    windows = Windows(number, lattice[1] * side_px * shrink, lattice[0] * side_px * shrink, side_px * shrink)
    mosaic = np.empty((rows * side_px, columns * side_px, 3), np.uint8)
    damaged = np.zeros(mosaic.shape[:2], np.uint8)
    threads = len(os.sched_getaffinity(0))
    for batch in sweep_tiles(reader, windows, tile_px=side_px, batch_tiles=64, threads=threads):
        for index, pixels, readable in zip(batch.index, batch.pixels, batch.readable, strict=True):
            top, left = lattice[:, index] * side_px
            mosaic[top : top + side_px, left : left + side_px] = pixels
            damaged[top : top + side_px, left : left + side_px] = not readable
    height, width = -(-level.height_px // shrink), -(-level.width_px // shrink)
    mosaic, damaged = mosaic[:height, :width], damaged[:height, :width]
    share = float(damaged.mean())
    if share > _MAX_DAMAGED:
        raise DataError(
            f"{share:.0%} of the slide's overview cannot be decoded", where=where, advice="copy the slide again"
        )
    filled = cv2.inpaint(mosaic, damaged, _FILL_RADIUS_PX, cv2.INPAINT_TELEA) if share else mosaic
    return np.ascontiguousarray(filled), level.downsample * shrink


def _choose_level(levels: tuple[Level, ...], max_px: int) -> int:
    large = [number for number, level in enumerate(levels) if max(level.width_px, level.height_px) >= max_px]
    return max(large, key=lambda number: levels[number].downsample, default=0)
