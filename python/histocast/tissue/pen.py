"""Pen marks: ink absorbs in ratios that haematoxylin and eosin do not have, or evenly, as no tissue does.

Red and blue absorbance divided by the green one (Ruifrok and Johnston 2001 for the dyes; ink from the colours
that markers have on scanners):

    dye             red / green   blue / green
    haematoxylin       0.93          0.41
    eosin              0.07          0.11
    real H&E        0.2 - 1.25     0.4 - 0.8       smoothed over 8 um, two laboratories
    blue ink        0.8 - 3       below 0.6
    violet ink      0.3 - 0.9     below 0.5        like haematoxylin with eosin
    green ink       above 1.5        any
    red ink         below 0.3     above 0.68       like blood
    black ink      all alike, dark

Five signs, in the order of what they need:

- an impossible colour (green, cyan) in a trace as thin as 12 um;
- a colour near to what dense nuclei, blood and pigment show, in a stroke as broad as a pen's tip;
- an even area with a sharp edge. Ink is even within a few percent, tissue in focus is not, and tissue out of focus
  has no sharp edge. This needs no colour, and finds thin ink as well;
- an even thin line on glass;
- a line over tissue that differs from both its sides as this section's stain never does (`strokes`).

What absorbs at least as much as a mark, in red, green and blue alike, and continues it, is the same mark over tissue.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.tissue.absorbance import channel_max, channel_mean, channel_min, smooth
from histocast.tissue.shapes import dilate, drop_small, open_gaps
from histocast.tissue.strokes import find_strokes

Mask = NDArray[np.bool_]

MIN_STROKE_UM = 80.0
"""Narrowest stroke of ink whose colour comes near to stain; the tips of markers leave 300 to 1,500 um."""

MIN_TRACE_UM = 12.0
"""Narrowest trace of an impossible colour; below it lie colour fringes of the optics."""

MIN_TRACE_UM2 = 2_500.0
MIN_STROKE_UM2 = 20_000.0

TRACE_HALO_UM = 12.0
HALO_UM = 40.0
"""Ink thins out at its rim until its colour passes for stain; this much around a mark is distrusted."""

COLOUR_UM = 20.0
"""Diameter over which colours near to stain are averaged: single nuclei are darker and bluer than any tissue."""

MIN_STAIN = 0.055
MIN_STAINED_UM2 = 10_000.0
"""Least excess of green absorbance, and least area, of what is looked at as tissue that strokes may cross."""

CONTINUED_MARKS = 8
"""The largest marks are followed onto tissue: each costs some passes over the image."""
CONTINUED_UM = 36.0
CONTINUED_SHARE = 0.85
MAX_CONTINUED_AREA = 5.0
"""A continuation that is larger than this, in areas of the mark, is tissue as dark as the ink."""


def find_pen(absorbance: NDArray[np.float32], image: NDArray[np.uint8], um_per_px: float) -> tuple[Mask, Mask]:
    """Return masks [row, column] of ink and of the dark border of the slide.

    ``absorbance`` [row, column, 3] is smoothed over about 8 um; ``image`` is the uint8 RGB it was measured on.
    Dark grey that runs along a quarter of an image side is the slide's edge or its holder, not black ink.
    """
    mean = channel_mean(absorbance)
    dark = (mean > 0.40) & (channel_max(absorbance) - channel_min(absorbance) < 0.20 * mean)
    border = _touching_edges(dark | (channel_max(image) <= 24))

    impossible = open_gaps(_impossible_colour(absorbance), MIN_TRACE_UM / 2, um_per_px)
    strokes = open_gaps(impossible, MIN_STROKE_UM / 2, um_per_px)
    for ink in (dark, *_colours_near_stain(absorbance, um_per_px)):
        strokes |= open_gaps(ink & ~border, MIN_STROKE_UM / 2, um_per_px)
    strokes = drop_small(strokes, MIN_STROKE_UM2, um_per_px)

    traces = drop_small(impossible, MIN_TRACE_UM2, um_per_px)
    traces |= find_even_areas(absorbance, ~border, um_per_px) | find_even_lines(absorbance, ~border, um_per_px)
    traces |= _continue_marks(strokes | traces, absorbance, um_per_px) & ~border
    stained = _could_be_stained(absorbance) & ~(border | strokes | traces)
    stained = drop_small(stained, MIN_STAINED_UM2, um_per_px)
    traces |= find_strokes(absorbance, stained, um_per_px, known=strokes | traces) & ~border
    # At least a pixel of rim, whatever the scale: a pixel half ink and half glass has a false colour too.
    pen = dilate(strokes, HALO_UM, um_per_px) | dilate(traces, TRACE_HALO_UM, um_per_px)
    return pen & ~border, dilate(border, HALO_UM / 2, um_per_px)


def _impossible_colour(absorbance: NDArray[np.float32]) -> Mask:
    """Green and cyan, which no mixture of the dyes gives."""
    red, green, blue = (absorbance[..., channel] for channel in range(3))
    cyan_or_green = (red > 1.5 * green) & (red > 0.15)
    light_green = (green < 0.6 * np.minimum(red, blue)) & (channel_mean(absorbance) > 0.10)
    return np.asarray(cyan_or_green | light_green)


def _could_be_stained(absorbance: NDArray[np.float32]) -> Mask:
    """What absorbs as stain may: green beyond red or blue."""
    red, green, blue = (absorbance[..., channel] for channel in range(3))
    return np.asarray((green - np.minimum(red, blue) > MIN_STAIN) & (red < 1.6 * green))


def _colours_near_stain(absorbance: NDArray[np.float32], um_per_px: float) -> tuple[Mask, ...]:
    """Blue, red and orange, and what absorbs more red than packed nuclei do, as ink over tissue does."""
    red, green, blue = (smooth(absorbance[..., channel], COLOUR_UM / 2 / um_per_px) for channel in range(3))
    blue_ink = (red > 1.22 * green) & (blue < 0.6 * green) & (red > 0.2)
    red_ink = (red < 0.25 * green) & (blue > 0.68 * green) & (green > 0.3)
    orange_ink = (red < 0.5 * green) & (blue > 0.85 * green) & (green > 0.2)
    return blue_ink, red_ink, orange_ink, absorbance[..., 0] > 0.75


def _continue_marks(marks: Mask, absorbance: NDArray[np.float32], um_per_px: float) -> Mask:
    """Marks together with what continues them over tissue."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marks.astype(np.uint8), connectivity=8)
    areas_px = stats[1:, cv2.CC_STAT_AREA]
    found = marks.copy()
    for label in np.argsort(-areas_px, kind="stable")[:CONTINUED_MARKS] + 1:
        if areas_px[label - 1] * um_per_px**2 >= MIN_TRACE_UM2:
            found |= _continue_mark(labels == label, absorbance, um_per_px)
    return found


def _continue_mark(mark: Mask, absorbance: NDArray[np.float32], um_per_px: float) -> Mask:
    """One mark and what absorbs as it does in every channel, touches it, and is about as broad."""
    least = CONTINUED_SHARE * np.percentile(absorbance[mark], 25, axis=0)
    half_px = float(cv2.distanceTransform(np.pad(mark, 1).astype(np.uint8), cv2.DIST_L2, 5).max())
    like_it = mark | channel_min((absorbance >= least).astype(np.uint8)).astype(bool)
    like_it = open_gaps(like_it, max(CONTINUED_UM / 2, 0.6 * half_px * um_per_px), um_per_px)
    like_it &= ~open_gaps(like_it, (1.5 * half_px + 2) * um_per_px, um_per_px)
    like_it |= mark
    if np.count_nonzero(like_it & ~mark) > MAX_CONTINUED_AREA * np.count_nonzero(mark):
        return mark
    count, labels = cv2.connectedComponents(like_it.astype(np.uint8), connectivity=8)
    touching = np.zeros(count, bool)
    touching[np.unique(labels[mark])] = True
    return np.asarray(touching[labels])


def _touching_edges(dark: Mask) -> Mask:
    """Connected dark regions that meet at least a quarter of the length of one side of the image."""
    count, labels = cv2.connectedComponents(dark.astype(np.uint8), connectivity=8)
    found = np.zeros(count, bool)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        met = np.bincount(side, minlength=count)
        found |= met >= 0.25 * len(side)
    found[0] = False
    return np.asarray(found[labels])


Plane = NDArray[np.float32]

MIN_ABSORBANCE = 0.12
MIN_PLAIN_ABSORBANCE = 0.2
"""Least mean absorbance of an even area whose colour is unlike stain's, and of any colour."""
EVEN = 0.10
EVEN_PLAIN = 0.06
EVEN_LINE = 0.08
"""Largest variation between neighbouring pixels, as a share of their absorbance."""
MIN_ODD_UM2 = 3_000.0
MIN_PLAIN_UM2 = 6_000.0

SHARP_STEP = 0.45
"""Step within a pixel of the edge, as a share of the area's absorbance: a sharp one gives nearly all of it."""
SHARP_SHARE = 0.5
"""Least share of an area's edge that is sharp."""

MIN_LINE_UM = 300.0
MAX_LINE_SPREAD = 0.15
"""Standard deviation along a line, as a share of its mean absorbance."""
MIN_LINE_COLOUR = 0.3
MIN_BLACK_LINE = 0.5
"""Least difference between channels, as a share of their mean, or least mean absorbance: edges of coverslips and
scratches are grey."""
GLASS_BESIDE_LINE = 0.2
"""Within four pixels of a line there is less than this share of its absorbance."""

_SQUARE = np.ones((3, 3), np.uint8)
_WIDE_SQUARE = np.ones((5, 5), np.uint8)
_NEAR_LINE = np.ones((9, 9), np.uint8)
_diagonal = np.eye(3, dtype=np.uint8)
_DIRECTIONS = (_SQUARE[:1], _SQUARE[:, :1], _diagonal, np.ascontiguousarray(_diagonal[::-1]))


def find_even_areas(absorbance: NDArray[np.float32], where: Mask, um_per_px: float) -> Mask:
    """Return even areas with a sharp edge [row, column] among the pixels ``where``.

    Small ones count where their ratios of red, green and blue absorbance lie at the rim of what stain has.
    """
    red, green, blue = (absorbance[..., channel] for channel in range(3))
    mean = channel_mean(absorbance)
    step = _range(mean, _SQUARE)
    odd = (blue < 0.4 * green) | (blue > 0.8 * green) | (red > 1.2 * green) | (red < 0.22 * green)
    even = where & (mean > MIN_ABSORBANCE) & (step < EVEN * mean)
    plain = even & (mean > MIN_PLAIN_ABSORBANCE) & (step < EVEN_PLAIN * mean)
    areas = drop_small(even & odd, MIN_ODD_UM2, um_per_px) | drop_small(plain, MIN_PLAIN_UM2, um_per_px)
    return _with_sharp_edge(areas, mean, step)


def find_even_lines(absorbance: NDArray[np.float32], where: Mask, um_per_px: float) -> Mask:
    """Return thin even lines on glass [row, column] among the pixels ``where``; grey ones only if they are dark."""
    mean = channel_mean(absorbance)
    colour = cv2.blur(channel_max(absorbance) - channel_min(absorbance), (5, 5))
    ink = (colour > MIN_LINE_COLOUR * cv2.blur(mean, (5, 5))) | (mean > MIN_BLACK_LINE)
    along = np.minimum.reduce([_range(mean, direction) for direction in _DIRECTIONS])
    crest = mean > 0.75 * cv2.dilate(mean, _WIDE_SQUARE)
    on_glass = cv2.erode(mean, _NEAR_LINE) < GLASS_BESIDE_LINE * mean
    lines = where & (mean > MIN_ABSORBANCE) & (along < EVEN_LINE * mean) & crest & on_glass & ink
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lines.astype(np.uint8), connectivity=8)
    length_px = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    level = _mean_by_label(labels, mean, count)
    spread = np.sqrt(np.maximum(_mean_by_label(labels, mean**2, count) - level**2, 0))
    keep = (length_px * um_per_px >= MIN_LINE_UM) & (spread < MAX_LINE_SPREAD * level)
    keep[0] = False
    return np.asarray(keep[labels])


def _with_sharp_edge(areas: Mask, mean: Plane, step: Plane) -> Mask:
    """Those of the connected ``areas`` of which most of the edge is sharp."""
    count, labels = cv2.connectedComponents(areas.astype(np.uint8), connectivity=8)
    level = _mean_by_label(labels, mean, count)
    nearest = np.asarray(cv2.dilate(labels.astype(np.float32), _SQUARE), np.int64)
    rim = (nearest > 0) & (labels == 0)
    # The even part of a stroke ends some pixels before its edge.
    steepest = cv2.dilate(step, _WIDE_SQUARE)
    sharp = (steepest >= SHARP_STEP * level[nearest]).astype(np.float32)
    keep = _mean_by_label(nearest[rim], sharp[rim], count) >= SHARP_SHARE
    keep[0] = False
    return np.asarray(keep[labels])


def _range(values: Plane, kernel: NDArray[np.uint8]) -> Plane:
    return np.asarray(cv2.dilate(values, kernel) - cv2.erode(values, kernel), np.float32)


def _mean_by_label(labels: NDArray[Any], values: Plane, count: int) -> NDArray[np.float64]:
    sizes = np.bincount(labels.ravel(), minlength=count)
    return np.asarray(np.bincount(labels.ravel(), values.ravel(), count) / np.maximum(sizes, 1), np.float64)
