"""Where on which level tiles are read, and in which order, so that each block is decoded once.

Windows are swept in bands from the top, each band in cells from the left. Only the blocks of neighbouring
cells are held at a time, whatever the slide's size; a row of blocks between two bands is decoded twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.slide.reader import Level

# A level this much coarser than requested still counts as fine enough: scanners round their resolution.
RESOLUTION_TOLERANCE = 1e-3
# Beyond this factor enlarged pixels hold nothing of what an encoder was trained on.
MAX_ENLARGEMENT = 2.0
# A band of 4096 px decodes 6 % of the blocks twice (3 % where they are shrunk at once); a cell of it adds 6 MB.
BAND_PX = 4096
CELL_PX = 512

Integers = NDArray[np.int64]


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

    Raises
    ------
    DataError
        Level 0 is more than twice as coarse as requested.
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

    Parameters
    ----------
    centres_level0_px:
        (x, y) [tile, 2].
    extent_level0_px:
        Side of a tile in level-0 pixels.
    """
    size_px = max(1, round(extent_level0_px / level.downsample))
    scale = np.array([level.downsample_x, level.downsample_y])
    corners = np.floor(centres_level0_px / scale - size_px / 2 + 0.5).astype(np.int64)
    return Windows(number, corners[:, 0], corners[:, 1], size_px)


def sweep_cells(windows: Windows) -> Iterator[Integers]:
    """Yield the windows of one cell after another, as positions into ``windows``.

    A cell is at least a window wide, so a block is needed by one cell and the next of its band, and by no
    other.
    """
    if not len(windows.left_px):
        return
    band_px = max(BAND_PX, 2 * windows.size_px)
    cell_px = max(CELL_PX, windows.size_px)
    band = (windows.top_px - windows.top_px.min()) // band_px
    column = (windows.left_px - windows.left_px.min()) // cell_px
    order = np.lexsort((windows.left_px, windows.top_px, column, band))
    changes = np.flatnonzero((np.diff(band[order]) != 0) | (np.diff(column[order]) != 0)) + 1
    yield from np.split(order, changes)


def blocks_of(windows: Windows, members: Integers, level: Level) -> Integers:
    """Return the blocks that ``members`` touch, in the order they are stored."""
    needed = np.zeros((level.block_rows, level.block_columns), dtype=bool)
    for rows, columns in (block_span(windows, member, level) for member in members.tolist()):
        needed[rows.start : rows.stop, columns.start : columns.stop] = True
    return np.flatnonzero(needed)


def block_span(windows: Windows, member: int, level: Level) -> tuple[range, range]:
    """Return the block rows and columns a window touches; empty where it lies outside the level."""
    spans = []
    for start, side, stride in (
        (int(windows.top_px[member]), level.height_px, level.block_height_px),
        (int(windows.left_px[member]), level.width_px, level.block_width_px),
    ):
        first, last = max(start, 0), min(start + windows.size_px, side)
        spans.append(range(first // stride, -(-last // stride)) if first < last else range(0))
    return spans[0], spans[1]
