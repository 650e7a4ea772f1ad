"""Pixels per unit of length as JPEG and PNG files state them."""

from __future__ import annotations

import struct

from histocast.slide.jpeg import JpegHeader
from histocast.slide.reader import CannotOpen
from histocast.slide.resolution import CENTIMETRE, INCH, METRE, Resolution, tag_resolution
from histocast.slide.tiff_directories import open_bytes
from histocast.slide.tiff_pages import page_tag_resolution

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
                found.append(tag_resolution(across, down, _JFIF_UNITS.get(unit), place="its JFIF header"))
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
