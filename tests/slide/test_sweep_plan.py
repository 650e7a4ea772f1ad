"""The order of a sweep: of a remote slide every block is fetched and decoded once, and released as soon as nobody needs it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from histocast.slide.read_plan import Bands, plan_cells, split_windows
from histocast.slide.reader import Level
from histocast.slide.stacks import StackGrid
from histocast.slide.windows import Windows, blocks_of

LEVEL = Level(3000, 2000, 1.0, 1.0, 60, 50)
LARGE_BLOCKS = Level(3000, 2000, 1.0, 1.0, 240, 256)
ALL = 1 << 40


def bands(height_px: int, carried_over_bytes: int, *, cell_px: int = 128) -> Bands:
    return Bands(
        height_px, first_px=height_px, cell_px=cell_px, fetched_at_once=True, carried_over_bytes=carried_over_bytes
    )


def decoded(windows: Windows, planned: Bands, level: Level = LEVEL) -> tuple[list[int], list[int]]:
    """Sweep as the plan says; return the blocks in the order they are decoded, and how many are carried over at a time."""
    grid = StackGrid(level)
    blocks: list[int] = []
    present: dict[int, set[int]] = {}
    taken_over: set[int] = set()
    carried_over: set[int] = set()
    carried = []
    band = -1
    for cell in plan_cells(
        windows, split_windows(windows, planned), grid, carried_over_bytes=planned.carried_over_bytes
    ):
        if cell.band != band:
            band, taken_over, carried_over = cell.band, carried_over, set()
        assert set(cell.taken_over.tolist()) <= taken_over
        taken_over -= set(cell.taken_over.tolist())
        blocks += cell.new_blocks.tolist()
        for block in (*cell.new_blocks, *cell.taken_over):
            stack = present.setdefault(int(grid.stacks_of(block)), set())
            assert block not in stack, "it would be black again while tiles are cut from it"
            stack.add(int(block))
        for block in blocks_of(windows, cell.members, level).tolist():
            assert block in present[int(grid.stacks_of(np.int64(block)))], "a tile would be cut from nothing"
        assert not carried_over & set(cell.carried_over.tolist())
        carried_over |= set(cell.carried_over.tolist())
        carried.append(len(taken_over) + len(carried_over))
        for stack in cell.last_stacks.tolist():
            del present[stack]
    assert not present
    assert not carried_over
    return blocks, carried


@given(
    corners=st.lists(st.tuples(st.integers(-80, 2990), st.integers(-80, 1990)), min_size=1, max_size=60),
    size_px=st.sampled_from([20, 64, 130]),
    level=st.sampled_from([LEVEL, LARGE_BLOCKS]),
    height_px=st.integers(260, 900),
    cell_px=st.sampled_from([20, 128]),
    carried_over_bytes=st.sampled_from([0, 400_000, ALL]),
)
@example(
    corners=[(0, 0), (0, 231), (0, 300), (20, 260)],
    size_px=20,
    level=LEVEL,
    height_px=260,
    cell_px=20,
    carried_over_bytes=0,
)
def test_every_tile_finds_its_blocks(
    corners: list[tuple[int, int]], size_px: int, level: Level, height_px: int, cell_px: int, carried_over_bytes: int
) -> None:
    left, top = np.array(corners).T
    windows = Windows(0, left, top, size_px)
    blocks, _ = decoded(windows, bands(height_px, carried_over_bytes, cell_px=cell_px), level)
    needed = blocks_of(windows, np.arange(len(left)), level)
    assert set(blocks) == set(needed.tolist())


@pytest.mark.parametrize(("carried_over_bytes", "twice"), [(0, 1.0), (ALL, 0.0), (20 * 60 * 50 * 3, 0.6)])
def test_the_row_between_two_bands_is_decoded_once_as_far_as_it_may_be_kept(
    carried_over_bytes: int, twice: float
) -> None:
    top, left = np.mgrid[0:1936:64, 0:2936:64].reshape(2, -1)
    windows = Windows(0, left, top, 64)
    blocks, carried = decoded(windows, bands(320, carried_over_bytes))
    needed = blocks_of(windows, np.arange(len(left)), LEVEL)
    without, _ = decoded(windows, bands(320, 0))
    assert len(without) > 1.1 * len(needed)
    assert len(blocks) - len(needed) == pytest.approx(twice * (len(without) - len(needed)), abs=10)
    # Of the band above and of the band below, at the worst.
    assert max(carried) * 60 * 50 * 3 <= 2 * carried_over_bytes
