"""Micrometres per pixel as files state it, and why a statement is not used.

One rule for all formats: a length per pixel with its unit, equal along both axes to within 1 %, and within what scanners
have. Image software writes 72, 96 or 300 pixels per inch into everything; those lie far outside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from histocast.units import MAX_UM_PER_PX, MIN_UM_PER_PX

INCH, CENTIMETRE, METRE = 2, 3, 4
"""Units of a resolution; the first two as in the tags of TIFF."""

# No absolute unit, in TIFF and EXIF.
_NO_UNIT = 1
_UM_PER_UNIT: dict[int | str | None, float] = {INCH: 25_400.0, CENTIMETRE: 10_000.0, METRE: 1e6}
_UNIT_NAMES: dict[int | str | None, str] = {INCH: "inch", CENTIMETRE: "cm", METRE: "m"}
_NUMBER = re.compile(r"\+?[0-9]*[.,]?[0-9]+([eE][+-]?[0-9]+)?|\+?[0-9]+[.,]")
_IMAGEJ_UNIT = re.compile(r"^unit=(.*)$", re.MULTILINE)
_APERIO_MPP = re.compile(r"\|\s*MPP\s*=\s*([^|\s]+)")
_APERIO_POWER = re.compile(r"\|\s*AppMag\s*=\s*([^|\s]+)")
_UM_PER_OME_UNIT = {
    **dict.fromkeys(("\u00b5m", "\u03bcm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("\u00c5", "\u212b"), 1e-4),
    "pm": 1e-6,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "in": 25_400.0,
    "thou": 25.4,
    "mil": 25.4,
}
_MAX_ANISOTROPY = 0.01


@dataclass(frozen=True)
class Resolution:
    """What one statement, or all of a file's, come to."""

    um_per_px: float | None = None
    unused: str | None = None
    """What is stated where, and why it is not used."""


def first_usable(statements: Iterable[Resolution]) -> Resolution:
    """Return the first statement that can be used, else why each cannot."""
    reasons = []
    for statement in statements:
        if statement.um_per_px is not None:
            return statement
        if statement.unused:
            reasons.append(statement.unused)
    return Resolution(unused="; ".join(reasons) or None)


def aperio_resolution(description: str) -> Resolution:
    """The ``MPP`` field of an Aperio image description; whether a scanner can have it is decided where it is used."""
    stated = dict.fromkeys(_APERIO_MPP.findall(description))
    if len({parse_number(value) for value in stated}) > 1:
        both = " and ".join(stated)
        return Resolution(unused=f"it states {both} um/px in the Aperio description, not used because they differ")
    return stated_um_per_px(next(iter(stated), None), None, place="the Aperio description", bounded=False)


def aperio_objective_power(description: str) -> float | None:
    """The ``AppMag`` field of an Aperio image description."""
    match = _APERIO_POWER.search(description)
    return parse_number(match.group(1)) if match else None


def ome_resolution(physical: dict[str, tuple[str, str]]) -> Resolution:
    """``PhysicalSizeX`` and ``PhysicalSizeY`` with their units, by axis."""
    um_per_px: list[float | None] = []
    for axis in "XY":
        if axis not in physical:
            um_per_px.append(None)
            continue
        size, unit = parse_number(physical[axis][0]), _UM_PER_OME_UNIT.get(physical[axis][1].strip())
        if size is None or unit is None:
            what = "a number" if size is None else "a unit of length"
            return Resolution(unused=f"it states PhysicalSize{axis} in its OME-XML, not used because it lacks {what}")
        um_per_px.append(size * unit)
    return stated_um_per_px(*um_per_px, place="its OME-XML")


def tag_resolution(
    across: float | None, down: float | None, unit: int | str | None, *, place: str = "its TIFF tags"
) -> Resolution:
    """Pixels per unit along both axes, from TIFF tags or the like.

    ``unit`` is `INCH`, `CENTIMETRE` or `METRE`; None where none is stated; and text, as the file has it, where what is
    stated is no unit of length.
    """
    if not across or not 0 < across < float("inf"):
        return Resolution()
    if unit not in _UM_PER_UNIT:
        if across == 1:
            return Resolution()  # what writers put there who have nothing to state
        why = "no unit of length is stated" if unit is None else f"the unit is {unit}, which is neither inch nor cm"
        return Resolution(unused=f"it states {across:g} pixels in {place}, not used because {why}")
    um = _UM_PER_UNIT[unit]
    along_y = um / down if down and 0 < down < float("inf") else None
    found = stated_um_per_px(um / across, along_y, place=place)
    if found.unused and um / across > MAX_UM_PER_PX:
        return Resolution(
            unused=f"it states {across:g} pixels per {_UNIT_NAMES[unit]} in {place}, not used because that is a"
            f" resolution of screens and print ({um / across:.4g} um/px)"
        )
    return found


def imagej_resolution(description: str, across: float | None, down: float | None) -> Resolution:
    """Pixels per unit along both axes, from the tags, and the unit, which ImageJ writes into the description."""
    stated = _IMAGEJ_UNIT.search(description)
    unit = stated[1].strip().replace(r"\u00B5", "\u00b5") if stated else None
    um = _UM_PER_OME_UNIT.get({"inch": "in"}.get(unit, unit)) if unit else None
    if um is None or not across or not down:
        return tag_resolution(across, down, unit)
    return stated_um_per_px(um / across, um / down, place="its ImageJ description")


def tag_unit(value: float | None) -> int | str | None:
    """The unit that the tag of a TIFF or EXIF block states, for `tag_resolution`."""
    if value is None or value == _NO_UNIT:
        return None
    return int(value) if value in (INCH, CENTIMETRE) else f"{value:g}"


def stated_um_per_px(
    along_x: float | str | None, along_y: float | str | None, *, place: str, bounded: bool = True
) -> Resolution:
    """Check micrometres per pixel along both axes, the second of which may be left out."""
    if along_x is None and along_y is None:
        return Resolution()
    x, y = (parse_number(value) for value in (along_x, along_y))
    if x is None and y is None:
        return Resolution(unused=f"it states a resolution in {place}, not used because it is no number")
    x, y = x or y or 0.0, y or x or 0.0
    if abs(x - y) > _MAX_ANISOTROPY * max(x, y):
        return Resolution(
            unused=f"it states {x:.4g} um/px along x and {y:.4g} along y in {place}, not used because they differ by more"
            " than 1 % and pixels must be square"
        )
    um_per_px = x if x == y else (x + y) / 2
    if bounded and not MIN_UM_PER_PX <= um_per_px <= MAX_UM_PER_PX:
        return Resolution(
            unused=f"it states {um_per_px:.4g} um/px in {place}, not used because scanners have"
            f" {MIN_UM_PER_PX:g} to {MAX_UM_PER_PX:g}"
        )
    return Resolution(um_per_px)


def parse_number(value: float | str | None) -> float | None:
    """Return a positive number, with a point or a comma before its decimals; None where it is none.

    >>> parse_number("0,4990"), parse_number("0.25"), parse_number("1,234.5"), parse_number("0_5"), parse_number("none")
    (0.499, 0.25, None, None, None)
    """
    if isinstance(value, str):
        # Python itself would read "0_5" as 5.
        value = float(value.strip().replace(",", ".")) if _NUMBER.fullmatch(value.strip()) else None
    return value if value is not None and 0 < value < float("inf") else None
