"""Fetch, decode and cut at once: blocks in, batches of equal tiles out, in bounded memory.

    one thread     the stored bytes of the cells to come        at most two groups of `group_cells`
    every thread   blocks of cell k + 1 decoded, tiles of cell k cut
    one thread     runs ahead of whoever takes the batches      at most `_BATCHES_AHEAD`

Threads and not processes: decoding, copying and resizing release the interpreter's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.slide.per_thread import PerThread
from histocast.slide.pixel_memory import PixelMemory
from histocast.slide.plan import Cell, group_cells, plan_cells
from histocast.slide.reader import Payload, Pixels, Reader, UnreadableBlock
from histocast.slide.resize import resizer
from histocast.slide.shrink import shrink_blocks
from histocast.slide.stacks import Stack, StackGrid
from histocast.slide.store_wait import StoreWait
from histocast.slide.windows import Windows, blocks_of

# Threads are ours; a library that starts its own for each resize would have them fight.
cv2.setNumThreads(1)

# Handing work out costs as much as a tenth of a block, so each thread gets one large piece; of at most 32, some 5 ms,
# because the end of a cell waits for the last of them.
_LEAST_PER_TASK, _MOST_PER_TASK = 4, 32
_BATCHES_AHEAD = 2

Job = TypeVar("Job")


@dataclass(frozen=True)
class TileBatch:
    """Some of the tiles that were asked for, in the reader's order."""

    index: NDArray[np.int64]
    """[tile] Positions into the centres that were asked for."""
    pixels: Pixels
    """RGB uint8 [tile, tile_px, tile_px, 3]; black where not readable."""
    readable: NDArray[np.bool_]
    """[tile] Whether every pixel of the tile could be decoded."""
    reasons: dict[int, str] = field(default_factory=dict)
    """Why a tile is not readable, by its position into the centres."""


def read_ahead(
    reader: Reader, windows: Windows, *, tile_px: int, batch_tiles: int, threads: int, store_wait: StoreWait
) -> Iterator[TileBatch]:
    """`sweep_tiles`, running a few batches ahead of the caller; see there."""
    tiles = sweep_tiles(
        reader, windows, tile_px=tile_px, batch_tiles=batch_tiles, threads=threads, store_wait=store_wait
    )
    runner = ThreadPoolExecutor(1, thread_name_prefix="sweep")
    coming = deque(runner.submit(next, tiles, None) for _ in range(_BATCHES_AHEAD))
    try:
        while (batch := coming.popleft().result()) is not None:
            coming.append(runner.submit(next, tiles, None))
            yield batch
            # The caller's batch must not be kept alive while the next one is waited for.
            del batch
    finally:
        runner.shutdown(wait=True, cancel_futures=True)
        tiles.close()


def sweep_tiles(
    reader: Reader,
    windows: Windows,
    *,
    tile_px: int,
    batch_tiles: int,
    threads: int,
    store_wait: StoreWait | None = None,
) -> Generator[TileBatch, None, None]:
    """Yield every window as a tile of ``tile_px``, resized by area, white outside the slide.

    Raises
    ------
    HistocastError
        The source cannot be read, or a reader that decodes an image whole cannot decode it.
    """
    if not len(windows.left_px):
        return
    needed = blocks_of(windows, np.arange(len(windows.left_px)), reader.levels[windows.level])
    store_wait = store_wait or StoreWait()
    with store_wait.waiting():
        reader.expect(windows.level, needed)
    reader, windows = shrink_blocks(reader, windows, tile_px=tile_px)
    grid = StackGrid(reader.levels[windows.level])
    cells = plan_cells(windows, grid, far=reader.far)
    order = np.concatenate([cell.members for cell in cells])
    batches = _Batches(order, tile_px=tile_px, batch_tiles=batch_tiles)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles")
    try:
        sweep = _Sweep(reader, windows, grid, batches=batches, pool=pool, threads=threads, store_wait=store_wait)
        yield from sweep.run(cells)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Batches:
    """Tiles collected in the order of the sweep."""

    def __init__(self, order: NDArray[np.int64], *, tile_px: int, batch_tiles: int) -> None:
        self.tile_px = tile_px
        self._order = order
        self._batch_tiles = min(batch_tiles, len(order))
        self._memory = PixelMemory((self._batch_tiles, tile_px, tile_px, 3))
        self._open: deque[TileBatch] = deque()
        self._started = self._given = 0

    def place(self, position: int) -> tuple[TileBatch, int]:
        """Return the batch of the sweep's ``position``-th tile, and its place in it."""
        while position >= self._started:
            index = self._order[self._started : self._started + self._batch_tiles]
            pixels = self._memory.array()[: len(index)]
            self._open.append(TileBatch(index, pixels, np.ones(len(index), bool)))
            self._started += len(index)
        offset = position - self._given
        return self._open[offset // self._batch_tiles], offset % self._batch_tiles

    def finished(self, done: int) -> Iterator[TileBatch]:
        """Yield the batches all of whose tiles are among the sweep's first ``done``."""
        while self._open and self._given + len(self._open[0].index) <= done:
            batch = self._open.popleft()
            self._given += len(batch.index)
            yield batch


class _Sweep:
    """One pass over the cells of a level."""

    def __init__(
        self,
        reader: Reader,
        windows: Windows,
        grid: StackGrid,
        *,
        batches: _Batches,
        pool: ThreadPoolExecutor,
        threads: int,
        store_wait: StoreWait,
    ) -> None:
        self._reader = reader
        self._windows = windows
        self._grid = grid
        self._resizer = PerThread(lambda: resizer(windows.size_px, batches.tile_px))
        self._batches = batches
        self._pool = pool
        self._threads = threads
        self._store_wait = store_wait
        self._stacks: dict[int, Stack] = {}
        self._placed = 0

    def run(self, cells: Sequence[Cell]) -> Iterator[TileBatch]:
        decoding: deque[tuple[Cell, list[Future[None]]]] = deque()
        cutting: deque[tuple[int, list[Future[None]]]] = deque()
        for cell, payloads in self._fetched(cells):
            decoding.append((cell, self._decode(cell, payloads)))
            if len(decoding) == 2:
                cutting.append(self._cut(*decoding.popleft()))
            if len(cutting) == 2:
                yield from self._finish(*cutting.popleft())
        cutting.append(self._cut(*decoding.popleft()))
        while cutting:
            yield from self._finish(*cutting.popleft())

    def _fetched(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Mapping[int, Payload]]]:
        """Yield each cell with stored bytes, of which the next group is fetched meanwhile."""
        groups = group_cells(cells, self._reader, self._windows.level)
        with ThreadPoolExecutor(1, thread_name_prefix="fetch") as fetcher:

            def begin() -> tuple[list[Cell], Future[Mapping[int, Payload]]] | None:
                group = next(groups, None)
                if group is None:
                    return None
                blocks = np.unique(np.concatenate([cell.new_blocks for cell in group])).tolist()
                return group, fetcher.submit(self._reader.fetch, self._windows.level, blocks)

            coming = begin()
            while coming is not None:
                group, future = coming
                with self._store_wait.waiting():
                    payloads = future.result()
                coming = begin()
                for cell in group:
                    yield cell, payloads

    def _decode(self, cell: Cell, payloads: Mapping[int, Payload]) -> list[Future[None]]:
        jobs: list[tuple[Stack, int]] = []
        for number, blocks in self._grid.by_stack(cell.new_blocks):
            stack = self._stacks.get(number)
            if stack is None:
                stack = self._stacks[number] = self._grid.empty()
            jobs += [(stack, block) for block in blocks]
        return [self._pool.submit(self._decode_run, run, payloads) for run in _shares(jobs, self._threads)]

    def _decode_run(self, jobs: Sequence[tuple[Stack, int]], payloads: Mapping[int, Payload]) -> None:
        level = self._windows.level
        for stack, block in jobs:
            row, into = self._grid.place(stack, block)
            try:
                self._reader.decode(level, block, payloads.get(block), into)
            except UnreadableBlock as damage:
                stack.damage[row] = str(damage)

    def _cut(self, cell: Cell, decoding: list[Future[None]]) -> tuple[int, list[Future[None]]]:
        """Start to cut a cell's tiles once its blocks are there, and let go of the stacks it is the last to need."""
        for future in decoding:
            future.result()
        stacks = {stack: self._stacks[stack] for stack in cell.stacks.tolist()}
        for stack in cell.last_stacks.tolist():
            del self._stacks[stack]
        places = [self._batches.place(self._placed + offset) for offset in range(len(cell.members))]
        self._placed += len(places)
        jobs = list(zip(cell.members.tolist(), places, strict=True))
        futures = [self._pool.submit(self._cut_run, run, stacks) for run in _shares(jobs, self._threads)]
        return self._placed, futures

    def _cut_run(self, jobs: Sequence[tuple[int, tuple[TileBatch, int]]], stacks: Mapping[int, Stack]) -> None:
        resize = self._resizer.get()
        for member, (batch, place) in jobs:
            tile = batch.pixels[place]
            window = tile if resize is None else resize.window
            left, top = int(self._windows.left_px[member]), int(self._windows.top_px[member])
            damage = self._grid.copy_window(window, left, top, stacks)
            if damage is not None:
                batch.readable[place] = False
                batch.reasons[member] = damage
                tile[:] = 0
            elif resize is not None:
                resize.write(tile)

    def _finish(self, done: int, cutting: list[Future[None]]) -> Iterator[TileBatch]:
        for future in cutting:
            future.result()
        yield from self._batches.finished(done)


def _shares(jobs: Sequence[Job], threads: int) -> Iterator[Sequence[Job]]:
    """Yield consecutive jobs, as many as are worth handing out at once."""
    length = min(max(-(-len(jobs) // threads), _LEAST_PER_TASK), _MOST_PER_TASK)
    for start in range(0, len(jobs), length):
        yield jobs[start : start + length]
