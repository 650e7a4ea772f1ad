"""Pen marks: ink has ratios of absorbance that haematoxylin and eosin cannot have, whatever their mixture.

Red and blue absorbance divided by the green one (Ruifrok and Johnston 2001 for the dyes; ink from the colours
that markers have on scanners):

    dye             red / green   blue / green
    haematoxylin       0.93          0.41
    eosin              0.07          0.11
    real H&E        0.2 - 1.25     0.4 - 0.8       smoothed over 8 um, two laboratories
    blue ink       1.25 - 3       below 0.6
    green ink       above 1.5        any
    red ink         below 0.25    above 0.68
    black ink      all alike, dark
    ink on tissue   absorbs more red over 80 um than packed nuclei do

Green and cyan are impossible in H&E, so thin traces of them count too. The others come near to what dense
nuclei, blood and pigment show, so that only strokes as broad as a pen's tip count.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.tissue.absorbance import channel_max, channel_mean, channel_min
from histocast.tissue.shapes import dilate, drop_small, open_gaps

MIN_STROKE_UM = 80.0
"""Narrowest stroke of ink whose colour comes near to stain; the tips of markers leave 300 to 1,500 um."""

MIN_TRACE_UM = 12.0
"""Narrowest trace of an impossible colour; below it lie colour fringes of the optics."""

MIN_TRACE_UM2 = 2_500.0
MIN_STROKE_UM2 = 20_000.0

TRACE_HALO_UM = 12.0
HALO_UM = 40.0
"""Ink thins out at its rim until its colour passes for stain; this much around a mark is distrusted."""


def find_pen(
    absorbance: NDArray[np.float32], image: NDArray[np.uint8], um_per_px: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return masks [row, column] of ink and of the dark surroundings of the slide.

    ``absorbance`` [row, column, 3] is smoothed over about 8 um; ``image`` is the uint8 RGB it was measured on.
    Dark grey that runs along a quarter of an image side is the slide's edge or its holder, not black ink.
    """
    red, green, blue = (absorbance[..., channel] for channel in range(3))
    mean = channel_mean(absorbance)
    cyan_or_green = (red > 1.5 * green) & (red > 0.15)
    light_green = (green < 0.6 * np.minimum(red, blue)) & (mean > 0.10)
    blue_ink = (red > 1.25 * green) & (blue < 0.6 * green) & (red > 0.30)
    red_ink = (red < 0.25 * green) & (blue > 0.68 * green) & (green > 0.30)
    spread = channel_max(absorbance) - channel_min(absorbance)
    dark = (mean > 0.40) & (spread < 0.20 * mean)

    # Dark blue ink has the ratios of haematoxylin, and ink over tissue those of neither, but nuclei never cover
    # a whole stroke: on real sections no spot of 80 um absorbs more than 0.6 of red throughout.
    heavy = red > 0.75

    surround = _touching_edges(dark | (channel_max(image) <= 24))
    traces = open_gaps(cyan_or_green | light_green, MIN_TRACE_UM / 2, um_per_px)
    strokes = np.zeros_like(traces)
    for ink in (blue_ink, red_ink, dark & ~surround, heavy & ~surround):
        strokes |= open_gaps(ink, MIN_STROKE_UM / 2, um_per_px)
    broad = open_gaps(traces, MIN_STROKE_UM / 2, um_per_px)
    strokes = drop_small(strokes | broad, MIN_STROKE_UM2, um_per_px)
    traces = drop_small(traces, MIN_TRACE_UM2, um_per_px)
    # At least a pixel of rim, whatever the scale: a pixel half ink and half glass has a false colour too.
    pen = dilate(strokes, HALO_UM, um_per_px) | dilate(traces, TRACE_HALO_UM, um_per_px)
    return pen & ~surround, dilate(surround, HALO_UM / 2, um_per_px)


def _touching_edges(dark: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Connected dark regions that meet at least a quarter of the length of one side of the image."""
    count, labels = cv2.connectedComponents(dark.astype(np.uint8), connectivity=8)
    found = np.zeros(count, bool)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        met = np.bincount(side, minlength=count)
        found |= met >= 0.25 * len(side)
    found[0] = False
    return np.asarray(found[labels])
