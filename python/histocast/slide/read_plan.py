"""In which order windows are swept, so that each block is fetched and decoded once, or hardly ever twice.

Windows are swept in bands from the top, each band in cells from the left. Only the blocks of neighbouring cells are
held, so that the row of blocks between two bands is decoded twice: bands are tall. A remote source needs few requests:
lower bands, whose rows of blocks lie together in the file and are fetched whole. They are many, so that each hands the
blocks on that the next one needs too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, zip_longest

import numpy as np

from histocast.slide.reader import Integers, Level, Reader
from histocast.slide.stacks import StackGrid
from histocast.slide.windows import Windows, blocks_of

# A band of 8192 px decodes 3 % of the blocks twice, half of that where they are shrunk at once.
LOCAL_BAND_PX = 8192
REMOTE_BAND_PX = 4096
FIRST_REMOTE_BAND_PX = 2048
CELL_PX = 256
# Bytes fetched at once. From afar the first group is small, so that decoding starts early, and each is four
# times the one before, up to a dozen rows of a slide as wide as glass: with the gaps between them, about as much as the
# requests that are made at a time bring.
LOCAL_FETCH_BYTES = 2 * 1024 * 1024
FIRST_REMOTE_FETCH_BYTES = 4 * 1024 * 1024
REMOTE_FETCH_BYTES = 48 * 1024 * 1024
# Pixels carried over from band to band: a row of blocks of a slide as wide as glass, if they are shrunk.
REMOTE_CARRIED_OVER_BYTES = 32 * 1024 * 1024

_NOTHING: Integers = np.empty(0, np.int64)


@dataclass(frozen=True)
class Bands:
    """How high bands are, in the pixels of the windows."""

    height_px: int
    first_px: int
    """Height of the first: of a remote source a low one, so that decoding starts early."""
    cell_px: int
    """Width of their cells."""
    fetched_at_once: bool
    """Whether the blocks of each are few enough for it."""
    carried_over_bytes: int
    """Bytes of the pixels that a band hands on to the next, at most."""


@dataclass(frozen=True)
class Cell:
    """Windows that are cut together."""

    band: int
    members: Integers
    """Positions into the windows."""
    new_blocks: Integers
    """The blocks that have to be decoded for this cell."""
    taken_over: Integers
    """Those to be had from the band before, which has handed them on."""
    carried_over: Integers
    """Those to be kept for the next band, which may find that it holds them still."""
    stacks: Integers
    """What they touch."""
    last_stacks: Integers
    """Those of them that are released after it."""


def plan_bands(windows: Windows, level: Level, reader: Reader, needed: Integers) -> Bands:
    """Choose the height of bands.

    ``level``: the level in the pixels of the windows.
    ``needed``: all blocks that the windows touch, in order.
    """
    least_px = 2 * windows.size_px
    if not reader.remote:
        height_px = max(LOCAL_BAND_PX, least_px)
        return Bands(height_px, first_px=height_px, cell_px=CELL_PX, fetched_at_once=False, carried_over_bytes=0)
    ends_of_rows = np.flatnonzero(np.diff(needed // level.block_columns)) + 1
    fullest_bytes = max(reader.block_bytes(windows.level, row) for row in np.split(needed, ends_of_rows))
    # A band begins within a row, and its last windows reach below it.
    fitting_px = (REMOTE_FETCH_BYTES // max(fullest_bytes, 1) - 1) * level.block_height_px - windows.size_px
    height_px = max(min(fitting_px, REMOTE_BAND_PX), least_px)
    return Bands(
        height_px,
        first_px=min(FIRST_REMOTE_BAND_PX, height_px),
        # The lower, the wider: each cell has to be planned and waited for.
        cell_px=max(CELL_PX, CELL_PX * REMOTE_BAND_PX // height_px),
        fetched_at_once=height_px <= fitting_px,
        carried_over_bytes=REMOTE_CARRIED_OVER_BYTES,
    )


def split_windows(windows: Windows, bands: Bands) -> list[tuple[int, Integers]]:
    """Return the band and the members of each cell, in the order of the sweep.

    A cell is at least a window wide, so that tiles reach into the next cell and no further.
    """
    depth_px = windows.top_px - windows.top_px.min()
    band = (depth_px + bands.height_px - bands.first_px) // bands.height_px
    column = (windows.left_px - windows.left_px.min()) // max(bands.cell_px, windows.size_px)
    order = np.lexsort((windows.top_px, windows.left_px, column, band))
    changes = np.flatnonzero((np.diff(band[order]) != 0) | (np.diff(column[order]) != 0)) + 1
    return [(int(band[members[0]]), members) for members in np.split(order, changes)]


def plan_cells(
    windows: Windows, split: Sequence[tuple[int, Integers]], grid: StackGrid, *, carried_over_bytes: int
) -> Iterator[Cell]:
    """Yield the cells of `split_windows`, each as late as it is needed: a slide has thousands.

    While a stack is held, none of its blocks is written a second time: tiles of earlier cells may still be cut from it,
    and a decoder begins with black.
    """
    count = grid.level.block_columns * grid.level.block_rows
    # A stack that is released and needed again begins another life: what is held was written in the present one.
    life_of_stack, written_in_life = np.ones(count, np.int32), np.zeros(count, np.int32)
    to_take_over, to_hand_on = np.zeros((2, count), bool)
    waiting: Cell | None = None
    for band, cells, from_above, for_below in _handing_on(windows, split, grid, carried_over_bytes):
        to_take_over[:] = to_hand_on[:] = False
        to_take_over[from_above] = to_hand_on[for_below] = True
        for members in cells:
            blocks = blocks_of(windows, members, grid.level)
            stack_of_block = grid.stacks_of(blocks)
            stacks = np.unique(stack_of_block)
            if waiting is not None:
                gone = np.setdiff1d(waiting.stacks, stacks, assume_unique=True)
                life_of_stack[gone] += 1
                yield replace(waiting, last_stacks=gone)
            life = life_of_stack[stack_of_block]
            missing = blocks[written_in_life[blocks] != life]
            is_offered = to_take_over[missing]
            waiting = Cell(
                band,
                members,
                new_blocks=missing[~is_offered],
                taken_over=missing[is_offered],
                carried_over=blocks[to_hand_on[blocks]],
                stacks=stacks,
                last_stacks=stacks,
            )
            written_in_life[blocks] = life
            # Once each, though a block whose stack was released can be met again in the same band.
            to_take_over[missing] = to_hand_on[blocks] = False
    if waiting is not None:
        yield waiting


def _handing_on(
    windows: Windows, split: Sequence[tuple[int, Integers]], grid: StackGrid, carried_over_bytes: int
) -> Iterator[tuple[int, list[Integers], Integers, Integers]]:
    """Yield each band, the members of its cells, the blocks that it takes over and those that it hands on."""
    bands = [(band, [members for _, members in cells]) for band, cells in groupby(split, key=lambda cell: cell[0])]
    most = carried_over_bytes // grid.decoded_block_bytes
    taken_over = _NOTHING
    blocks = blocks_of(windows, np.concatenate(bands[0][1]), grid.level)
    for (band, cells), (_, next_cells) in zip_longest(bands, bands[1:], fillvalue=(0, [_NOTHING])):
        next_blocks = blocks_of(windows, np.concatenate(next_cells), grid.level)
        carried_over = np.intersect1d(blocks, next_blocks, assume_unique=True)[:most]
        yield band, cells, taken_over, carried_over
        blocks, taken_over = next_blocks, carried_over


def group_cells(cells: Iterable[Cell], reader: Reader, level: int) -> Iterator[list[Cell]]:
    """Yield consecutive cells whose new blocks are worth one round of requests.

    From afar a group ends where a band does, so that no row of blocks is asked for in two parts, unless a band
    alone is too much.
    """
    most_bytes = FIRST_REMOTE_FETCH_BYTES if reader.remote else LOCAL_FETCH_BYTES
    group: list[Cell] = []
    size_bytes = 0
    for part in _parts(cells, reader, level):
        part_bytes = sum(reader.block_bytes(level, cell.new_blocks) for cell in part)
        if group and size_bytes + part_bytes > most_bytes:
            yield group
            group, size_bytes = [], 0
            most_bytes = min(4 * most_bytes, REMOTE_FETCH_BYTES) if reader.remote else most_bytes
        group.extend(part)
        size_bytes += part_bytes
    yield group


def _parts(cells: Iterable[Cell], reader: Reader, level: int) -> Iterator[list[Cell]]:
    """Yield what is not to be divided between groups: bands of a remote source, else cells."""
    for _, members in groupby(cells, key=lambda cell: cell.band):
        band = list(members)
        if reader.remote and sum(reader.block_bytes(level, cell.new_blocks) for cell in band) <= REMOTE_FETCH_BYTES:
            yield band
        else:
            yield from ([cell] for cell in band)
