"""Fetch, decode and cut at once: blocks in, batches of equal tiles out, in bounded memory.

    one thread     the stored bytes of the cells to come        at most two groups of `group_cells`
    every thread   blocks of cell k + 1 decoded, tiles of cell k cut
    one thread     runs ahead of whoever takes the batches      at most `_BATCHES_AHEAD`

Threads and not processes: decoding, copying and resizing release the interpreter's lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.slide.batches import Batches, Place, TileBatch, vertical_runs
from histocast.slide.fill import Filler, plan_filling
from histocast.slide.per_thread import PerThread
from histocast.slide.read_plan import Cell, group_cells, plan_bands, plan_cells, split_windows
from histocast.slide.reader import Payload, Reader
from histocast.slide.resize import resizer
from histocast.slide.stacks import Stack
from histocast.slide.store_wait import StoreWait
from histocast.slide.windows import Windows, blocks_of

# Threads are ours; a library that starts its own for each resize would have them fight.
cv2.setNumThreads(1)

# Handing work out costs as much as a tenth of a block, so each thread gets one large piece; of some 10 ms at most,
# because the end of a cell waits for the last of them.
_MOST_RUNS, _MOST_TILES = 8, 32
_BATCHES_AHEAD = 2
_CELLS_AT_WORK = 2

Job = TypeVar("Job")


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

    Raises `HistocastError`: the source cannot be read, or a reader that decodes an image whole cannot decode it.
    """
    if not len(windows.left_px):
        return
    needed = blocks_of(windows, np.arange(len(windows.left_px)), reader.levels[windows.level])
    filler, windows = plan_filling(reader, windows, tile_px=tile_px)
    bands = plan_bands(windows, filler.grid.level, reader, needed)
    store_wait = store_wait or StoreWait()
    with store_wait.waiting():
        reader.expect(windows.level, needed, in_whole_rows=bands.fetched_at_once)
    split = split_windows(windows, bands)
    order = np.concatenate([members for _, members in split])
    batches = Batches(order, tile_px=tile_px, batch_tiles=batch_tiles)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles")
    try:
        sweep = _Sweep(reader, windows, filler, batches=batches, pool=pool, threads=threads, store_wait=store_wait)
        yield from sweep.run(plan_cells(windows, split, filler.grid, carried_over_bytes=bands.carried_over_bytes))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Sweep:
    """One pass over the cells of a level."""

    def __init__(
        self,
        reader: Reader,
        windows: Windows,
        filler: Filler,
        *,
        batches: Batches,
        pool: ThreadPoolExecutor,
        threads: int,
        store_wait: StoreWait,
    ) -> None:
        self._reader = reader
        self._windows = windows
        self._filler = filler
        self._grid = filler.grid
        self._resizer = PerThread(lambda: resizer(windows.size_px, batches.tile_px))
        self._batches = batches
        self._pool = pool
        self._threads = threads
        self._store_wait = store_wait
        self._stacks: dict[int, Stack] = {}
        self._band = -1
        self._taken_over: dict[int, Stack] = {}
        """Blocks that this band may take over, by their numbers."""
        self._handed_on: dict[int, Stack] = {}
        """Those that it keeps for the next."""
        self._placed = 0

    def run(self, cells: Iterable[Cell]) -> Iterator[TileBatch]:
        decoding: deque[tuple[Cell, list[Future[None]]]] = deque()
        cutting: deque[tuple[int, list[Future[None]]]] = deque()
        for cell, payloads in self._fetched(cells):
            decoding.append((cell, self._decode(cell, payloads)))
            if len(decoding) == _CELLS_AT_WORK:
                cutting.append(self._cut(*decoding.popleft()))
            if len(cutting) == _CELLS_AT_WORK:
                yield from self._finish(*cutting.popleft())
        cutting.append(self._cut(*decoding.popleft()))
        while cutting:
            yield from self._finish(*cutting.popleft())

    def _fetched(self, cells: Iterable[Cell]) -> Iterator[tuple[Cell, Mapping[int, Payload]]]:
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
                coming = None
                for number, cell in enumerate(group):
                    if number == min(_CELLS_AT_WORK, len(group) - 1):
                        # Not before: the bytes of the last group are released once its last cells are decoded.
                        coming = begin()
                    yield cell, payloads

    def _decode(self, cell: Cell, payloads: Mapping[int, Payload]) -> list[Future[None]]:
        jobs: list[tuple[Stack, list[int]]] = []
        for number, blocks in self._grid.by_stack(cell.new_blocks):
            stack = self._stack(number)
            jobs += [(stack, run) for run in self._filler.runs(blocks)]
        return [
            self._pool.submit(self._decode_runs, share, payloads) for share in _shares(jobs, self._threads, _MOST_RUNS)
        ]

    def _decode_runs(self, jobs: Sequence[tuple[Stack, list[int]]], payloads: Mapping[int, Payload]) -> None:
        for stack, run in jobs:
            self._filler.fill(stack, run, payloads)

    def _cut(self, cell: Cell, decoding: list[Future[None]]) -> tuple[int, list[Future[None]]]:
        """Start to cut a cell's tiles once its blocks are there, and release the stacks it is the last to need."""
        for future in decoding:
            future.result()
        self._hand_on(cell)
        stacks = {stack: self._stacks[stack] for stack in cell.stacks.tolist()}
        for stack in cell.last_stacks.tolist():
            del self._stacks[stack]
        jobs = [self._batches.place(self._placed + offset) for offset in range(len(cell.members))]
        self._placed += len(jobs)
        futures = [
            self._pool.submit(self._cut_tiles, share, stacks) for share in _shares(jobs, self._threads, _MOST_TILES)
        ]
        return self._placed, futures

    def _hand_on(self, cell: Cell) -> None:
        """Write the blocks to their stacks that the band above has decoded, and keep those that the next one needs."""
        if cell.band != self._band:
            self._band, self._taken_over, self._handed_on = cell.band, self._handed_on, {}
        for number, blocks in self._grid.by_stack(cell.taken_over):
            stack = self._stack(number)
            for block in blocks:
                self._grid.put_block(block, self._taken_over.pop(block), stack)
        for number, blocks in self._grid.by_stack(cell.carried_over):
            for block in blocks:
                self._handed_on[block] = self._grid.copy_block(block, self._stacks[number])

    def _stack(self, number: int) -> Stack:
        stack = self._stacks.get(number)
        if stack is None:
            stack = self._stacks[number] = self._grid.empty()
        return stack

    def _cut_tiles(self, jobs: Sequence[Place], stacks: Mapping[int, Stack]) -> None:
        resize = self._resizer.get()
        if resize is None:
            for run in vertical_runs(jobs, self._windows):
                self._copy_run(run, stacks)
            return
        for place in jobs:
            damage = self._copy(resize.window, place, stacks)
            if damage is None:
                resize.write(place.tile)
            else:
                place.fail(damage)

    def _copy_run(self, run: Sequence[Place], stacks: Mapping[int, Stack]) -> None:
        """Copy tiles that lie one above the other at once: each copy waits for the interpreter's lock."""
        first, count = run[0], len(run)
        pixels = first.batch.pixels[first.row : first.row + count]
        damage = self._copy(pixels.reshape(-1, *pixels.shape[2:]), first, stacks)
        if damage is not None and count > 1:
            for place in run:
                self._copy_run([place], stacks)
        elif damage is not None:
            first.fail(damage)

    def _copy(self, into: NDArray[Any], place: Place, stacks: Mapping[int, Stack]) -> str | None:
        left, top = int(self._windows.left_px[place.member]), int(self._windows.top_px[place.member])
        return self._grid.copy_window(into, left, top, stacks)

    def _finish(self, done: int, cutting: list[Future[None]]) -> Iterator[TileBatch]:
        for future in cutting:
            future.result()
        yield from self._batches.finished(done)


def _shares(jobs: Sequence[Job], threads: int, most: int) -> Iterator[Sequence[Job]]:
    """Yield consecutive jobs, as many as are worth handing out at once."""
    length = max(1, min(-(-len(jobs) // threads), most))
    for start in range(0, len(jobs), length):
        yield jobs[start : start + length]
