"""Tiles in batches: where each belongs, and which can be written at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from histocast.slide.reader import Pixels
from histocast.slide.windows import Windows
from histocast.storage.array_memory import ArrayMemory


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


class Place(NamedTuple):
    """Where a tile belongs."""

    member: int
    """Position into the windows."""
    batch: TileBatch
    row: int
    """Of the batch."""

    @property
    def tile(self) -> Pixels:
        """[tile_px, tile_px, 3] To be written."""
        pixels: Pixels = self.batch.pixels[self.row]
        return pixels

    def fail(self, damage: str) -> None:
        """Say why the tile is not readable."""
        self.batch.readable[self.row] = False
        self.batch.reasons[self.member] = damage
        self.tile[:] = 0


class Batches:
    """Tiles collected in the order of the sweep."""

    def __init__(self, order: NDArray[np.int64], *, tile_px: int, batch_tiles: int) -> None:
        self.tile_px = tile_px
        self._order = order
        self._batch_tiles = min(batch_tiles, len(order))
        self._memory = ArrayMemory((self._batch_tiles, tile_px, tile_px, 3))
        self._open: deque[TileBatch] = deque()
        self._started = self._given = 0

    def place(self, position: int) -> Place:
        """Return where the sweep's ``position``-th tile belongs."""
        while position >= self._started:
            index = self._order[self._started : self._started + self._batch_tiles]
            pixels = self._memory.array()[: len(index)]
            self._open.append(TileBatch(index, pixels, np.ones(len(index), bool)))
            self._started += len(index)
        offset = position - self._given
        return Place(int(self._order[position]), self._open[offset // self._batch_tiles], offset % self._batch_tiles)

    def finished(self, done: int) -> Iterator[TileBatch]:
        """Yield the batches all of whose tiles are among the sweep's first ``done``."""
        while self._open and self._given + len(self._open[0].index) <= done:
            batch = self._open.popleft()
            self._given += len(batch.index)
            yield batch


def vertical_runs(places: Sequence[Place], windows: Windows) -> Iterator[list[Place]]:
    """Yield the tiles that lie one above the other on the slide, and one after the other in a batch."""
    run: list[Place] = []
    lefts, tops = windows.left_px, windows.top_px
    for place in places:
        last = run[-1] if run else place
        below = lefts[place.member] == lefts[last.member] and tops[place.member] == tops[last.member] + windows.size_px
        if run and not (below and place.batch is last.batch):
            yield run
            run = []
        run.append(place)
    yield run
