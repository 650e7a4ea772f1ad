"""TIFF-family slides, read by the offsets of their compressed blocks.

tifffile reads the directories and imagecodecs the blocks: Aperio SVS, generic pyramidal TIFF, OME-TIFF, and
plain striped TIFF. Formats whose blocks overlap, are padded or come in another order are left to OpenSlide.
Only the directories of label and macro images are walked over; their pixels are never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from histocast.slide.blocks import BlockFormat, Compression, decode_block
from histocast.slide.jpeg2000 import read_codestream
from histocast.slide.reader import (
    Blocks,
    CannotOpen,
    Integers,
    Level,
    Pixels,
    SlideMetadata,
    UnreadableBlock,
    make_levels,
    number_or_none,
)
from histocast.slide.resolution import aperio_objective_power, aperio_um_per_px, ome_um_per_px, tag_um_per_px
from histocast.slide.tiff_directories import open_directories
from histocast.storage import Bytes, Range, Source, affordable_gap, should_read_whole

NAME = "tiff"

_COMPRESSIONS: dict[int, Compression] = {
    1: "none",
    5: "lzw",
    7: "jpeg",
    8: "deflate",
    32946: "deflate",
    33003: "jpeg2000",
    33005: "jpeg2000",
    34712: "jpeg2000",
    50000: "zstd",
}
_APERIO_YCBCR_JPEG2000 = 33003
_RGB, _YCBCR = 2, 6
_MAX_PAGES = 1000
_MAX_BLOCK_PX = 4096 * 4096


@dataclass(frozen=True)
class _StoredLevel:
    """Where the blocks of one level lie."""

    width_px: int
    height_px: int
    block: BlockFormat
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]


def open_reader(source: Source, *, scratch: Path) -> TiffReader:  # noqa: ARG001 - the protocol's parameter
    """See `histocast.slide.reader.OpenReader`."""
    with open_directories(source) as file:
        stored = _stored_levels(file)
        metadata = _metadata(file)
    _check_jpeg2000(source, stored[0])
    return TiffReader(source, stored, metadata)


class TiffReader:
    """See `histocast.slide.reader.Reader`."""

    name = NAME

    def __init__(self, source: Source, stored: Sequence[_StoredLevel], metadata: SlideMetadata) -> None:
        self.metadata = metadata
        self.levels: tuple[Level, ...] = make_levels(
            [(level.width_px, level.height_px) for level in stored],
            [(level.block.width_px, level.block.height_px) for level in stored],
        )
        self._stored = stored
        self.far = not source.is_local
        self._source = source
        self._max_gap_bytes: int | None = None

    def block_bytes(self, level: int, blocks: Blocks) -> int:
        """See `Reader.block_bytes`."""
        counts = self._stored[level].byte_counts[np.asarray(blocks, np.int64)]
        return int(counts[counts <= self._most_bytes(level)].sum())

    def expect(self, level: int, blocks: Blocks, *, in_whole_rows: bool) -> None:
        """See `Reader.expect`; it is decided once up to which width gaps between blocks are read over."""
        if self.far:
            _, needed = self._places(level, blocks)
            _, stored = self._places(level, np.arange(len(self._stored[level].offsets)))
            size_bytes = self._source.stat().size_bytes
            # In pieces of rows, each piece would bring what lies between its rows, which is the other pieces.
            whole = in_whole_rows and should_read_whole(needed, stored=stored, object_bytes=size_bytes)
            self._max_gap_bytes = size_bytes if whole else affordable_gap(needed)

    def fetch(self, level: int, blocks: Sequence[int]) -> Mapping[int, Bytes]:
        """See `Reader.fetch`."""
        return self._source.read_ranges(self._ranges(level, blocks), max_gap_bytes=self._max_gap_bytes)

    def decode(self, level: int, block: int, payload: Bytes | None, into: Pixels) -> None:
        """See `Reader.decode`."""
        stored = self._stored[level]
        stated = int(stored.byte_counts[block])
        if payload is None:
            reason = "the block is empty" if stated == 0 else f"the directory states a block of {stated} bytes"
            raise UnreadableBlock(reason)
        if len(payload) < stated:
            raise UnreadableBlock("the file ends within the block")
        row, column = divmod(block, self.levels[level].block_columns)
        height, width = stored.block.height_px, stored.block.width_px
        visible = (min(height, stored.height_px - row * height), min(width, stored.width_px - column * width))
        decode_block(payload, stored.block, visible=visible, into=into)

    def close(self) -> None:
        """See `Reader.close`; only the source is open."""

    def _most_bytes(self, level: int) -> int:
        # No codec makes a block much larger than its pixels: a longer one is damage, not worth its memory.
        block = self._stored[level].block
        return 4 * 3 * block.width_px * block.height_px + 65536

    def _places(self, level: int, blocks: Blocks) -> tuple[Integers, Integers]:
        """Return those of the blocks whose size can be true, and the offset and size of each, [block, 2]."""
        stored = self._stored[level]
        numbers = np.asarray(blocks, np.int64)
        counts = stored.byte_counts[numbers]
        numbers = numbers[(counts > 0) & (counts <= self._most_bytes(level))]
        return numbers, np.stack([stored.offsets[numbers], stored.byte_counts[numbers]], axis=1)

    def _ranges(self, level: int, blocks: Blocks) -> dict[int, Range]:
        numbers, places = self._places(level, blocks)
        return {
            number: (start, length) for number, (start, length) in zip(numbers.tolist(), places.tolist(), strict=True)
        }


def _stored_levels(file: tifffile.TiffFile) -> list[_StoredLevel]:
    base = file.pages.first
    if file.is_ndpi or file.is_philips or file.is_scn or file.is_bif or str(base.software).startswith("MedScan"):
        raise CannotOpen("its blocks are not laid out plainly")
    levels = [_stored_level(base)]
    for page in _following_pages(file):
        if page.is_tiled == base.is_tiled and _is_smaller_copy(page, levels[0], levels[-1]):
            try:
                levels.append(_stored_level(page))
            except CannotOpen:
                continue
    return levels


def _following_pages(file: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    base = file.pages.first
    count = len(file.pages)
    if count > _MAX_PAGES:
        raise CannotOpen(f"it has {count} directories")
    pages = [page for page in (file.pages[index] for index in range(1, count)) if isinstance(page, tifffile.TiffPage)]
    if base.subifds:
        pages.extend(page for page in (base.pages or ()) if isinstance(page, tifffile.TiffPage))
    return sorted(pages, key=lambda page: -page.imagewidth)


def _is_smaller_copy(page: tifffile.TiffPage, base: _StoredLevel, last: _StoredLevel) -> bool:
    # A level shows the whole of level 0: its sides have the same ratio but for a dropped row or column, and
    # the label or macro of a slide, tiled or not, does not have it by chance.
    if not 0 < page.imagewidth < last.width_px or not 0 < page.imagelength < last.height_px:
        return False
    scale = base.width_px / page.imagewidth
    return abs(base.height_px - page.imagelength * scale) <= 2 * scale


def _stored_level(page: tifffile.TiffPage) -> _StoredLevel:
    compression = _COMPRESSIONS.get(int(page.compression))
    if compression is None:
        raise CannotOpen(f"its compression {int(page.compression)} is not known")
    _check_samples(page, compression)
    width, height = page.imagewidth, page.imagelength
    if page.is_tiled:
        block_width, block_height = page.tilewidth, page.tilelength
    else:
        block_width, block_height = width, min(page.rowsperstrip, height)
    if not (min(width, height, block_width, block_height) > 0 and block_width * block_height <= _MAX_BLOCK_PX):
        raise CannotOpen(f"its blocks are of {block_width} x {block_height} px")
    blocks = -(-width // block_width) * -(-height // block_height)
    if len(page.dataoffsets) != blocks or len(page.databytecounts) != blocks:
        raise CannotOpen("its directory does not list every block")
    ycbcr = page.photometric == _YCBCR or page.compression == _APERIO_YCBCR_JPEG2000
    block = BlockFormat(
        compression=compression,
        width_px=block_width,
        height_px=block_height,
        colour="YCBCR" if ycbcr else "RGB",
        tables=page.jpegtables if compression == "jpeg" else None,
        differenced=compression in ("deflate", "lzw", "zstd") and page.predictor == 2,
    )
    # Arrays, because a large slide has millions of blocks and a list of integers takes four times as much.
    offsets, byte_counts = (np.array(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
    return _StoredLevel(width, height, block, offsets, byte_counts)


def _check_samples(page: tifffile.TiffPage, compression: Compression) -> None:
    layout = (page.samplesperpixel, page.bitspersample, page.planarconfig, page.sampleformat, page.fillorder)
    if layout != (3, 8, 1, 1, 1) or page.predictor not in (1, 2):
        raise CannotOpen("it does not hold 8-bit RGB, pixel by pixel")
    photometrics = (_RGB, _YCBCR) if compression in ("jpeg", "jpeg2000") else (_RGB,)
    if page.photometric not in photometrics:
        raise CannotOpen(f"its photometric interpretation {int(page.photometric)} is not RGB")


def _metadata(file: tifffile.TiffFile) -> SlideMetadata:
    page = file.pages.first
    description = page.description
    if description.startswith("Aperio"):
        return SlideMetadata(
            vendor="aperio",
            um_per_px=aperio_um_per_px(description),
            objective_power=number_or_none(aperio_objective_power(description), low=1, high=150),
        )
    if page.is_ome and (um_per_px := ome_um_per_px(description)) is not None:
        return SlideMetadata(vendor="ome", um_per_px=um_per_px)
    resolution = page.tags.valueof(282)
    per_unit = resolution[0] / resolution[1] if isinstance(resolution, tuple) and all(resolution) else None
    unit = page.tags.valueof(296)
    return SlideMetadata(
        vendor="generic-tiff", um_per_px=tag_um_per_px(per_unit, int(unit) if unit is not None else None)
    )


def _check_jpeg2000(source: Source, stored: _StoredLevel) -> None:
    """Leave codestreams with subsampled colour to OpenSlide, which knows how Aperio means them."""
    if stored.block.compression != "jpeg2000":
        return
    for offset, length in zip(stored.offsets.tolist(), stored.byte_counts.tolist(), strict=True):
        if length:
            try:
                stream = read_codestream(source.read(offset, min(length, 4096)))
            except UnreadableBlock:
                continue
            if stream.subsampled or stream.components != 3:
                raise CannotOpen("its JPEG 2000 blocks have subsampled colour")
            return
