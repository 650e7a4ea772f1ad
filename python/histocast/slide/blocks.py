"""Compressed blocks of a TIFF to RGB pixels, each judged by its own header before a decoder sees it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, cast

import imagecodecs
import numpy as np

from histocast.slide.jpeg2000 import read_codestream
from histocast.slide.reader import Pixels, UnreadableBlock
from histocast.storage import Bytes

OFF_GRID_BYTES = 8
"""Where to begin what a JPEG decoder writes to. libjpeg-turbo sends rows that begin at a multiple of 16 or 32 bytes past
the processor's caches to memory: it waits for that, a sixth longer in all, and so does whoever reads the pixels next.
Rows are mostly multiples of 16 bytes long, so that from here none begins there."""

Compression = Literal["none", "jpeg", "jpeg2000", "deflate", "lzw", "zstd"]

# Every library below raises its own class, all of them RuntimeError; the rest is what wrong sizes lead to.
_DECODER_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError, OverflowError)
_FRAME_MARKERS = {0xC0, 0xC1, 0xC2}
# The scan or the end before any frame, and the lossless, hierarchical and arithmetic frames.
_BARRED_MARKERS = {0xD9, 0xDA, *range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}
_END_OF_IMAGE = b"\xff\xd9"
# Writers pad a tile to an even length or a word; more than that after the end marker is damage.
_PADDING_BYTES = 16

_CHROMA = np.arange(256) - 128
_RED = np.rint(1.402 * _CHROMA).astype(np.int32)
_BLUE = np.rint(1.772 * _CHROMA).astype(np.int32)
# Green needs both, and is rounded once: in 16-bit fixed point, the half added beforehand.
_GREEN_OF_BLUE = np.rint((0.5 - 0.34414 * _CHROMA) * 65536).astype(np.int32)
_GREEN_OF_RED = np.rint(-0.71414 * _CHROMA * 65536).astype(np.int32)


@dataclass(frozen=True)
class BlockFormat:
    """How the blocks of one level are stored."""

    compression: Compression
    width_px: int
    height_px: int
    colour: Literal["RGB", "YCBCR"] = "RGB"
    """Of the stored samples, as the photometric tag says it. A JPEG's own markers are not asked: Aperio
    stores RGB without a marker, and guessing turns it magenta."""
    tables: bytes | None = None
    """JPEG tables all blocks share."""
    differenced: bool = False
    """Whether rows are stored as horizontal differences (predictor 2)."""


def decode_block(payload: Bytes, block: BlockFormat, *, visible: tuple[int, int], into: Pixels) -> None:
    """Write the pixels of a block, at least the visible part of it.

    Parameters
    ----------
    payload:
        The block as it is stored.
    block:
        How it is stored.
    visible:
        Rows and columns of it that lie within the level.
    into:
        A whole block, [height_px, width_px, 3], contiguous.

    Raises
    ------
    UnreadableBlock
        The data is damaged, or of another size than the block's.
    """
    try:
        if block.compression == "jpeg":
            pixels = _decode_jpeg(payload, block, visible, into)
        elif block.compression == "jpeg2000":
            pixels = _decode_jpeg2000(payload, block, visible)
        else:
            pixels = _decode_plain(payload, block, visible[0])
    except _DECODER_ERRORS as error:
        raise UnreadableBlock(f"the {block.compression} data cannot be decoded") from error
    if pixels.shape[0] < visible[0] or pixels.shape[1] < visible[1] or pixels.shape[2:] != (3,):
        raise UnreadableBlock(f"decodes to shape {pixels.shape}")
    if pixels is not into:
        into[: visible[0], : visible[1]] = pixels[: visible[0], : visible[1]]


def jpeg_frame_size(data: Bytes) -> tuple[int, int, int]:
    """Width, height and number of components from a JPEG's frame header.

    Raises
    ------
    UnreadableBlock
        It is no JPEG, or of a kind slides do not hold (lossless, arithmetic).
    """
    if data[:2] != b"\xff\xd8":
        raise UnreadableBlock("no JPEG data")
    position = 2
    try:
        while True:
            prefix, marker, length = struct.unpack(">BBH", data[position : position + 4])
            if prefix != 0xFF:
                raise UnreadableBlock("the JPEG header is damaged")
            if marker == 0xFF:  # fill byte before a marker
                position += 1
                continue
            if marker in _FRAME_MARKERS:
                _, height, width, components = struct.unpack(">BHHB", data[position + 4 : position + 10])
                return width, height, components
            if marker in _BARRED_MARKERS or length < 2:
                raise UnreadableBlock("the JPEG header is damaged or of an unknown kind")
            position += 2 + length
    except struct.error as error:
        raise UnreadableBlock("the JPEG data ends within its header") from error


def check_jpeg_end(data: Bytes) -> None:
    """Refuse a JPEG whose end is missing: decoders would fill the rest with grey and say nothing.

    Raises
    ------
    UnreadableBlock
        There is no end marker at the end of the data.
    """
    if _END_OF_IMAGE not in bytes(data[-_PADDING_BYTES:]):
        raise UnreadableBlock("the JPEG data ends before its end marker")


def _decode_jpeg(data: Bytes, block: BlockFormat, visible: tuple[int, int], into: Pixels) -> Pixels:
    """Return the pixels, which are ``into`` itself where the frame is as large as the block."""
    width, height, components = jpeg_frame_size(data)
    _check_frame((height, width, components), block, visible)
    check_jpeg_end(data)
    whole = (width, height) == (block.width_px, block.height_px)
    pixels: Pixels = imagecodecs.jpeg8_decode(
        _any_buffer(data),
        tables=block.tables,
        colorspace=block.colour,
        outcolorspace="RGB",
        out=into if whole else None,
    )
    return into if whole else pixels


def _decode_jpeg2000(data: Bytes, block: BlockFormat, visible: tuple[int, int]) -> Pixels:
    stream = read_codestream(data)
    _check_frame((stream.height_px, stream.width_px, stream.components), block, visible)
    if stream.bits != 8 or stream.subsampled:
        raise UnreadableBlock("JPEG 2000 data of another depth or sampling than the slide's")
    pixels: Pixels = imagecodecs.jpeg2k_decode(_any_buffer(data), numthreads=1)
    return pixels if block.colour == "RGB" else _ycbcr_to_rgb(pixels)


def _check_frame(frame: tuple[int, int, int], block: BlockFormat, visible: tuple[int, int]) -> None:
    """Refuse a frame that is larger than its block or smaller than what shows of it, before it is decoded."""
    height, width, components = frame
    if not (visible[0] <= height <= block.height_px and visible[1] <= width <= block.width_px) or components != 3:
        raise UnreadableBlock(
            f"data of {width} x {height} px and {components} components "
            f"in a block of {block.width_px} x {block.height_px} px and 3"
        )


def _decode_plain(data: Bytes, block: BlockFormat, visible_height_px: int) -> Pixels:
    row_bytes = 3 * block.width_px
    whole = row_bytes * block.height_px
    raw: Bytes | bytearray
    if block.compression == "deflate":
        raw = imagecodecs.zlib_decode(_any_buffer(data), out=whole)
    elif block.compression == "lzw":
        raw = imagecodecs.lzw_decode(_any_buffer(data), out=whole)
    elif block.compression == "zstd":
        raw = imagecodecs.zstd_decode(_any_buffer(data), out=whole)
    else:
        raw = data
    rows = len(raw) // row_bytes
    if rows < visible_height_px:
        raise UnreadableBlock(f"{len(raw)} bytes of {row_bytes * visible_height_px}")
    pixels = np.frombuffer(raw, np.uint8, rows * row_bytes).reshape(rows, block.width_px, 3)
    if not block.differenced:
        return pixels
    summed: Pixels = np.cumsum(pixels, axis=1, dtype=np.uint8)
    return summed


def _any_buffer(data: Bytes) -> bytes:
    """Return it as it is: the decoders take every buffer, and their annotations name fewer."""
    return cast(bytes, data)


def _ycbcr_to_rgb(pixels: Pixels) -> Pixels:
    """ITU-R BT.601 at full range, rounded as OpenSlide rounds it."""
    luma, blue, red = (pixels[..., channel].astype(np.int32) for channel in range(3))
    green = (_GREEN_OF_BLUE[blue] + _GREEN_OF_RED[red]) >> 16
    rgb = np.stack([luma + _RED[red], luma + green, luma + _BLUE[blue]], axis=-1)
    clipped: Pixels = np.clip(rgb, 0, 255).astype(np.uint8)
    return clipped
