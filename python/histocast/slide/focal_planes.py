"""Slides of several focal planes or filters, of which OpenSlide would show one and say nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import tifffile

from histocast.errors import DataError
from histocast.foreign_errors import is_machine_fault
from histocast.slide.tiff_pages import Page

_NDPI_FOCAL_PLANE, _XMP = 65424, 700
_SCN_PLANE = re.compile(r"<dimension\b[^>]*\bz=\"([1-9]\d*)\"")
_BIF_LAYERS = re.compile(rb"\bZ-layers=\"(\d+)\"")
_MIRAX_LIMIT_BYTES = 1 << 20
_MIRAX_AXES = {"Microscope focus level": "focal planes", "Slide filter level": "filters"}


def refuse_planes_of_tiff(file: tifffile.TiffFile, pages: Sequence[Page], *, where: str) -> None:
    """Raise `DataError` for an NDPI, SCN or BIF file of several focal planes.

    Sources: tag 65424 (distance from the middle plane) of NDPI, ``z`` of a dimension of SCN, ``Z-layers`` of BIF.
    """
    planes = 1
    if file.is_ndpi:
        planes = len({page.tags.valueof(_NDPI_FOCAL_PLANE) or 0 for page in pages})
    elif file.is_scn:
        planes = 1 + max((int(z) for z in _SCN_PLANE.findall(file.pages.first.description)), default=0)
    elif file.is_bif:
        stated = (_BIF_LAYERS.search(_bytes(page.tags.valueof(_XMP))) for page in pages)
        planes = max((int(match[1]) for match in stated if match), default=1)
    if planes > 1:
        raise _several(planes, "focal planes", where)


def refuse_planes_of_mirax(folder: Path, *, where: str) -> None:
    """Raise `DataError` for a MIRAX slide of several focal planes or filters, as its ``Slidedat.ini`` lists them."""
    try:
        with (folder / "Slidedat.ini").open("rb") as stream:
            text = stream.read(_MIRAX_LIMIT_BYTES).decode("utf-8-sig", "replace")
    except OSError as error:
        if is_machine_fault(error):
            raise
        # OpenSlide says what is missing.
        return
    for number, axis in re.findall(r"^HIER_(\d+)_NAME\s*=\s*(.*?)\s*$", text, re.MULTILINE):
        count = re.search(rf"^HIER_{number}_COUNT\s*=\s*(\d+)", text, re.MULTILINE)
        if axis in _MIRAX_AXES and count and int(count[1]) > 1:
            raise _several(int(count[1]), _MIRAX_AXES[axis], where)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value or "").encode()


def _several(count: int, what: str, where: str) -> DataError:
    return DataError(
        f"a slide of {count} {what}",
        expected="one focal plane in RGB",
        where=where,
        advice="export one focal plane of the slide as one pyramidal TIFF",
    )
