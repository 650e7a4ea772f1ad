"""Compressed blocks of a TIFF to RGB pixels, each checked by its own header before a decoder sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import imagecodecs
import numpy as np

from histocast.slide.colour import Colour, to_rgb
from histocast.slide.jpeg import decode_jpeg, read_jpeg_header
from histocast.slide.jpeg2000 import read_codestream
from histocast.slide.reader import Payload, Pixels, UnreadableBlock
from histocast.storage import Bytes

OFF_GRID_BYTES = 8
"""Where to begin what a JPEG decoder writes to. libjpeg-turbo sends rows that begin at a multiple of 16 or 32 bytes past
the processor's caches to memory: it waits for that, a sixth longer in all, and so does whoever reads the pixels next.
Rows are mostly multiples of 16 bytes long, so that from here none begins there."""

Compression = Literal["none", "jpeg", "jpeg2000", "deflate", "lzw", "zstd", "packbits", "lzma", "webp"]

_UNPACK: dict[str, Callable[..., Any]] = {
    "deflate": imagecodecs.zlib_decode,
    "lzw": imagecodecs.lzw_decode,
    "zstd": imagecodecs.zstd_decode,
    "packbits": imagecodecs.packbits_decode,
    "lzma": imagecodecs.lzma_decode,
}
PREDICTABLE = frozenset(("deflate", "lzw", "zstd", "lzma"))
"""Compressions before which rows may be turned into differences."""

# Every library below raises its own class, all of them RuntimeError; the rest is what wrong sizes lead to.
_DECODER_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError)


@dataclass(frozen=True)
class BlockFormat:
    """How the blocks of one level are stored."""

    compression: Compression
    width_px: int
    height_px: int
    stored_ycbcr: bool = False
    """Of the samples within JPEG data, as the photometric tag says it. A JPEG's own markers are not asked: Aperio
    stores RGB without a marker, and guessing turns it magenta."""
    colour: Colour = field(default_factory=Colour)
    tables: bytes | None = None
    """JPEG tables all blocks share."""
    differenced: bool = False
    """Whether rows are stored as horizontal differences (predictor 2)."""


def decode_block(payload: Payload, block: BlockFormat, *, visible: tuple[int, int], into: Pixels) -> None:
    """Write the pixels of a block, at least the visible part of it.

    ``payload``: the block as it is stored: its bytes, or those of each plane.
    ``block``: how it is stored.
    ``visible``: rows and columns of it that lie within the level.
    ``into``: a whole block, [height_px, width_px, 3], contiguous.
    Raises `UnreadableBlock`: the data is damaged, or of another size than the block's.
    """
    parts = payload if isinstance(payload, tuple) else (payload,)
    try:
        samples = [_decode_part(part, block, visible, into) for part in parts]
        pixels = samples[0]
        if not block.colour.is_plain or block.colour.kind == "ycbcr":
            smallest = [min(sides) for sides in zip(*(part.shape[:2] for part in samples), strict=True)]
            joined = [part[: smallest[0], : smallest[1]] for part in samples]
            pixels = to_rgb(joined[0] if len(joined) == 1 else np.concatenate(joined, axis=2), block.colour)
    except _DECODER_ERRORS as error:
        raise UnreadableBlock(f"the {block.compression} data cannot be decoded") from error
    if pixels.shape[0] < visible[0] or pixels.shape[1] < visible[1] or pixels.shape[2:] != (3,):
        raise UnreadableBlock(f"decodes to shape {pixels.shape}")
    if pixels is not into:
        into[: visible[0], : visible[1]] = pixels[: visible[0], : visible[1]]


def _decode_part(data: Bytes, block: BlockFormat, visible: tuple[int, int], into: Pixels) -> Pixels:
    """Return the samples of a block or of one plane of it, [row, column, sample]; ``into`` itself where it can."""
    if block.compression == "jpeg":
        return _decode_jpeg(data, block, visible, into)
    if block.compression == "jpeg2000":
        return _decode_jpeg2000(data, block, visible)
    if block.compression == "webp":
        return _decode_webp(data, block)
    return _decode_plain(data, block, visible[0])


def _decode_jpeg(data: Bytes, block: BlockFormat, visible: tuple[int, int], into: Pixels) -> Pixels:
    header = read_jpeg_header(data)
    _check_frame((header.height_px, header.width_px, header.components), block, visible)
    whole = (header.width_px, header.height_px) == (block.width_px, block.height_px) and block.colour.is_plain
    if header.components == 1:
        return decode_jpeg(data, header, colour="GREY", tables=block.tables)
    colour: Literal["RGB", "YCBCR"] = "YCBCR" if block.stored_ycbcr else "RGB"
    pixels = decode_jpeg(data, header, colour=colour, tables=block.tables, out=into if whole else None)
    return into if whole else pixels


def _decode_jpeg2000(data: Bytes, block: BlockFormat, visible: tuple[int, int]) -> Pixels:
    stream = read_codestream(data)
    _check_frame((stream.height_px, stream.width_px, stream.components), block, visible)
    if stream.bits != 8 or stream.subsampled:
        raise UnreadableBlock("JPEG 2000 data of another depth or sampling than the slide's")
    pixels: Pixels = imagecodecs.jpeg2k_decode(_any_buffer(data), numthreads=1)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _decode_webp(data: Bytes, block: BlockFormat) -> Pixels:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise UnreadableBlock("no WebP data")
    out = np.empty((block.height_px, block.width_px, block.colour.samples), np.uint8)
    pixels: Pixels = imagecodecs.webp_decode(_any_buffer(data), hasalpha=block.colour.samples == 4, out=out)
    return pixels


def _check_frame(frame: tuple[int, int, int], block: BlockFormat, visible: tuple[int, int]) -> None:
    """Refuse a frame that is larger than its block or smaller than what shows of it, before it is decoded."""
    height, width, components = frame
    expected = block.colour.samples
    fits = visible[0] <= height <= block.height_px and visible[1] <= width <= block.width_px
    if not fits or components != expected:
        raise UnreadableBlock(
            f"data of {width} x {height} px and {components} components "
            f"in a block of {block.width_px} x {block.height_px} px and {expected}"
        )


def _decode_plain(data: Bytes, block: BlockFormat, visible_height_px: int) -> Pixels:
    samples = block.colour.samples
    row_bytes = samples * block.width_px
    unpack = _UNPACK.get(block.compression)
    raw: Bytes | bytearray = (
        unpack(_any_buffer(data), out=row_bytes * block.height_px) if unpack else cast(bytearray, data)
    )
    rows = len(raw) // row_bytes
    if rows < visible_height_px:
        raise UnreadableBlock(f"{len(raw)} bytes of {row_bytes * visible_height_px}")
    pixels = np.frombuffer(raw, np.uint8, rows * row_bytes).reshape(rows, block.width_px, samples)
    if not block.differenced:
        return pixels
    summed: Pixels = np.cumsum(pixels, axis=1, dtype=np.uint8)
    return summed


def _any_buffer(data: Bytes) -> bytes:
    """Return it as it is: the decoders take every buffer, and their annotations name fewer."""
    return cast(bytes, data)
