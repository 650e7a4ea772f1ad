"""From colour to absorbance: what the bare glass looks like, and how much each pixel absorbs beyond it.

Stain follows Beer and Lambert: absorbances of dyes add up, and their ratios between red, green and blue stay
those of the dye however thick the section is. That makes absorbance the right space both for finding tissue
(any background colour cancels) and for telling ink from stain.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

WORK_UM_PER_PX = 4.0
"""Finer thumbnails are brought to this resolution, so that one set of thresholds serves small sections and whole
slides alike: nuclei are averaged with what surrounds them, and structures of 10 um are still seen."""

DEFAULT_GLASS = np.array([242.0, 242.0, 242.0], np.float32)

# Glass is bright and almost without colour; even strongly tinted backgrounds stay below this saturation, while
# eosin that is out of focus (the only smooth tissue) lies above it.
_MIN_GLASS_LUMINANCE = 120.0
_MAX_GLASS_SATURATION = 0.15
_MAX_GLASS_STEP = 4.0
_PADDING_BLACK = 24

# Levels of 255 between the channels: compression and noise leave 1 to 3 of an average over some pixels.
_COLOURLESS_SPREAD = 4.0


def to_work_scale(image: NDArray[np.uint8], um_per_px: float) -> tuple[NDArray[np.uint8], float]:
    """Average a thumbnail [row, column, 3] down to `WORK_UM_PER_PX`; a coarser one is returned as it is."""
    if um_per_px >= WORK_UM_PER_PX:
        return image, um_per_px
    rows, columns = image.shape[:2]
    scale = um_per_px / WORK_UM_PER_PX
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), um_per_px * columns / size[0]


def extend_into(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return an image [row, column, 3] with each pixel of ``hole`` in the colour of the nearest one outside it.

    For masks alone: an edge of grey would pass for the edge of ink or tissue. Nobody is shown such pixels.
    """
    if not hole.any() or hole.all():
        return image
    _, labels = cv2.distanceTransformWithLabels(hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((int(labels.max()) + 1, 3), np.uint8)
    colours[labels[~hole]] = image[~hole]
    return np.where(hole[..., None], colours[labels], image)


def is_colourless(image: NDArray[np.uint8]) -> bool:
    """Whether all pixels [row, column, 3] have one hue, but for noise: a greyscale image, or bare glass."""
    values = smooth(image, 2.0)
    # Against the typical tint, which glass and a camera's white balance give to all pixels alike.
    tint = np.median(values / np.maximum(channel_mean(values), 1)[..., None], axis=(0, 1))
    values = np.asarray(values / np.maximum(tint, 0.05), np.float32)
    spread = channel_max(values) - channel_min(values)
    return bool(spread.max() < _COLOURLESS_SPREAD)


def smooth(image: NDArray[Any], sigma_px: float) -> NDArray[np.float32]:
    """Gaussian average of a float image, unchanged where ``sigma_px`` is too small to matter."""
    if sigma_px < 0.3:
        return np.asarray(image, np.float32)
    return np.asarray(
        cv2.GaussianBlur(np.asarray(image, np.float32), (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE), np.float32
    )


def channel_min(image: NDArray[Any]) -> NDArray[Any]:
    """Least of the three channels; numpy's own reduction over so short an axis is twenty times slower."""
    return np.asarray(np.minimum(np.minimum(image[..., 0], image[..., 1]), image[..., 2]))


def channel_max(image: NDArray[Any]) -> NDArray[Any]:
    """Greatest of the three channels."""
    return np.asarray(np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2]))


def channel_mean(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the three channels."""
    return np.asarray((image[..., 0] + image[..., 1] + image[..., 2]) / 3, np.float32)


def find_padding(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels no scanner saw: the exact white and the near black that surround sections cut out as JPEG."""
    return np.asarray((channel_min(image) == 255) | (channel_max(image) <= _PADDING_BLACK))


def estimate_glass(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colour [3] of bare glass: the brightest common colour among smooth, bright, almost grey pixels.

    The brightest of several such colours is taken, because whatever lies on glass only darkens it. Exact white
    counts only where nothing else qualifies, since it may be padding. Where tissue leaves no glass to see, the
    99th percentile of the image stands in, without its hue if that is a stain's.
    """
    padding = find_padding(image)
    values = image.astype(np.float32)
    luminance = channel_mean(values)
    brightest = channel_max(values)
    flat = cv2.morphologyEx(luminance, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) <= 2 * _MAX_GLASS_STEP
    colourless = (brightest - channel_min(values)) <= _MAX_GLASS_SATURATION * brightest
    candidates = flat & colourless & (luminance >= _MIN_GLASS_LUMINANCE)
    if np.count_nonzero(candidates & ~padding) >= 0.02 * luminance.size:
        candidates &= ~padding
    if np.count_nonzero(candidates) < 0.005 * luminance.size:
        return _glass_from_tissue(values[~padding])
    levels = np.bincount(luminance[candidates].astype(np.int64), minlength=256)
    counts = np.convolve(levels, np.ones(5) / 5, mode="same")
    peak = int(np.flatnonzero(counts >= 0.2 * counts.max())[-1])
    # From the last common level walk down to the top of its hill.
    while peak > 0 and counts[peak - 1] >= counts[peak]:
        peak -= 1
    near = candidates & (np.abs(luminance - peak) <= 4)
    return np.asarray(np.median(values[near], axis=0), np.float32)


def _glass_from_tissue(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(values) == 0:
        return DEFAULT_GLASS
    bright = np.percentile(values, 99, axis=0).astype(np.float32)
    if bright.max() - bright.min() > _MAX_GLASS_SATURATION * bright.max():
        bright[:] = bright.max()
    return np.maximum(bright, _MIN_GLASS_LUMINANCE).astype(np.float32)


def measure_absorbance(image: NDArray[np.uint8], glass: NDArray[np.float32]) -> NDArray[np.float32]:
    """Optical density [row, column, 3] relative to ``glass``: ``-log10((value + 1) / (glass + 1))``, at least 0."""
    steps = np.arange(1, 257, dtype=np.float32)[:, None]
    table = np.maximum(np.log10(glass[None, :] + 1) - np.log10(steps), 0).astype(np.float32)
    return np.stack([table[:, channel][image[..., channel]] for channel in range(3)], axis=2)
