"""TIFF-family slides, read by the offsets of their compressed blocks.

tifffile reads the directories and imagecodecs the blocks: Aperio SVS, generic pyramidal TIFF, OME-TIFF, and
plain striped TIFF. Formats whose blocks overlap, are padded or come in another order are left to OpenSlide.
Only the directories of label and macro images are walked over; their pixels are never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from histocast.slide.blocks import decode_block
from histocast.slide.reader import Blocks, Integers, Level, Payload, Pixels, UnreadableBlock, make_levels
from histocast.slide.tiff_layout import TiffLayout, read_layout
from histocast.storage import Range, Source, coalesce_gap, should_read_whole

NAME = "tiff"
_WHITE = 255


def open_reader(source: Source, *, scratch: Path) -> TiffReader:  # noqa: ARG001 - the protocol's parameter
    """See `histocast.slide.reader.OpenReader`."""
    return TiffReader(source, read_layout(source))


class TiffReader:
    """See `histocast.slide.reader.Reader`."""

    name = NAME

    def __init__(self, source: Source, layout: TiffLayout) -> None:
        self.metadata = layout.metadata
        self._stored = layout.levels
        self.levels: tuple[Level, ...] = make_levels(
            [(level.width_px, level.height_px) for level in self._stored],
            [(level.block.width_px, level.block.height_px) for level in self._stored],
        )
        self.remote = not source.is_local
        self._source = source
        self._max_gap_bytes: int | None = None

    def block_bytes(self, level: int, blocks: Blocks) -> int:
        """See `Reader.block_bytes`."""
        _, places = self._places(level, blocks)
        return int(places[:, 1].sum())

    def expect(self, level: int, blocks: Blocks, *, in_whole_rows: bool) -> None:
        """See `Reader.expect`; it is decided once up to which width gaps between blocks are read over."""
        if self.remote:
            _, needed = self._places(level, blocks)
            _, stored = self._places(level, np.arange(self._block_count(level)))
            size_bytes = self._source.stat().size_bytes
            # In pieces of rows, each piece would bring what lies between its rows, which is the other pieces.
            whole = in_whole_rows and should_read_whole(needed, stored=stored, object_bytes=size_bytes)
            self._max_gap_bytes = size_bytes if whole else coalesce_gap(needed)

    def fetch(self, level: int, blocks: Sequence[int]) -> Mapping[int, Payload]:
        """See `Reader.fetch`."""
        parts = self._source.read_ranges(self._ranges(level, blocks), max_gap_bytes=self._max_gap_bytes)
        count, planes = self._block_count(level), self._stored[level].block.colour.planes
        if planes == 1:
            return parts
        numbers = {block: [block + plane * count for plane in range(planes)] for block in blocks}
        return {
            block: tuple(parts[part] for part in of_block)
            for block, of_block in numbers.items()
            if all(part in parts for part in of_block)
        }

    def decode(self, level: int, block: int, payload: Payload | None, into: Pixels) -> None:
        """See `Reader.decode`; a block that was never stored, at offset 0 and of length 0, is white glass."""
        stored, count = self._stored[level], self._block_count(level)
        stated = stored.byte_counts[block::count]
        if payload is None:
            if not stated.any() and not stored.offsets[block::count].any():
                into[:] = _WHITE
                return
            largest = int(stated.max())
            reason = f"the directory states a block of {largest} bytes" if stated.all() else "the block is empty"
            raise UnreadableBlock(reason)
        parts = payload if isinstance(payload, tuple) else (payload,)
        if any(len(part) < length for part, length in zip(parts, stated.tolist(), strict=True)):
            raise UnreadableBlock("the file ends within the block")
        row, column = divmod(block, self.levels[level].block_columns)
        height, width = stored.block.height_px, stored.block.width_px
        visible = (min(height, stored.height_px - row * height), min(width, stored.width_px - column * width))
        decode_block(payload, stored.block, visible=visible, into=into)

    def close(self) -> None:
        """See `Reader.close`; only the source is open."""

    def _block_count(self, level: int) -> int:
        return len(self._stored[level].offsets) // self._stored[level].block.colour.planes

    def _most_bytes(self, level: int) -> int:
        # No codec makes a block much larger than its pixels: a longer one is damage, not worth its memory.
        block = self._stored[level].block
        return 4 * block.colour.samples * block.width_px * block.height_px + 65536

    def _places(self, level: int, blocks: Blocks) -> tuple[Integers, Integers]:
        """Return the parts of the blocks whose size can be true, and the offset and size of each, [part, 2].

        A part is a block of one plane; the parts of the first plane have the numbers of the blocks.
        """
        stored = self._stored[level]
        first_parts = np.arange(stored.block.colour.planes) * self._block_count(level)
        numbers = (first_parts[:, None] + np.asarray(blocks, np.int64)).ravel()
        counts = stored.byte_counts[numbers]
        numbers = numbers[(counts > 0) & (counts <= self._most_bytes(level))]
        return numbers, np.stack([stored.offsets[numbers], stored.byte_counts[numbers]], axis=1)

    def _ranges(self, level: int, blocks: Blocks) -> dict[int, Range]:
        numbers, places = self._places(level, blocks)
        return {
            number: (start, length) for number, (start, length) in zip(numbers.tolist(), places.tolist(), strict=True)
        }
