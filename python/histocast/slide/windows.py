"""Where on which level tiles are read, and which blocks that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.slide.reader import Integers, Level

# A level this much coarser than requested still counts as fine enough: scanners round their resolution.
RESOLUTION_TOLERANCE = 1e-3
# Beyond this factor enlarged pixels hold nothing of what an encoder was trained on.
MAX_ENLARGEMENT = 2.0


@dataclass(frozen=True)
class Windows:
    """Squares of one level, in its pixels; they may reach beyond its edges."""

    level: int
    left_px: Integers
    """[tile]"""
    top_px: Integers
    """[tile]"""
    size_px: int


def choose_level(levels: Sequence[Level], *, slide_um_per_px: float, requested_um_per_px: float, where: str) -> int:
    """Return the coarsest level that is at least as fine as requested, else level 0.

    Raises `DataError`: level 0 is more than twice as coarse as requested.
    """
    if slide_um_per_px > MAX_ENLARGEMENT * requested_um_per_px:
        raise DataError(
            f"a resolution of {slide_um_per_px:g} um/px",
            expected=f"at most {MAX_ENLARGEMENT * requested_um_per_px:g} um/px for tiles of {requested_um_per_px:g}",
            where=where,
            advice="the slide is too coarse for this bundle; if its resolution is wrong, set the samplesheet column 'mpp'",
        )
    finest_first = range(len(levels))
    fine = [
        level
        for level in finest_first
        if slide_um_per_px * levels[level].downsample <= requested_um_per_px * (1 + RESOLUTION_TOLERANCE)
    ]
    return max(fine, key=lambda level: levels[level].downsample, default=0)


def place_windows(
    centres_level0_px: NDArray[np.float64], level: Level, *, number: int, extent_level0_px: float
) -> Windows:
    """Return the windows whose centres are nearest to the requested ones.

    ``centres_level0_px``: (x, y) [tile, 2].
    ``extent_level0_px``: side of a tile in level-0 pixels.
    """
    size_px = max(1, round(extent_level0_px / level.downsample))
    scale = np.array([level.downsample_x, level.downsample_y])
    corners = np.floor(centres_level0_px / scale - size_px / 2 + 0.5).astype(np.int64)
    return Windows(number, corners[:, 0], corners[:, 1], size_px)


def blocks_of(windows: Windows, members: Integers, level: Level) -> Integers:
    """Return the blocks that ``members`` touch, in the order they are stored."""
    rows, columns = (
        _spans(start[members], windows.size_px, side, stride)
        for start, side, stride in (
            (windows.top_px, level.height_px, level.block_height_px),
            (windows.left_px, level.width_px, level.block_width_px),
        )
    )
    inside = (rows[0] < rows[1]) & (columns[0] < columns[1])
    if not inside.any():
        return np.empty(0, np.int64)
    (top, bottom), (left, right) = (span[:, inside] for span in (rows, columns))
    # Each rectangle of blocks leaves its corners, and sums along both axes fill them all at once.
    first_row, first_column = top.min(), left.min()
    corners = np.zeros((bottom.max() - first_row + 1, right.max() - first_column + 1), np.int32)
    for row, column, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(corners, (row - first_row, column - first_column), sign)
    touched = np.argwhere(corners.cumsum(axis=0).cumsum(axis=1) > 0)
    numbers: Integers = (touched[:, 0] + first_row) * level.block_columns + touched[:, 1] + first_column
    return numbers


def _spans(start: Integers, size_px: int, side_px: int, stride_px: int) -> Integers:
    """First block and the one after the last along one axis, [2, window]."""
    return np.stack([np.maximum(start, 0) // stride_px, -(-np.minimum(start + size_px, side_px) // stride_px)])


def block_parts(start_px: int, size_px: int, *, side_px: int, stride_px: int) -> list[tuple[int, slice, slice]]:
    """Divide a stretch of one axis among the blocks it touches; none where it lies outside the level.

    Returns
    -------
    list
        Number of the block along the axis, where its part lies in the stretch, and where in the block.

    >>> block_parts(-3, 10, side_px=100, stride_px=4)
    [(0, slice(3, 7, None), slice(0, 4, None)), (1, slice(7, 10, None), slice(0, 3, None))]
    """
    parts = []
    position, end = max(start_px, 0), min(start_px + size_px, side_px)
    while position < end:
        number = position // stride_px
        origin = number * stride_px
        stop = min(end, origin + stride_px)
        parts.append((number, slice(position - start_px, stop - start_px), slice(position - origin, stop - origin)))
        position = stop
    return parts
