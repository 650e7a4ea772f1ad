"""Micrometres per pixel as files state it, and what is no such statement."""

from __future__ import annotations

import re

from histocast.units import MAX_UM_PER_PX, MIN_UM_PER_PX

_APERIO_MPP = re.compile(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)")
_APERIO_POWER = re.compile(r"\|\s*AppMag\s*=\s*([0-9.]+)")
_OME_SIZE = re.compile(r'\bPhysicalSizeX="([0-9.eE+-]+)"')
_OME_UNIT = re.compile(r'\bPhysicalSizeXUnit="([^"]*)"')
_UM_PER_OME_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
_CENTIMETRE = 3
_UM_PER_CM = 10_000.0


def aperio_um_per_px(description: str) -> float | None:
    """The ``MPP`` field of an Aperio image description."""
    return _first_number(_APERIO_MPP, description)


def aperio_objective_power(description: str) -> float | None:
    """The ``AppMag`` field of an Aperio image description."""
    return _first_number(_APERIO_POWER, description)


def ome_um_per_px(xml: str) -> float | None:
    """``PhysicalSizeX`` of the first image of an OME-XML block, whose unit is um unless it says otherwise."""
    size = _first_number(_OME_SIZE, xml)
    unit = _OME_UNIT.search(xml)
    scale = _UM_PER_OME_UNIT.get(unit.group(1)) if unit else 1.0
    return size * scale if size is not None and scale is not None else None


def tag_um_per_px(resolution: float | None, unit: int | None) -> float | None:
    """Resolution from TIFF tags, where it can be a slide's.

    Only pixels per centimetre count: image software writes 72 or 96 per inch into everything, and a value
    outside the range of scanners is a print size.
    """
    if unit != _CENTIMETRE or not resolution or resolution <= 0:
        return None
    um_per_px = _UM_PER_CM / resolution
    return um_per_px if MIN_UM_PER_PX <= um_per_px <= MAX_UM_PER_PX else None


def _first_number(pattern: re.Pattern[str], text: str) -> float | None:
    match = pattern.search(text)
    if match is None:
        return None
    try:
        return float(match.group(1))
    except ValueError:
        return None
