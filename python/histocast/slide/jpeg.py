"""JPEG data to samples, refused where the decoder finds anything wrong with it.

Decoders go on after damage: what is missing becomes grey, and what follows a flipped bit lies in the wrong place or has the
wrong colour. libjpeg-turbo only warns of that, and simplejpeg hands its warnings on as errors.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, cast

import simplejpeg

from histocast.slide.reader import Pixels, UnreadableBlock
from histocast.storage import Bytes

JpegColour = Literal["RGB", "YCBCR", "GREY"]

_FRAME_MARKERS = {0xC0, 0xC1, 0xC2}
# The scan or the end before any frame, and the lossless, hierarchical and arithmetic frames.
_BARRED_MARKERS = {0xD9, 0xDA, *range(0xC3, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Adobe's segment is the one that states the colour of the samples; a JFIF segment would overrule it.
_APPLICATION_MARKERS = range(0xE0, 0xF0)
_START_OF_IMAGE = b"\xff\xd8"
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_STATED_COLOUR = {"RGB": _ADOBE + b"\0", "YCBCR": _ADOBE + b"\1", "GREY": b""}


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG says before its first scan."""

    width_px: int
    height_px: int
    components: int
    bits: int
    application: tuple[tuple[int, int], ...]
    """Where each application segment before the frame begins and ends."""
    frame: int
    """Where the frame header begins."""


def read_jpeg_header(data: Bytes) -> JpegHeader:
    """Return what the markers up to the frame header say.

    Raises `UnreadableBlock`: it is no JPEG, or of a kind slides do not hold (lossless, arithmetic).
    """
    if data[:2] != _START_OF_IMAGE:
        raise UnreadableBlock("no JPEG data")
    position = 2
    application: list[tuple[int, int]] = []
    try:
        while True:
            prefix, marker, length = struct.unpack(">BBH", data[position : position + 4])
            if prefix != 0xFF:
                raise UnreadableBlock("the JPEG header is damaged")
            if marker == 0xFF:  # fill byte before a marker
                position += 1
                continue
            if marker in _FRAME_MARKERS:
                bits, height, width, components = struct.unpack(">BHHB", data[position + 4 : position + 10])
                return JpegHeader(width, height, components, bits, tuple(application), position)
            if marker in _BARRED_MARKERS or length < 2:
                raise UnreadableBlock("the JPEG header is damaged or of an unknown kind")
            if marker in _APPLICATION_MARKERS:
                application.append((position, position + 2 + length))
            position += 2 + length
    except struct.error as error:
        raise UnreadableBlock("the JPEG data ends within its header") from error


def decode_jpeg(
    data: Bytes, header: JpegHeader, *, colour: JpegColour, tables: bytes | None, out: Pixels | None = None
) -> Pixels:
    """Return the samples of a block: RGB, or the one component of a ``GREY`` one.

    ``header``: of ``data``.
    ``colour``: what the samples are, whatever the JPEG's own markers say.
    ``tables``: JPEG tables that all blocks share, an abbreviated stream.
    ``out``: [row, column, sample] To be written, contiguous.
    Raises `UnreadableBlock`: the data is damaged or incomplete.
    """
    parts: list[Bytes] = [_START_OF_IMAGE, _STATED_COLOUR[colour], (tables or b"")[2:-2]]
    position = 2
    for start, stop in header.application:
        parts.append(data[position:start])
        position = stop
    parts.append(data[position:])
    return decode_whole_jpeg(b"".join(parts), components=1 if colour == "GREY" else 3, out=out)


def decode_whole_jpeg(data: Bytes, *, components: int = 3, out: Pixels | None = None) -> Pixels:
    """Return the samples of a JPEG that states its own colour and brings its tables; else as `decode_jpeg`."""
    try:
        pixels = simplejpeg.decode_jpeg(
            cast(bytes, data), colorspace="GRAY" if components == 1 else "RGB", buffer=out, strict=True
        )
    except ValueError as error:
        raise UnreadableBlock(f"the JPEG data is damaged ({error})") from error
    return cast(Pixels, pixels)
