"""Strokes of ink over tissue: lines that differ from both their sides as this section's stain never does.

Beneath a stroke the stain goes on, so that its colour is a mixture, and thin or pale ink over dark tissue has a colour
that stain has elsewhere. What the stroke *adds* is still the ink's own. So each slide is measured against itself:

- A line is the mean absorbance over about 300 um in one of eight directions, and its contrast the difference to a line
  on either side. That averages nuclei and fibres, and what a stroke adds remains.
- Contrasts of the whole section have a covariance. Along two axes they are large, since there are two dyes; along the
  third there is nothing but noise, and there most inks stand out. Contrast is measured in standard deviations, as the
  lesser of the two sides, and counts for less along the axes of the dyes: bands of one tissue in another, and folds,
  differ from what surrounds them by much.
- Tissue reaches 6 over 200 um at most (nine sections of five patients); a stroke goes on for longer.

Each halving of the picture doubles the width that is looked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.tissue.absorbance import smooth

Mask = NDArray[np.bool_]
Planes = NDArray[np.float32]

WORK_UM_PER_PX = 12.0
"""Finer pictures are brought to this resolution: a stroke of 45 um is four pixels, and a line of 26 is 300 um."""

LINE_PX = 26
SIDE_PX = 4
"""Distance from a line's middle to the middle of those beside it."""
HALVINGS = 4
"""The widest strokes looked for are 16 times as wide as the narrowest."""

MIN_CONTRAST = 6.0
"""Least contrast of ink, in standard deviations of the section's own."""
MIN_LENGTH_PX = (28, 20)
"""Least length over which it has that contrast: in the finest picture, and in the others."""
GROWN_CONTRAST = 4.0
GROWN_SHARE = 0.35
"""From there a stroke goes on while its contrast is above both: the second as a share of its own."""

MIN_SPREAD = (0.006, 0.02, 0.03)
"""Added to the standard deviations of contrast, in absorbance, from the least: for compression and rounding, and for
bands and folds that are as common elsewhere."""
INNER = 0.85
"""Share of contrasts that the covariance is of: neither ink nor folds nor the tissue's edge are to count."""
_ROUNDING = 1e-7
_MEDIAN_DISTANCE = 2.366
"""Median of chi-squared with three degrees of freedom."""

FILL_PX = 6.0
MIN_TISSUE_PX = 400
MIN_SIDE_PX = 24

_STEPS = ((1, 0), (2, 1), (1, 1), (1, 2), (0, 1), (-1, 2), (-1, 1), (-2, 1))
_SQUARE = np.ones((3, 3), np.uint8)
_NEAR_TISSUE = np.ones((5, 5), np.uint8)


def find_strokes(absorbance: Planes, tissue: Mask, um_per_px: float, *, known: Mask) -> Mask:
    """Return strokes of ink [row, column] over ``tissue``; ``absorbance`` is [row, column, 3].

    ``known`` is ink that was found by other signs: in broad lines it would darken what lies next to it.
    """
    strokes = np.zeros(tissue.shape, bool)
    left, top, width, height = cv2.boundingRect(tissue.astype(np.uint8))
    window = np.s_[top : top + height, left : left + width]
    shrink = max(1.0, WORK_UM_PER_PX / um_per_px)
    planes, stained = absorbance[window], tissue[window].astype(np.float32)
    for halving in range(HALVINGS + 1):
        size = round(width / shrink / 2**halving), round(height / shrink / 2**halving)
        if min(size) < MIN_SIDE_PX:
            break
        planes = np.asarray(cv2.resize(planes, size, interpolation=cv2.INTER_AREA), np.float32)
        stained = np.asarray(cv2.resize(stained, size, interpolation=cv2.INTER_AREA), np.float32)
        if np.count_nonzero(stained > 0.5) < MIN_TISSUE_PX:
            break
        hole = cv2.resize(known[window].astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
        found = _find_lines(
            _fill(planes, hole) if halving and hole.any() else planes, stained > 0.5, MIN_LENGTH_PX[halving > 0]
        )
        strokes[window] |= cv2.resize(found.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        # In the next picture what was found would pass for a pale broad stroke.
        planes = _fill(planes, found)
    return strokes


def _fill(planes: Planes, hole: Mask) -> Planes:
    """The picture with ``hole`` in the mean absorbance around it."""
    around = (cv2.dilate(hole.astype(np.uint8), _SQUARE) == 0).astype(np.float32)
    if not around.any():
        return planes
    mean = smooth(planes * around[..., None], FILL_PX) / np.maximum(smooth(around, FILL_PX), 1e-3)[..., None]
    # Deep in a broad hole there is nothing around: the mean at the nearest place outside it is taken.
    _, labels = cv2.distanceTransformWithLabels(
        (around == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.zeros((int(labels.max()) + 1, 3), np.float32)
    nearest[labels[around > 0]] = mean[around > 0]
    return np.where(around[..., None] > 0, planes, nearest[labels])


def _find_lines(absorbance: Planes, tissue: Mask, min_length_px: int) -> Mask:
    """Lines about five pixels wide that are longer than tissue has them at this contrast."""
    contrast = _measure_contrast(absorbance, _whiten(absorbance, tissue))
    contrast[cv2.dilate(tissue.astype(np.uint8), _NEAR_TISSUE) == 0] = 0
    _, labels, stats, _ = cv2.connectedComponentsWithStats((contrast > MIN_CONTRAST).astype(np.uint8), connectivity=8)
    length_px = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    length_px[0] = 0
    core = np.asarray((length_px >= min_length_px)[labels])
    if not core.any():
        return core
    count, labels = cv2.connectedComponents((contrast > GROWN_CONTRAST).astype(np.uint8), connectivity=8)
    own = np.zeros(count, np.float32)
    for label in np.unique(labels[core]):
        own[label] = np.percentile(contrast[core & (labels == label)], 75)
    grown = (own[labels] > 0) & (contrast > GROWN_SHARE * own[labels])
    # The contrast falls before the stroke's edge, where one of its sides is half ink.
    return np.asarray(cv2.dilate(grown.astype(np.uint8), _SQUARE) > 0)


def _whiten(absorbance: Planes, tissue: Mask) -> NDArray[np.float32]:
    """Matrix [3, 3] that makes contrasts of this tissue alike along all axes."""
    taken = []
    for one_side, _ in _contrasts(absorbance, _STEPS[::2]):
        values = one_side[tissue]
        taken.append(values[:: max(1, len(values) // 6000)])
    sample = np.concatenate(taken).astype(np.float64)
    covariance = sample.T @ sample / len(sample)
    for _ in range(7):
        distance = np.einsum("ij,jk,ik->i", sample, np.linalg.inv(covariance + _ROUNDING * np.eye(3)), sample)
        spread = covariance * np.median(distance) / _MEDIAN_DISTANCE
        inner = sample[distance <= np.quantile(distance, INNER)]
        covariance = inner.T @ inner / len(inner)
    variance, axes = np.linalg.eigh(spread)
    return np.asarray((axes / np.sqrt(np.maximum(variance, 0) + np.square(MIN_SPREAD))).T, np.float32)


def _measure_contrast(absorbance: Planes, whitening: NDArray[np.float32]) -> Planes:
    """Contrast [row, column] of the line that is darker than both its sides by most; 0 where there is none."""
    darker = np.linalg.solve(whitening.T.astype(np.float64), np.ones(3)).astype(np.float32)
    most = np.zeros(absorbance.shape[:2], np.float32)
    for sides in _contrasts(np.asarray(cv2.transform(absorbance, whitening), np.float32), _STEPS):
        least = np.full(most.shape, np.inf, np.float32)
        for side in sides:
            np.minimum(least, np.where(side @ darker > 0, (side * side).sum(axis=2), 0), out=least)
        np.maximum(most, least, out=most)
    return np.sqrt(most)


def _contrasts(planes: Planes, steps: tuple[tuple[int, int], ...]) -> Iterator[tuple[Planes, Planes]]:
    """For each direction what lines differ in from those on their two sides, [row, column, channel] each."""
    for across, down in steps:
        length = float(np.hypot(across, down))
        line = _mean_along(planes, across, down, 2 ** round(float(np.log2(LINE_PX / length))))
        side = round(-down / length * SIDE_PX), round(across / length * SIDE_PX)
        yield line - _shift(line, *side), line - _shift(line, -side[0], -side[1])


def _mean_along(planes: Planes, across: int, down: int, count: int) -> Planes:
    """Mean of ``count`` pixels (a power of two), each a step from the last, around each pixel."""
    mean, taken = planes, 1
    while taken < count:
        mean = np.asarray((mean + _shift(mean, across * taken, down * taken)) / 2, np.float32)
        taken *= 2
    return _shift(mean, -round(across * (count - 1) / 2), -round(down * (count - 1) / 2))


def _shift(planes: Planes, across: int, down: int) -> Planes:
    """The picture as it is ``across`` columns and ``down`` rows further on; its edges repeat."""
    rows, columns = planes.shape[:2]
    padded: NDArray[Any] = cv2.copyMakeBorder(
        planes, max(0, -down), max(0, down), max(0, -across), max(0, across), cv2.BORDER_REPLICATE
    )
    top, left = max(0, down), max(0, across)
    return padded[top : top + rows, left : left + columns]
