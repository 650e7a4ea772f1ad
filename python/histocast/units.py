"""What resolutions are plausible, and how geometry is written throughout.

The unit of every quantity is in its name: ``_um``, ``_px``, ``_level0_px``. Points are (x, y) in level-0 pixels, x to
the right and y down; arrays are indexed [row, column]. Pixel *i* covers [i, i + 1), so the centre of the first pixel is
at 0.5 and the centre of a slide of width *w* at ``w / 2``.
"""

from __future__ import annotations

from histocast.errors import DataError

# Scanners resolve between 0.1 (100x oil) and 5 um/px (a 2x overview); a value outside is a unit mistake,
# such as nanometres, pixels per micrometre or the objective's magnification, and would move every tile.
MIN_UM_PER_PX = 0.05
MAX_UM_PER_PX = 10.0


def check_um_per_px(value: float, *, where: str) -> float:
    """Return ``value`` as a plausible resolution.

    Raises `DataError`: ``value`` is not finite or outside 0.05 to 10 um/px.
    """
    if not MIN_UM_PER_PX <= value <= MAX_UM_PER_PX:
        raise DataError(
            f"a resolution of {value:g} um/px",
            expected=f"between {MIN_UM_PER_PX:g} and {MAX_UM_PER_PX:g} um/px (0.25 for 40x, 0.5 for 20x)",
            where=where,
            advice="give the slide's micrometres per pixel in the samplesheet column 'mpp'",
        )
    return value
