"""Areas and lines that absorb evenly, as ink does and tissue does not.

Within 12 um, tissue in focus varies by a third of its absorbance, ink by a few percent of noise. Tissue out of focus is
as even as ink, but fades over tens of micrometres where ink ends within a few.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.tissue.absorbance import channel_max, channel_mean, channel_min
from histocast.tissue.shapes import drop_small

Mask = NDArray[np.bool_]
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
