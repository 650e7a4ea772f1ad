"""Physical units as types, and the few conversions between them.

A bare float says nothing; ``Microns`` and ``UmPerPx`` cannot be mixed up by a type checker, and a name that
ends in ``_um``, ``_px`` or ``_level0_px`` cannot be mixed up by a reader. Points are (x, y) in level-0
pixels, x to the right and y down; arrays are indexed [row, column]. Pixel *i* covers [i, i + 1), so the
centre of the first pixel is at 0.5 and the centre of a slide of width *w* at ``w / 2``.
"""

from __future__ import annotations

from typing import NewType

from histocast.errors import DataError

Microns = NewType("Microns", float)
UmPerPx = NewType("UmPerPx", float)
Level0Px = NewType("Level0Px", float)

# Scanners resolve between 0.1 (100x oil) and 5 um/px (a 2x overview); a value outside is a unit mistake,
# such as nanometres, pixels per micrometre or the objective's magnification, and would move every tile.
MIN_UM_PER_PX = UmPerPx(0.05)
MAX_UM_PER_PX = UmPerPx(10.0)


def to_level0_px(length: Microns, *, um_per_px: UmPerPx) -> Level0Px:
    """A length in level-0 pixels of a slide of ``um_per_px``."""
    return Level0Px(length / um_per_px)


def check_um_per_px(value: float, *, where: str) -> UmPerPx:
    """Return ``value`` as a plausible resolution.

    Raises
    ------
    DataError
        ``value`` is not finite or outside 0.05 to 10 um/px.
    """
    if not MIN_UM_PER_PX <= value <= MAX_UM_PER_PX:
        raise DataError(
            f"a resolution of {value:g} um/px",
            expected=f"between {MIN_UM_PER_PX:g} and {MAX_UM_PER_PX:g} um/px (0.25 for 40x, 0.5 for 20x)",
            where=where,
            advice="give the slide's micrometres per pixel in the samplesheet column 'mpp'",
        )
    return UmPerPx(value)
