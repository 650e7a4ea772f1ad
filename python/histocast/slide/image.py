"""Plain images decoded whole: JPEG, PNG, and TIFF that is neither tiled nor plain RGB.

Spatial Transcriptomics sections come so. They have no pyramid and no resolution, and their size in memory is
their size in pixels, which is therefore bounded.
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from histocast.errors import DataError
from histocast.slide.blocks import check_jpeg_end, jpeg_frame_size
from histocast.slide.reader import (
    Blocks,
    CannotOpen,
    Level,
    Pixels,
    SlideMetadata,
    UnreadableBlock,
    make_levels,
)
from histocast.slide.tiff_directories import MAGIC, open_directories
from histocast.storage import Bytes, Source

NAME = "image"

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# 500 million pixels are 1.5 GB; more belongs into a tiled pyramid.
_MAX_PX = 500_000_000
_BLOCK_PX = 1024
_HEADER_BYTES = 1 << 20
_CONVERT = "convert it to a tiled pyramid, for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
_DECODER_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, AssertionError)


def open_reader(source: Source, *, scratch: Path) -> ImageReader:  # noqa: ARG001 - the protocol's parameter
    """See `histocast.slide.reader.OpenReader`."""
    header = source.read(0, _HEADER_BYTES)
    try:
        width, height = _image_size(source, header)
    except (UnreadableBlock, struct.error) as error:
        raise CannotOpen(f"its header cannot be read: {error}") from error
    if width < 1 or height < 1:
        raise CannotOpen(f"its header states {width} x {height} px")
    if width * height > _MAX_PX:
        raise DataError(
            f"an image of {width} x {height} px without tiles",
            expected=f"at most {_MAX_PX // 1_000_000} million pixels where an image must be decoded whole",
            where=source.name,
            advice=_CONVERT,
        )
    return ImageReader(source, width, height)


class ImageReader:
    """See `histocast.slide.reader.Reader`."""

    name = NAME
    far = False

    def __init__(self, source: Source, width_px: int, height_px: int) -> None:
        self.levels: tuple[Level, ...] = make_levels([(width_px, height_px)], [(_BLOCK_PX, _BLOCK_PX)])
        self.metadata = SlideMetadata()
        self._source = source
        self._pixels: Pixels | None = None
        self._lock = threading.Lock()

    def block_bytes(self, level: int, blocks: Blocks) -> int:  # noqa: ARG002 - one image, decoded once
        """Return 0: the image is read whole."""
        return 0

    def expect(self, level: int, blocks: Blocks, *, in_whole_rows: bool) -> None:
        """Do nothing: the image is read whole."""

    def fetch(self, level: int, blocks: Sequence[int]) -> Mapping[int, Bytes]:  # noqa: ARG002
        """Return nothing: the image is read whole."""
        return {}

    def decode(self, level: int, block: int, payload: Bytes | None, into: Pixels) -> None:  # noqa: ARG002
        """Copy the block; the first call decodes the image.

        Raises
        ------
        DataError
            The image is damaged: decoded whole, it has no readable parts to save.
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
        data = self._source.read(0, self._source.stat().size_bytes)
        try:
            pixels = _decode(data)
        except (*_DECODER_ERRORS, UnreadableBlock) as error:
            raise DataError(
                f"the image cannot be decoded: {error}",
                expected="8-bit RGB or grey, complete",
                where=self._source.name,
                advice="copy or export the image again",
            ) from error
        level = self.levels[0]
        if pixels.shape != (level.height_px, level.width_px, 3):
            raise DataError(f"the image decodes to shape {pixels.shape}", where=self._source.name)
        return pixels


def _image_size(source: Source, header: bytes) -> tuple[int, int]:
    if header.startswith(b"\xff\xd8\xff"):
        width, height, _ = jpeg_frame_size(header)
        return width, height
    if header.startswith(_PNG_MAGIC):
        width, height = struct.unpack(">2I", header[16:24])
        return int(width), int(height)
    if header[:4] in MAGIC:
        return _tiff_size(source)
    raise CannotOpen("it is neither JPEG, PNG nor TIFF")


def _tiff_size(source: Source) -> tuple[int, int]:
    with open_directories(source) as file:
        page = file.pages.first
        return int(page.imagewidth), int(page.imagelength)


def _decode(data: bytes) -> Pixels:
    if data.startswith(b"\xff\xd8\xff"):
        check_jpeg_end(data)
        # The orientation an EXIF block may state is not applied: spots are counted in stored pixels.
        pixels: Pixels = imagecodecs.jpeg8_decode(data, outcolorspace="RGB")
        return pixels
    if data.startswith(_PNG_MAGIC):
        return _as_rgb(imagecodecs.png_decode(data))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return _as_rgb(file.pages.first.asarray())


def _as_rgb(pixels: Pixels) -> Pixels:
    if pixels.dtype != np.uint8:
        raise ValueError(f"{pixels.dtype} samples, not 8-bit ones")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[2]
    if channels in (2, 4):
        alpha = pixels[..., -1:].astype(np.uint16)
        colour = pixels[..., :-1].astype(np.uint16)
        pixels = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        channels -= 1
    if channels not in (1, 3):
        raise ValueError(f"{channels} channels, neither grey nor RGB")
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
