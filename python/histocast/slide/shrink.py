"""Blocks that are shrunk as soon as they are decoded, while they are still in the processor's cache.

Where tiles are a whole factor smaller than their windows, and no group of pixels that becomes one lies across
two blocks, averaging a block and averaging a window are the same arithmetic on the same pixels. Done on the
block it needs a quarter of the memory (at a factor of two) and no copy of the full-size window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np

from histocast.slide.per_thread import PerThread
from histocast.slide.reader import Blocks, Level, Payload, Pixels, Reader
from histocast.slide.stacks import WHITE
from histocast.slide.windows import Windows


def shrink_blocks(reader: Reader, windows: Windows, *, tile_px: int) -> tuple[Reader, Windows]:
    """Return a reader of shrunk blocks and the windows on it, where that gives the same pixels; else the same."""
    factor = windows.size_px // tile_px
    level = reader.levels[windows.level]
    steps = (windows.size_px - factor * tile_px, level.block_width_px % factor if factor else 1)
    if factor < 2 or any(steps) or level.block_height_px % factor:
        return reader, windows
    if (windows.left_px % factor).any() or (windows.top_px % factor).any():
        return reader, windows
    shrunk = Windows(windows.level, windows.left_px // factor, windows.top_px // factor, tile_px)
    return _ShrinkingReader(reader, level=windows.level, factor=factor), shrunk


class _ShrinkingReader:
    """A reader one of whose levels appears ``factor`` times smaller; see `Reader`."""

    def __init__(self, reader: Reader, *, level: int, factor: int) -> None:
        self.name = reader.name
        self.metadata = reader.metadata
        self.far = reader.far
        self._reader = reader
        self._full = full = reader.levels[level]
        self._factor = factor
        shrunk = replace(
            full,
            width_px=-(-full.width_px // factor),
            height_px=-(-full.height_px // factor),
            downsample_x=full.downsample_x * factor,
            downsample_y=full.downsample_y * factor,
            block_width_px=full.block_width_px // factor,
            block_height_px=full.block_height_px // factor,
        )
        size = (full.block_height_px, full.block_width_px, 3)
        # It stays in the cache from one block to the next.
        self._whole = PerThread(lambda: np.empty(size, np.uint8))
        self.levels: tuple[Level, ...] = (*reader.levels[:level], shrunk, *reader.levels[level + 1 :])

    def block_bytes(self, level: int, blocks: Blocks) -> int:
        """See `Reader.block_bytes`."""
        return self._reader.block_bytes(level, blocks)

    def fetch(self, level: int, blocks: Sequence[int]) -> Mapping[int, Payload]:
        """See `Reader.fetch`."""
        return self._reader.fetch(level, blocks)

    def expect(self, level: int, blocks: Blocks) -> None:
        """See `Reader.expect`."""
        self._reader.expect(level, blocks)

    def decode(self, level: int, block: int, payload: Payload | None, into: Pixels) -> None:
        """See `Reader.decode`."""
        whole = self._whole.get()
        self._reader.decode(level, block, payload, whole)
        row, column = divmod(block, self._full.block_columns)
        height = min(self._full.block_height_px, self._full.height_px - row * self._full.block_height_px)
        width = min(self._full.block_width_px, self._full.width_px - column * self._full.block_width_px)
        pixels = self._whole_groups(whole[:height, :width])
        size = (pixels.shape[1] // self._factor, pixels.shape[0] // self._factor)
        cv2.resize(pixels, size, dst=into[: size[1], : size[0]], interpolation=cv2.INTER_AREA)

    def close(self) -> None:
        """Do nothing: the reader beneath belongs to the slide."""

    def _whole_groups(self, pixels: Pixels) -> Pixels:
        """Fill up with white where the slide ends within a group of pixels, as a window there is filled."""
        height, width = (-(-side // self._factor) * self._factor for side in pixels.shape[:2])
        if (height, width) == pixels.shape[:2]:
            return pixels
        filled = np.full((height, width, 3), WHITE, np.uint8)
        filled[: pixels.shape[0], : pixels.shape[1]] = pixels
        return filled
