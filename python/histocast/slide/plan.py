"""In which order windows are swept, so that each block is fetched and decoded once, or hardly ever twice.

Windows are swept in bands from the top, each band in cells from the left. What a near source needs is little
memory: tall bands, and only the blocks of neighbouring cells are held, so that the row of blocks between two
bands is decoded twice. What a far source needs is few requests: low bands, whose rows of blocks lie together in
the file, and the row between two bands is kept until the next one has used it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from histocast.slide.reader import Integers, Reader
from histocast.slide.stacks import StackGrid
from histocast.slide.windows import Windows, blocks_of

# A near band of 8192 px decodes 3 % of the blocks twice, half of that where they are shrunk at once.
NEAR_BAND_PX = 8192
FAR_BAND_PX = 2048
CELL_PX = 256
# Bytes fetched at once. From afar the first group is small, so that decoding starts early, and each is four
# times the one before, up to what makes requests of a megabyte a row.
NEAR_FETCH_BYTES = 2 * 1024 * 1024
FIRST_FAR_FETCH_BYTES = 4 * 1024 * 1024
FAR_FETCH_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class Cell:
    """Windows that are cut together."""

    band: int
    members: Integers
    """Positions into the windows."""
    new_blocks: Integers
    """The blocks that have to be decoded for this cell."""
    stacks: Integers
    """What they touch."""
    last_stacks: Integers
    """Those of them that are let go of after it."""


def plan_cells(windows: Windows, grid: StackGrid, *, far: bool) -> list[Cell]:
    """Return the cells in the order of the sweep.

    A cell is at least a window wide, so that within a band a block is needed by neighbouring cells alone.
    """
    level = grid.level
    members = _split(windows, band_px=FAR_BAND_PX if far else NEAR_BAND_PX)
    blocks = [blocks_of(windows, cell, level) for _, cell in members]
    stacks = [np.unique(grid.stacks_of(own)) for own in blocks]
    if far:
        new, last = _first_uses(blocks), _first_uses(stacks[::-1])[::-1]
    else:
        nothing = np.empty(0, np.int64)
        new = [_without(own, earlier) for own, earlier in zip(blocks, [nothing, *blocks[:-1]], strict=True)]
        last = [_without(own, later) for own, later in zip(stacks, [*stacks[1:], nothing], strict=True)]
    return [
        Cell(band, cell, new_blocks, touched, last_stacks)
        for (band, cell), new_blocks, touched, last_stacks in zip(members, new, stacks, last, strict=True)
    ]


def group_cells(cells: Sequence[Cell], reader: Reader, level: int) -> Iterator[list[Cell]]:
    """Yield consecutive cells whose new blocks are worth one round of requests.

    From afar a group ends where a band does, so that no row of blocks is asked for in two parts, unless a band
    alone is too much.
    """
    most_bytes = FIRST_FAR_FETCH_BYTES if reader.far else NEAR_FETCH_BYTES
    group: list[Cell] = []
    size_bytes = 0
    for part in _parts(cells, reader, level):
        part_bytes = sum(reader.block_bytes(level, cell.new_blocks) for cell in part)
        if group and size_bytes + part_bytes > most_bytes:
            yield group
            group, size_bytes = [], 0
            most_bytes = min(4 * most_bytes, FAR_FETCH_BYTES) if reader.far else most_bytes
        group.extend(part)
        size_bytes += part_bytes
    yield group


def _parts(cells: Sequence[Cell], reader: Reader, level: int) -> Iterator[list[Cell]]:
    """Yield what is not to be divided between groups: bands from afar, else cells."""
    for _, members in groupby(cells, key=lambda cell: cell.band):
        band = list(members)
        if reader.far and sum(reader.block_bytes(level, cell.new_blocks) for cell in band) <= FAR_FETCH_BYTES:
            yield band
        else:
            yield from ([cell] for cell in band)


def _split(windows: Windows, *, band_px: int) -> list[tuple[int, Integers]]:
    """Return each cell's band and members, in the order of the sweep."""
    if not len(windows.left_px):
        return []
    band = (windows.top_px - windows.top_px.min()) // max(band_px, 2 * windows.size_px)
    column = (windows.left_px - windows.left_px.min()) // max(CELL_PX, windows.size_px)
    order = np.lexsort((windows.left_px, windows.top_px, column, band))
    changes = np.flatnonzero((np.diff(band[order]) != 0) | (np.diff(column[order]) != 0)) + 1
    return [(int(band[members[0]]), members) for members in np.split(order, changes)]


def _first_uses(uses: Sequence[Integers]) -> list[Integers]:
    """Return what of each use no earlier one has used."""
    used = np.zeros(max((int(own.max(initial=0)) for own in uses), default=0) + 1, bool)
    first = []
    for own in uses:
        first.append(own[~used[own]])
        used[own] = True
    return first


def _without(blocks: Integers, others: Integers) -> Integers:
    return np.setdiff1d(blocks, others, assume_unique=True)
