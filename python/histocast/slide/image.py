"""Plain images decoded whole: JPEG, PNG, and TIFF that is neither tiled nor plain RGB.

Spatial Transcriptomics sections come so. They have no pyramid and no resolution, and their size in memory is
their size in pixels, which is therefore bounded.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np

from histocast.errors import DataError
from histocast.slide.colour import GREY, RGB, StatedSamples, decide_colour, on_white
from histocast.slide.jpeg import JpegHeader, decode_whole_jpeg, read_jpeg_header
from histocast.slide.reader import (
    CannotOpen,
    Level,
    Payload,
    Pixels,
    ReadsByItself,
    SlideMetadata,
    UnreadableBlock,
    make_levels,
)
from histocast.slide.resolution import CENTIMETRE, INCH, METRE, Resolution, first_usable, tag_resolution
from histocast.slide.tiff import TiffReader
from histocast.slide.tiff_directories import MAGIC, open_bytes
from histocast.slide.tiff_layout import read_layout
from histocast.slide.tiff_pages import page_tag_resolution
from histocast.storage import Source

NAME = "image"

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_PALETTE = 3
_CMYK = 5
# Photometric interpretation and samples of a pixel by colour type; a palette becomes RGB.
_PNG_SAMPLES = {0: (GREY, 1), 2: (RGB, 3), _PNG_PALETTE: (RGB, 3), 4: (GREY, 2), 6: (RGB, 4)}
# 500 million pixels are 1.5 GB; more belongs into a tiled pyramid.
_MAX_PX = 500_000_000
_BLOCK_PX = 1024
# Colour profiles and previews come before the frame header of a JPEG, and can take megabytes.
_HEADER_BYTES = 16 << 20
_CONVERT = "convert it to a tiled pyramid, for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
_DECODER_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError)


def open_reader(source: Source, *, scratch: Path) -> ImageReader:  # noqa: ARG001 - the protocol's parameter
    """See `histocast.slide.reader.OpenReader`."""
    header = source.read(0, _HEADER_BYTES)
    try:
        plain = _describe(source, header)
    except (UnreadableBlock, struct.error) as error:
        raise CannotOpen(f"its header cannot be read: {error}") from error
    if plain.width_px < 1 or plain.height_px < 1:
        raise CannotOpen(f"its header states {plain.width_px} x {plain.height_px} px")
    if plain.width_px * plain.height_px > _MAX_PX:
        raise DataError(
            f"an image of {plain.width_px} x {plain.height_px} px without tiles",
            expected=f"at most {_MAX_PX // 1_000_000} million pixels where an image must be decoded whole",
            where=source.name,
            advice=_CONVERT,
        )
    return ImageReader(source, plain)


@dataclass(frozen=True)
class _PlainImage:
    """What an image states before it is decoded."""

    width_px: int
    height_px: int
    decode: Callable[[Source], Pixels]
    metadata: SlideMetadata


class ImageReader(ReadsByItself):
    """See `histocast.slide.reader.Reader`."""

    name = NAME

    def __init__(self, source: Source, plain: _PlainImage) -> None:
        self.levels: tuple[Level, ...] = make_levels([(plain.width_px, plain.height_px)], [(_BLOCK_PX, _BLOCK_PX)])
        self.metadata = plain.metadata
        self._decode = plain.decode
        self._source = source
        self._pixels: Pixels | None = None
        self._lock = threading.Lock()

    def decode(self, level: int, block: int, payload: Payload | None, into: Pixels) -> None:  # noqa: ARG002
        """Copy the block; the first call decodes the image.

        Raises `DataError`: the image is damaged: decoded whole, it has no readable parts to save.
        """
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decoded()
            pixels = self._pixels
        row, column = divmod(block, self.levels[0].block_columns)
        part = pixels[row * _BLOCK_PX : (row + 1) * _BLOCK_PX, column * _BLOCK_PX : (column + 1) * _BLOCK_PX]
        into[: part.shape[0], : part.shape[1]] = part

    def close(self) -> None:
        """See `Reader.close`."""
        self._pixels = None

    def _decoded(self) -> Pixels:
        try:
            pixels = self._decode(self._source)
        except (*_DECODER_ERRORS, UnreadableBlock) as error:
            raise DataError(
                f"the image cannot be decoded: {error}",
                expected="8-bit RGB, complete",
                where=self._source.name,
                advice="copy or export the image again",
            ) from error
        level = self.levels[0]
        if pixels.shape != (level.height_px, level.width_px, 3):
            raise DataError(f"the image decodes to shape {pixels.shape}", where=self._source.name)
        return pixels


def _describe(source: Source, header: bytes) -> _PlainImage:
    if header.startswith(b"\xff\xd8\xff"):
        return _describe_jpeg(source, header)
    if header.startswith(_PNG_MAGIC):
        return _describe_png(source, header)
    if header[:4] in MAGIC:
        return _describe_tiff(source)
    raise CannotOpen("it is neither JPEG, PNG nor TIFF")


def _describe_jpeg(source: Source, header: bytes) -> _PlainImage:
    stated = read_jpeg_header(header)
    photometric = {1: GREY, 3: RGB}.get(stated.components, _CMYK)
    decide_colour(StatedSamples(photometric, stated.components, stated.bits), decoder_converts=True, where=source.name)
    metadata = _stated_resolution(jpeg_resolutions(header, stated))

    # The orientation an EXIF block may state is not applied: spots are counted in stored pixels.
    def decode(source: Source) -> Pixels:
        return decode_whole_jpeg(_whole(source))

    return _PlainImage(stated.width_px, stated.height_px, decode, metadata)


def _describe_png(source: Source, header: bytes) -> _PlainImage:
    width, height, bits, kind = struct.unpack(">2I2B", header[16:26])
    photometric, count = _PNG_SAMPLES.get(kind, (_CMYK, 0))
    # A palette is expanded by the decoder, whatever the bits of its indices are.
    bits = 8 if kind == _PNG_PALETTE else bits
    stated = StatedSamples(photometric, count, bits, extra=(2,) * (count - 3))
    decide_colour(stated, decoder_converts=False, where=source.name)

    def decode(source: Source) -> Pixels:
        pixels = imagecodecs.png_decode(_whole(source))
        return pixels if pixels.shape[2] == 3 else on_white(pixels[..., :3], pixels[..., 3:])

    return _PlainImage(width, height, decode, _stated_resolution([png_resolution(header)]))


def _describe_tiff(source: Source) -> _PlainImage:
    """One large block, or a few: decoded as the slides of `histocast.slide.tiff` are, into one array."""
    reader = TiffReader(source, read_layout(source, max_block_px=_MAX_PX))
    level = reader.levels[0]

    def decode(source: Source) -> Pixels:  # noqa: ARG001 - the reader has it
        pixels = np.empty((level.block_rows * level.block_height_px, level.width_px, 3), np.uint8)
        whole_rows = level.block_columns == 1 and level.block_width_px == level.width_px
        block_pixels = None if whole_rows else np.empty((level.block_height_px, level.block_width_px, 3), np.uint8)
        for block in range(level.block_rows * level.block_columns):
            row, column = divmod(block, level.block_columns)
            rows = pixels[row * level.block_height_px : (row + 1) * level.block_height_px]
            into = rows if block_pixels is None else block_pixels
            reader.decode(0, block, reader.fetch(0, [block]).get(block), into)
            if block_pixels is not None:
                part = rows[:, column * level.block_width_px : (column + 1) * level.block_width_px]
                part[:] = block_pixels[:, : part.shape[1]]
        return pixels[: level.height_px]

    return _PlainImage(level.width_px, level.height_px, decode, reader.metadata)


def _stated_resolution(statements: list[Resolution]) -> SlideMetadata:
    found = first_usable(statements)
    return SlideMetadata(um_per_px=found.um_per_px, unused_resolution=found.unused)


def _whole(source: Source) -> bytes:
    return source.read(0, source.stat().size_bytes)


_JFIF_UNITS = {1: INCH, 2: CENTIMETRE}
_EXIF = b"Exif\0\0"


def jpeg_resolutions(data: bytes, header: JpegHeader) -> list[Resolution]:
    """Return what the JFIF and EXIF segments of a JPEG state."""
    found = []
    for start, stop in header.application:
        segment = data[start + 4 : stop]
        if segment.startswith(b"JFIF\0") and len(segment) >= 12:
            unit, across, down = struct.unpack(">BHH", segment[7:12])
            # Without a unit the numbers are the shape of a pixel, 1 to 1, and no statement.
            if unit:
                found.append(tag_resolution(across, down, _JFIF_UNITS.get(unit, str(unit)), place="its JFIF header"))
        elif segment.startswith(_EXIF):
            found.append(_exif_resolution(segment[len(_EXIF) :]))
    return found


def png_resolution(data: bytes) -> Resolution:
    """Return what the ``pHYs`` chunk of a PNG states, which lies before its pixels."""
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind == b"pHYs" and length == 9 and position + 17 <= len(data):
            across, down, unit = struct.unpack(">2IB", data[position + 8 : position + 17])
            return tag_resolution(across, down, METRE if unit == 1 else None, place="its pHYs chunk")
        if kind == b"IDAT":
            break
        position += 12 + length
    return Resolution()


def _exif_resolution(data: bytes) -> Resolution:
    try:
        with open_bytes(data) as file:
            return page_tag_resolution(file.pages.first, place="its EXIF block")
    except CannotOpen:
        return Resolution()
