"""Decoded blocks, those of one column one above the other in one array.

A tile is then put together from a few tall parts and not from many small ones, and memory is asked for once for
many blocks: both cost more than copying the pixels does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocast.slide.blocks import OFF_GRID_BYTES
from histocast.slide.reader import Integers, Level, Pixels
from histocast.slide.windows import block_parts
from histocast.storage.array_memory import ArrayMemory

WHITE = 255

_STACK_PX = 2048
_STACK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Stack:
    """Some blocks of one column of a level."""

    pixels: Pixels
    """[rows * block_height_px, block_width_px, 3]; what was not decoded means nothing."""
    damage: dict[int, str] = field(default_factory=dict)
    """Why a block cannot be read, by its row in the stack."""


class StackGrid:
    """How a level's blocks are stacked; stacks are numbered row-major from 0."""

    def __init__(self, level: Level) -> None:
        self.level = level
        fitting = _STACK_BYTES // self.decoded_block_bytes
        self._rows = max(1, min(_STACK_PX // level.block_height_px, fitting))
        self._columns = level.block_columns
        shape = (self._rows * level.block_height_px, level.block_width_px, 3)
        self._memory = ArrayMemory(shape, offset_bytes=OFF_GRID_BYTES)

    def stacks_of(self, blocks: Integers) -> Integers:
        """Return the stack of each block."""
        stacks: Integers = blocks // self._columns // self._rows * self._columns + blocks % self._columns
        return stacks

    def by_stack(self, blocks: Integers) -> Iterator[tuple[int, list[int]]]:
        """Yield each stack with those of its blocks that are among ``blocks``, in ascending order."""
        stacks = self.stacks_of(blocks)
        order = np.lexsort((blocks, stacks))
        changes = np.flatnonzero(np.diff(stacks[order])) + 1
        for members in np.split(order, changes) if len(order) else ():
            yield int(stacks[members[0]]), blocks[members].tolist()

    def empty(self) -> Stack:
        """Return a stack of which nothing is decoded; its memory comes back when nobody holds it."""
        return Stack(self._memory.array())

    @property
    def decoded_block_bytes(self) -> int:
        """Bytes of a block's pixels."""
        return 3 * self.level.block_width_px * self.level.block_height_px

    def row(self, block: int) -> int:
        """Return a block's row in its stack."""
        return block // self._columns % self._rows

    def copy_block(self, block: int, stack: Stack) -> Stack:
        """Return one block of a stack, as a stack of its own."""
        row, block_px = self.row(block), self.level.block_height_px
        damage = {0: stack.damage[row]} if row in stack.damage else {}
        return Stack(stack.pixels[row * block_px : (row + 1) * block_px].copy(), damage)

    def put_block(self, block: int, copy: Stack, stack: Stack) -> None:
        """Write what `copy_block` returned to the block's stack."""
        row, block_px = self.row(block), self.level.block_height_px
        stack.pixels[row * block_px : (row + 1) * block_px] = copy.pixels
        if copy.damage:
            stack.damage[row] = copy.damage[0]

    def copy_window(self, window: NDArray[Any], left: int, top: int, stacks: Mapping[int, Stack]) -> str | None:
        """Copy the rectangle at ``left`` and ``top`` together, white outside the level.

        Returns: why it cannot be read, where a block of it is damaged.
        """
        level, (height_px, width_px) = self.level, window.shape[:2]
        if min(top, left) < 0 or top + height_px > level.height_px or left + width_px > level.width_px:
            window[:] = WHITE
        columns = block_parts(left, width_px, side_px=level.width_px, stride_px=level.block_width_px)
        block_px = level.block_height_px
        for row, to_rows, from_rows in block_parts(
            top, height_px, side_px=level.height_px, stride_px=self._rows * block_px
        ):
            strip, first_stack = window[to_rows], row * self._columns
            for column, to_columns, from_columns in columns:
                stack = stacks[first_stack + column]
                if stack.damage:
                    touched = range(from_rows.start // block_px, (from_rows.stop - 1) // block_px + 1)
                    for block_row in touched:
                        if block_row in stack.damage:
                            return stack.damage[block_row]
                strip[:, to_columns] = stack.pixels[from_rows, from_columns]
        return None
