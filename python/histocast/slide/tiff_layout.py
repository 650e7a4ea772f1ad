"""Which pages of a TIFF are the slide, in which blocks and colours they are stored, and what they state of its resolution.

tifffile parses the directories. A page that is neither the slide nor a level of it is never read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.slide.blocks import PREDICTABLE, BlockFormat, Compression
from histocast.slide.colour import YCBCR, Colour
from histocast.slide.jpeg2000 import read_codestream
from histocast.slide.ome import OmeImage
from histocast.slide.reader import CannotOpen, SlideMetadata, UnreadableBlock, number_or_none
from histocast.slide.resolution import (
    Resolution,
    aperio_objective_power,
    aperio_resolution,
    first_usable,
    ome_resolution,
)
from histocast.slide.tiff_directories import open_directories
from histocast.slide.tiff_pages import Page, SlidePages, choose_pages, page_colour, page_tag_resolution
from histocast.storage import Source

_COMPRESSIONS: dict[int, Compression] = {
    1: "none",
    5: "lzw",
    7: "jpeg",
    8: "deflate",
    32773: "packbits",
    32946: "deflate",
    33003: "jpeg2000",
    33005: "jpeg2000",
    34712: "jpeg2000",
    34925: "lzma",
    50000: "zstd",
    50001: "webp",
}
_MAX_BLOCK_PX = 4096 * 4096


@dataclass(frozen=True)
class StoredLevel:
    """Where the blocks of one level lie."""

    width_px: int
    height_px: int
    block: BlockFormat
    offsets: NDArray[np.int64]
    """[plane * block] All blocks of the first plane, then those of the next."""
    byte_counts: NDArray[np.int64]
    """[plane * block]"""


@dataclass(frozen=True)
class TiffLayout:
    """A slide as a TIFF stores it."""

    levels: tuple[StoredLevel, ...]
    """Finest first."""
    metadata: SlideMetadata


def read_layout(source: Source, *, max_block_px: int = _MAX_BLOCK_PX) -> TiffLayout:
    """Return the layout of a slide.

    ``max_block_px``: most pixels of a block.
    Raises `CannotOpen`: it is no TIFF, or stored in a way that is not known here; `DataError`: it is damaged, holds
    several slides, or is no 8-bit brightfield image.
    """
    with open_directories(source) as file:
        pages = choose_pages(file, where=source.name)
        levels = [_stored_level(pages.slide, max_block_px, where=source.name)]
        for level in pages.levels:
            try:
                levels.append(_stored_level(level, max_block_px, where=source.name))
            except (CannotOpen, DataError):
                continue
        metadata = _metadata(pages)
    if not levels[0].byte_counts.any():
        raise DataError(
            "the file stores none of its pixels", where=source.name, advice="copy or export the slide again"
        )
    _check_jpeg2000(source, levels[0])
    return TiffLayout(tuple(levels), metadata)


def _stored_level(pages: Sequence[Page], max_block_px: int, *, where: str) -> StoredLevel:
    """Describe one level, stored in one page or in one for each of its colours."""
    page = pages[0]
    compression = _COMPRESSIONS.get(int(page.compression))
    if compression is None:
        raise DataError(
            f"an image in the compression {_name_compression(page)}",
            expected="JPEG, JPEG 2000, WebP, LZW, deflate, Zstandard, LZMA, PackBits, or none",
            where=where,
            advice="export the slide with one of these, for example as a tiled pyramidal TIFF with JPEG",
        )
    colour = Colour(samples=1, planes=3) if len(pages) > 1 else page_colour(page, where=where)
    _check_coding(page, compression, colour, where=where)
    width, height = page.imagewidth, page.imagelength
    if page.is_tiled:
        block_width, block_height = page.tilewidth, page.tilelength
    else:
        block_width, block_height = width, min(page.rowsperstrip, height)
    if min(width, height, block_width, block_height) <= 0:
        raise DataError(
            f"its directory states {width} x {height} px in blocks of {block_width} x {block_height} px",
            where=where,
            advice="the directory is damaged: copy the slide again",
        )
    if block_width * block_height > max_block_px:
        raise CannotOpen(f"its blocks are of {block_width} x {block_height} px")
    # Arrays, because a large slide has millions of blocks and a list of integers takes four times as much.
    offsets, byte_counts = (
        np.concatenate([np.array(values, np.int64) for values in lists])
        for lists in ([page.dataoffsets for page in pages], [page.databytecounts for page in pages])
    )
    blocks = -(-width // block_width) * -(-height // block_height) * colour.planes
    if len(offsets) != blocks or len(byte_counts) != blocks:
        raise DataError(
            f"its directory lists {min(len(offsets), len(byte_counts))} blocks of {block_width} x {block_height} px",
            expected=f"{blocks} of them for {width} x {height} px",
            where=where,
            advice="the directory is damaged: copy the slide again",
        )
    block = BlockFormat(
        compression=compression,
        width_px=block_width,
        height_px=block_height,
        stored_ycbcr=page.photometric == YCBCR,
        colour=colour,
        tables=page.jpegtables if compression == "jpeg" else None,
        differenced=compression in PREDICTABLE and page.predictor == 2,
    )
    return StoredLevel(width, height, block, offsets, byte_counts)


def _name_compression(page: Page) -> str:
    name = getattr(page.compression, "name", "")
    return f"{name} ({int(page.compression)})" if name else str(int(page.compression))


def _check_coding(page: Page, compression: Compression, colour: Colour, *, where: str) -> None:
    found = None
    if page.predictor not in (1, 2):
        found = f"predictor {int(page.predictor)}, which is for other samples than 8-bit ones"
    elif page.fillorder != 1:
        found = "bits in reversed order"
    elif compression == "jpeg" and colour.samples not in (1, 3):
        found = f"JPEG data of {colour.samples} samples per pixel"
    elif compression == "webp" and colour.samples not in (3, 4):
        found = f"WebP data of {colour.samples} samples per pixel"
    if found:
        raise DataError(
            f"an image with {found}",
            expected="8-bit RGB",
            where=where,
            advice="export the slide as 8-bit RGB, for example as a tiled pyramidal TIFF",
        )


def _metadata(pages: SlidePages) -> SlideMetadata:
    page = pages.slide[0]
    tags = page_tag_resolution(page)
    if page.description.startswith("Aperio"):
        found = first_usable([aperio_resolution(page.description), tags])
        power = number_or_none(aperio_objective_power(page.description), low=1, high=150)
        return SlideMetadata("aperio", found.um_per_px, found.unused, power)
    if pages.ome is not None:
        found = first_usable([_ome_resolution(pages.ome, page), tags])
        return SlideMetadata("ome", found.um_per_px, found.unused)
    found = first_usable([tags, Resolution(unused=pages.ome_fault)])
    return SlideMetadata("generic-tiff", found.um_per_px, found.unused)


def _ome_resolution(image: OmeImage, page: Page) -> Resolution:
    """What OME-XML states, where it describes the page: of another size it was written for another image."""
    described = tuple(image.size.get(axis) for axis in "XY")
    if None not in described and described != (page.imagewidth, page.imagelength):
        return Resolution(
            unused=f"its OME-XML describes an image of {described[0]} x {described[1]} px, and its resolution is not used"
            f" because the page has {page.imagewidth} x {page.imagelength} px"
        )
    return ome_resolution(image.physical)


def _check_jpeg2000(source: Source, stored: StoredLevel) -> None:
    """Leave codestreams with subsampled colour to OpenSlide, which knows how Aperio means them."""
    if stored.block.compression != "jpeg2000":
        return
    for offset, length in _stored_blocks(stored):
        try:
            stream = read_codestream(source.read(offset, min(length, 4096)))
        except UnreadableBlock:
            continue
        if stream.subsampled or stream.components != stored.block.colour.samples:
            raise CannotOpen("its JPEG 2000 blocks have subsampled colour")
        return


def _stored_blocks(stored: StoredLevel) -> Iterable[tuple[int, int]]:
    lengths = stored.byte_counts
    return ((int(stored.offsets[block]), int(lengths[block])) for block in np.flatnonzero(lengths))
