"""What a slide reader is: levels cut into blocks, each block fetched and decoded alone.

A reader knows one family of formats and nothing of tiles, resolutions or threads. To add one, write a file
with a class that fits `Reader` and a function ``open_reader(source, *, scratch) -> Reader``, and name it in
`histocast.slide.slide.READERS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histocast.storage import Bytes, Source

Pixels = NDArray[np.uint8]
"""RGB, uint8 [row, column, 3]."""

Integers = NDArray[np.int64]

Blocks = Sequence[int] | Integers
"""Numbers of blocks."""

Payload = Bytes | tuple[Bytes, ...]
"""Stored bytes of a block, or those of each plane where red, green and blue are stored apart."""


class CannotOpen(Exception):
    """Another reader has to open this file; the message says why, and names neither file nor folder."""


class UnreadableBlock(Exception):
    """One block's data is damaged or absent; flags the tiles it touches and does not end the slide."""


@dataclass(frozen=True)
class Level:
    """One level of a pyramid, and the blocks it is stored in."""

    width_px: int
    height_px: int
    downsample_x: float
    """Level-0 pixels per pixel of this level, along x; need not be an integer."""
    downsample_y: float
    block_width_px: int
    block_height_px: int

    @property
    def downsample(self) -> float:
        """Mean of both axes."""
        return (self.downsample_x + self.downsample_y) / 2

    @property
    def block_columns(self) -> int:
        """Blocks in a row; blocks are numbered row-major from 0."""
        return -(-self.width_px // self.block_width_px)

    @property
    def block_rows(self) -> int:
        """Blocks in a column."""
        return -(-self.height_px // self.block_height_px)


@dataclass(frozen=True)
class SlideMetadata:
    """The facts of a file that pass the allow-list. Nothing else of its metadata is kept."""

    vendor: str | None = None
    um_per_px: float | None = None
    """Of level 0, where the file states it as the resolution of a slide."""
    unused_resolution: str | None = None
    """What else the file states of its resolution, and why it is not used."""
    objective_power: float | None = None


class Reader(Protocol):
    """Reads one opened slide. Every method may be called from several threads."""

    name: str
    levels: tuple[Level, ...]
    """Finest first."""
    metadata: SlideMetadata
    remote: bool
    """Whether each `fetch` waits for a network, so that few and large ones are better."""

    def block_bytes(self, level: int, blocks: Blocks) -> int:
        """Bytes that `fetch` would read for ``blocks``; 0 where the library reads by itself."""
        ...

    def fetch(self, level: int, blocks: Sequence[int]) -> Mapping[int, Payload]:
        """Return the stored bytes of ``blocks``; a block that has none is left out.

        Raises `HistocastError`: the source cannot be read.
        """
        ...

    def decode(self, level: int, block: int, payload: Payload | None, into: Pixels) -> None:
        """Write a block's pixels, at least as far as they lie within the level.

        ``into``: a whole block, [block_height_px, block_width_px, 3], contiguous.
        Raises `UnreadableBlock`: the data is damaged or absent; what ``into`` holds then means nothing.
        """
        ...

    def expect(self, level: int, blocks: Blocks, *, in_whole_rows: bool) -> None:
        """Hear which blocks of a level are about to be fetched, to plan for all of them.

        ``in_whole_rows``: whether each fetch asks for all that is needed of a row of blocks, and goes on below the one
            before.
        """
        ...

    def close(self) -> None:
        """Release what was opened, but not the source."""
        ...


class ReadsByItself:
    """Base of readers that decode from a local file, or from an image in memory, and have nothing fetched for them."""

    remote = False

    def block_bytes(self, level: int, blocks: Blocks) -> int:  # noqa: ARG002
        """Return 0."""
        return 0

    def fetch(self, level: int, blocks: Sequence[int]) -> Mapping[int, Payload]:  # noqa: ARG002
        """Return nothing."""
        return {}

    def expect(self, level: int, blocks: Blocks, *, in_whole_rows: bool) -> None:
        """Do nothing."""


class OpenReader(Protocol):
    """Opens a source with one kind of reader."""

    def __call__(self, source: Source, *, scratch: Path) -> Reader:
        """Return the reader.

        Raises `CannotOpen`: the file is not of this reader's formats; `HistocastError`: it is, and cannot be read.
        """
        ...


def make_levels(sizes: Sequence[tuple[int, int]], blocks: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Return levels from their (width, height) and block (width, height), finest first."""
    width, height = sizes[0]
    levels = []
    for (level_width, level_height), (block_width, block_height) in zip(sizes, blocks, strict=True):
        scale_x, scale_y = width / level_width, height / level_height
        whole = max(1, round((scale_x + scale_y) / 2))
        # Scanners halve or quarter and drop the odd row: 2967 rows become 741, and the scale stays 4.
        if _cut(width, whole, level_width) and _cut(height, whole, level_height):
            scale_x = scale_y = float(whole)
        levels.append(Level(level_width, level_height, scale_x, scale_y, block_width, block_height))
    return tuple(levels)


def _cut(size: int, factor: int, level_size: int) -> bool:
    return level_size in (size // factor, -(-size // factor))


def number_or_none(value: Any, *, low: float, high: float) -> float | None:
    """Return ``value`` as a number where it is one between ``low`` and ``high``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if low <= number <= high else None
