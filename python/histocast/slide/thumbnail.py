"""A slide in small, put together from windows that shrink by a whole number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.resources import available_threads
from histocast.slide.reader import Level, Pixels, Reader
from histocast.slide.sweep import sweep_tiles
from histocast.slide.windows import Windows

# Large windows spare overhead; where one of them touches damage it is read again in small ones.
_WINDOW_PX = 512
_SMALL_WINDOW_PX = 32
_MAX_DAMAGED = 0.5
_BATCH_TILES = 64


UNREADABLE_GREY = 128
"""What could not be read is drawn in this grey, which neither glass nor stained tissue has."""


@dataclass(frozen=True)
class Overview:
    """A slide in small."""

    pixels: Pixels
    """RGB uint8 [row, column, 3]; `UNREADABLE_GREY` where it could not be read."""
    unreadable: NDArray[np.bool_]
    """[row, column]."""
    downsample: float
    """Level-0 pixels that one of its pixels spans."""


def make_overview(reader: Reader, *, max_px: int, where: str) -> Overview:
    """Return the slide in small, at most ``max_px`` along its longer side.

    Raises `DataError`: more than half of the level cannot be decoded.
    """
    number = _choose_level(reader.levels, max_px)
    level = reader.levels[number]
    shrink = -(-max(level.width_px, level.height_px) // max_px)
    height, width = -(-level.height_px // shrink), -(-level.width_px // shrink)
    pixels = np.full((height, width, 3), UNREADABLE_GREY, np.uint8)
    damaged = np.ones((height, width), bool)
    reasons: Counter[str] = Counter()
    for window_px in (_WINDOW_PX, _SMALL_WINDOW_PX):
        side_px = max(1, window_px // shrink)
        reasons = _paint_damaged(pixels, damaged, reader, number=number, shrink=shrink, side_px=side_px)
        if not damaged.any():
            break
    if (share := float(damaged.mean())) > _MAX_DAMAGED:
        mostly = "".join(f": {reason}" for reason, _ in reasons.most_common(1))
        raise DataError(
            f"{share:.0%} of the slide's overview cannot be decoded{mostly}",
            where=where,
            advice="copy the slide again, and where that does not help export it anew",
        )
    return Overview(pixels, damaged, level.downsample * shrink)


def _paint_damaged(
    pixels: Pixels, damaged: NDArray[np.bool_], reader: Reader, *, number: int, shrink: int, side_px: int
) -> Counter[str]:
    """Read every square of ``side_px`` that is damaged still, and mark as sound what can be decoded.

    Returns why the others cannot.
    """
    reasons: Counter[str] = Counter()
    height, width = damaged.shape
    corners = np.mgrid[0:height:side_px, 0:width:side_px].reshape(2, -1)
    tops, lefts = corners[:, [damaged[top : top + side_px, left : left + side_px].any() for top, left in corners.T]]
    windows = Windows(number, lefts * shrink, tops * shrink, side_px * shrink)
    threads = available_threads()
    for batch in sweep_tiles(reader, windows, tile_px=side_px, batch_tiles=_BATCH_TILES, threads=threads):
        for index, tile, readable in zip(batch.index, batch.pixels, batch.readable, strict=True):
            if readable:
                top, left = tops[index], lefts[index]
                rows, columns = min(side_px, height - top), min(side_px, width - left)
                pixels[top : top + rows, left : left + columns] = tile[:rows, :columns]
                damaged[top : top + rows, left : left + columns] = False
        reasons.update(batch.reasons.values())
    return reasons


def _choose_level(levels: tuple[Level, ...], max_px: int) -> int:
    large = [number for number, level in enumerate(levels) if max(level.width_px, level.height_px) >= max_px]
    return max(large, key=lambda number: levels[number].downsample, default=0)
