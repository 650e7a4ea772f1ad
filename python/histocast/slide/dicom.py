"""The elements of a DICOM file that decide which files belong together, and whether OpenSlide may open them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from histocast.errors import DataError
from histocast.foreign_errors import is_machine_fault

DICOM_MAGIC = b"DICM"
"""Stands behind a preamble of any content."""
DICOM_HEAD_BYTES = 132
"""Preamble and `DICOM_MAGIC`."""

_ITEM, _SEQUENCE_END, _ITEM_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD), (0xFFFE, 0xE00D)
_SERIES_INSTANCE_UID = (0x0020, 0x000E)
_DIMENSION_ORGANIZATION_TYPE = (0x0020, 0x9311)
_NUMBER_OF_FRAMES = (0x0028, 0x0008)
_PER_FRAME_FUNCTIONAL_GROUPS = (0x5200, 0x9230)
_PLANE_POSITION = (0x0048, 0x021A)
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MAX_VALUE_BYTES = 64
# A file that has more elements before its pixels is no slide.
_MAX_ELEMENTS = 10_000


class Element(NamedTuple):
    """An element of a little-endian file, whose value comes next."""

    tag: tuple[int, int]
    length: int


def series_of(path: Path) -> str | None:
    """The Series Instance UID of a DICOM file; nothing where it is none."""
    try:
        # A named pipe would block, a device do what reading it does.
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            for element in _elements(stream):
                if element.tag == _SERIES_INSTANCE_UID:
                    return _text(stream, element)
                if element.tag > _SERIES_INSTANCE_UID:
                    return None
    except OSError as error:
        if is_machine_fault(error):
            raise
    return None


def check_frame_positions(path: Path, *, where: str) -> None:
    """Refuse a DICOM file whose frames lie anywhere and do not all say where: OpenSlide crashes, or shows empty glass.

    Raises `DataError`: it is ``TILED_SPARSE``, and not each of its frames has a functional group that states a
    position.
    """
    kind, frames, positions = "", "", 0
    with path.open("rb") as stream:
        for element in _elements(stream):
            if element.tag == _DIMENSION_ORGANIZATION_TYPE:
                kind = _text(stream, element)
            elif element.tag == _NUMBER_OF_FRAMES:
                frames = _text(stream, element)
            elif element.tag == _PER_FRAME_FUNCTIONAL_GROUPS:
                positions = _count_positions(stream, element)
            if element.tag >= _PER_FRAME_FUNCTIONAL_GROUPS:
                break
    if kind == "TILED_SPARSE" and frames.strip() != str(positions):
        raise DataError(
            f"a DICOM file of {frames.strip() or 'no stated number of'} frames, of which {positions} say where they lie",
            expected="a position for each frame of a file that is TILED_SPARSE",
            where=where,
            advice="export the slide again",
        )


def _elements(stream: BinaryIO) -> Iterator[Element]:
    """Walk the elements of a file itself, over those within sequences; nothing where it is no DICOM file."""
    if stream.read(DICOM_HEAD_BYTES).endswith(DICOM_MAGIC):
        whole_file = Element(_ITEM, _UNDEFINED_LENGTH)
        yield from islice(_within(stream, whole_file, end=_ITEM_END), _MAX_ELEMENTS)


def _read_head(stream: BinaryIO) -> Element | None:
    """The next element; None at the end of the file."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    tag, length = struct.unpack("<HH", head[:4]), struct.unpack("<I", head[4:])[0]
    # With explicit value representations two letters stand before the length.
    if tag not in (_ITEM, _SEQUENCE_END, _ITEM_END) and head[4:6].isalpha() and head[4:6].isupper():
        length = struct.unpack("<H", head[6:])[0]
        if head[4:6] in _LONG_VRS:
            length = struct.unpack("<I", stream.read(4).ljust(4, b"\0"))[0]
    return Element(tag, length)


def _skip_value(stream: BinaryIO, element: Element) -> None:
    if element.length != _UNDEFINED_LENGTH:
        stream.seek(element.length, 1)
        return
    depth = 1
    while depth and (within := _read_head(stream)):
        if within.tag in (_SEQUENCE_END, _ITEM_END):
            depth -= 1
        elif within.length == _UNDEFINED_LENGTH:
            depth += 1
        else:
            stream.seek(within.length, 1)


def _count_positions(stream: BinaryIO, groups: Element) -> int:
    """How many items of a sequence of functional groups say where their frame lies."""
    return sum(
        any(element.tag == _PLANE_POSITION for element in _within(stream, item, end=_ITEM_END))
        for item in _within(stream, groups, end=_SEQUENCE_END)
        if item.tag == _ITEM
    )


def _within(stream: BinaryIO, outer: Element, *, end: tuple[int, int]) -> Iterator[Element]:
    """Walk what a sequence or an item holds."""
    behind = None if outer.length == _UNDEFINED_LENGTH else stream.tell() + outer.length
    while (behind is None or stream.tell() < behind) and (element := _read_head(stream)) and element.tag != end:
        value_at = stream.tell()
        yield element
        stream.seek(value_at)
        _skip_value(stream, element)


def _text(stream: BinaryIO, element: Element) -> str:
    return stream.read(min(element.length, _MAX_VALUE_BYTES)).rstrip(b"\0 ").decode("ascii", "replace")
