"""Blocks decoded into stacks, and shrunk on the way where that gives the same pixels.

Where tiles are a whole factor smaller than their windows, and no group of pixels that becomes one lies across
two blocks, averaging a block and averaging a window are the same arithmetic on the same pixels. Done on blocks
that are still in the processor's cache it needs a quarter of the memory (at a factor of two) and no copy of the
full-size window; done on several at a time it seldom waits for the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np

from histocast.foreign_errors import machine_fault_behind
from histocast.slide.blocks import OFF_GRID_BYTES
from histocast.slide.per_thread import PerThread
from histocast.slide.reader import Level, Payload, Pixels, Reader, UnreadableBlock
from histocast.slide.stacks import WHITE, Stack, StackGrid
from histocast.slide.windows import Windows
from histocast.storage.array_memory import ArrayMemory

# Some eight blocks: fewer wait for the lock more often, and more leave the cache before they are shrunk.
_RUN_BYTES = 1536 * 1024


class Filler:
    """Decodes blocks of one level into the stacks of its grid."""

    def __init__(self, reader: Reader, *, level: int, factor: int) -> None:
        self._reader = reader
        self._level = level
        self._full = full = reader.levels[level]
        self._factor = factor
        self.grid = StackGrid(_shrunk(full, factor))
        self._run_blocks = max(1, _RUN_BYTES // (3 * full.block_height_px * full.block_width_px))
        size = (self._run_blocks * full.block_height_px, full.block_width_px, 3)
        self._whole = PerThread(ArrayMemory(size, offset_bytes=OFF_GRID_BYTES).array)

    def runs(self, blocks: Sequence[int]) -> list[list[int]]:
        """Divide blocks of one stack, in ascending order, into those to fill at once: a few that are neighbours."""
        runs: list[list[int]] = []
        follower = -1
        for block in blocks:
            if block != follower or len(runs[-1]) == self._run_blocks:
                runs.append([])
            runs[-1].append(block)
            follower = block + self._full.block_columns
        return runs

    def fill(self, stack: Stack, run: Sequence[int], payloads: Mapping[int, Payload]) -> None:
        """Write the pixels of a run of blocks to their stack, or why one of them has none.

        Raises `OutOfMemory` or `StorageUnavailable`: the machine failed beneath a decoder: that is no damage.
        """
        full, row = self._full, self.grid.row(run[0])
        block_px, into_px = full.block_height_px, self.grid.level.block_height_px
        into = stack.pixels[row * into_px : (row + len(run)) * into_px]
        whole = into if self._factor == 1 else self._whole.get()
        for place, block in enumerate(run):
            try:
                pixels = whole[place * block_px : (place + 1) * block_px]
                self._reader.decode(self._level, block, payloads.get(block), pixels)
            except UnreadableBlock as damage:
                if fault := machine_fault_behind(damage):
                    raise fault from damage
                stack.damage[row + place] = str(damage)
        if self._factor > 1:
            block_row, column = divmod(run[0], full.block_columns)
            height = min(len(run) * block_px, full.height_px - block_row * block_px)
            width = min(full.block_width_px, full.width_px - column * full.block_width_px)
            self._shrink(whole[:height, :width], into)

    def _shrink(self, pixels: Pixels, into: Pixels) -> None:
        pixels = _whole_groups(pixels, self._factor)
        size = (pixels.shape[1] // self._factor, pixels.shape[0] // self._factor)
        cv2.resize(pixels, size, dst=into[: size[1], : size[0]], interpolation=cv2.INTER_AREA)


def plan_filling(reader: Reader, windows: Windows, *, tile_px: int) -> tuple[Filler, Windows]:
    """Return what fills stacks, and the windows on them: on shrunk blocks where that gives the same pixels."""
    factor = _factor(reader.levels[windows.level], windows, tile_px)
    filler = Filler(reader, level=windows.level, factor=factor)
    if factor == 1:
        return filler, windows
    return filler, Windows(windows.level, windows.left_px // factor, windows.top_px // factor, tile_px)


def _factor(level: Level, windows: Windows, tile_px: int) -> int:
    factor = windows.size_px // tile_px
    if factor < 2 or windows.size_px % tile_px or level.block_width_px % factor or level.block_height_px % factor:
        return 1
    return 1 if (windows.left_px % factor).any() or (windows.top_px % factor).any() else factor


def _shrunk(level: Level, factor: int) -> Level:
    return replace(
        level,
        width_px=-(-level.width_px // factor),
        height_px=-(-level.height_px // factor),
        downsample_x=level.downsample_x * factor,
        downsample_y=level.downsample_y * factor,
        block_width_px=level.block_width_px // factor,
        block_height_px=level.block_height_px // factor,
    )


def _whole_groups(pixels: Pixels, factor: int) -> Pixels:
    """Fill up with white where the slide ends within a group of pixels, as a window there is filled."""
    height, width = (-(-side // factor) * factor for side in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    filled = np.full((height, width, 3), WHITE, np.uint8)
    filled[: pixels.shape[0], : pixels.shape[1]] = pixels
    return filled
