"""Slides of several focal planes or filters, of which OpenSlide would show one and say nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import tifffile

from histocast.errors import DataError
from histocast.foreign_errors import is_machine_fault
from histocast.slide.companions import LISTS, MIRAX
from histocast.slide.tiff_pages import Page

_NDPI_FOCAL_PLANE, _XMP = 65424, 700
_SCN_PLANE = re.compile(r"<dimension\b[^>]*\bz=\"([1-9]\d*)\"")
_BIF_LAYERS = re.compile(rb"\bZ-layers=\"(\d+)\"")
_INDEX_LIMIT_BYTES = 1 << 20
# How OpenSlide refuses a CZI file.
_REASONS = {
    'subblock dimension "Z"': "an axis of focal planes",
    'subblock dimension "T"': "an axis of time",
    "Nonzero subblock channel": "several channels",
}
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


def refuse_planes_of_index(path: Path, *, where: str) -> None:
    """Raise `DataError` for a slide of several files whose index lists several focal planes or filters.

    Sources: the axes in ``Slidedat.ini`` of MIRAX, ``NoLayers`` of Hamamatsu's lists. Any other file passes.
    """
    suffix = path.suffix.lower()
    if suffix == MIRAX:
        text = _read_start(path.with_suffix("") / "Slidedat.ini")
        for number, axis in re.findall(r"^HIER_(\d+)_NAME\s*=\s*(.*?)\s*$", text, re.MULTILINE):
            if axis in _MIRAX_AXES:
                _refuse_more_than_one(rf"HIER_{number}_COUNT", text, _MIRAX_AXES[axis], where)
    elif suffix in LISTS:
        _refuse_more_than_one("NoLayers", _read_start(path), "focal planes", where)


def refuse_planes_by_reason(reason: str, *, where: str) -> None:
    """Raise `DataError` where OpenSlide could not open a slide because it has axes that a brightfield slide lacks."""
    for part, found in _REASONS.items():
        if part in reason:
            raise _refused(f"a slide with {found}", where)


def _refuse_more_than_one(key: str, text: str, what: str, where: str) -> None:
    count = re.search(rf"^{key}\s*=\s*(\d+)", text, re.MULTILINE)
    if count and int(count[1]) > 1:
        raise _several(int(count[1]), what, where)


def _read_start(path: Path) -> str:
    """The text of an index; nothing where it is not there, which OpenSlide says."""
    try:
        with path.open("rb") as stream:
            return stream.read(_INDEX_LIMIT_BYTES).decode("utf-8-sig", "replace")
    except OSError as error:
        if is_machine_fault(error):
            raise
        return ""


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value or "").encode()


def _several(count: int, what: str, where: str) -> DataError:
    return _refused(f"a slide of {count} {what}", where)


def _refused(found: str, where: str) -> DataError:
    return DataError(
        found,
        expected="one focal plane in RGB",
        where=where,
        advice="export one focal plane of the slide as one pyramidal TIFF",
    )
