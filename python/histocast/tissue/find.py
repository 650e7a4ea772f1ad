"""Find tissue on a thumbnail, and measure what may spoil it: pen and blur.

Haematoxylin and eosin both absorb green most. The evidence for tissue is therefore green absorbance beyond the
lesser of red and blue absorbance ("stain"): it is 0 for everything grey (dust, shadows, the edges of slide and
coverslip, black surroundings), negative for green ink, and independent of the background's colour, which the
absorbance is measured against. Two thresholds decide:

- stain above Otsu's threshold, which is kept between two guards: without the lower one an empty slide would be
  split into two kinds of noise, without the upper one dark nuclei would cost a slide its pale stroma;
- faint stain, if it also has the texture of tissue: washed-out dye around a section is as strong as faint
  tissue, but smooth.

Ink is taken out before, since it absorbs green too (see `histocast.tissue.pen`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.tissue.absorbance import (
    channel_mean,
    estimate_glass,
    extend_into,
    is_colourless,
    measure_absorbance,
    smooth,
    to_work_scale,
)
from histocast.tissue.pen import HALO_UM, find_pen
from histocast.tissue.shapes import close_gaps, dilate, drop_lines, drop_small, fill_holes, open_gaps

STAIN_GUARDS = (0.055, 0.10)
"""Otsu's threshold on stain, in absorbance, stays within these."""

FAINT_STAIN = 0.018
FAINT_TEXTURE = 0.006
"""Least stain, and least root-mean-square detail of green absorbance, of faint tissue."""

DETAIL_UM = 16.0
MAX_DETAIL = 0.05
"""Detail that counts as texture: finer than `DETAIL_UM`, and no stronger than this, in absorbance."""

MIN_STAIN_SHARE = 0.2
"""Least share of stain in the mean absorbance: near black, rounding alone makes some."""

SMOOTH_UM = 8.0
CLOSE_UM = 24.0
"""Gaps within tissue up to twice this are tissue: fibres lie apart, and fat is membranes around nothing."""
OPEN_UM = 12.0
"""Half the width of the narrowest strip of tissue; coloured fringes of edges are narrower."""
MAX_HOLE_UM2 = 20_000.0
"""Largest hole that counts as tissue: an adipocyte of 150 um, not a duct or a vessel."""
MIN_SPECK_UM2 = 400.0
MIN_TISSUE_UM2 = 10_000.0
"""Smallest piece of tissue: the area under one capture spot of 100 um."""


@dataclass(frozen=True)
class TissueMap:
    """What a thumbnail shows, an array [row, column] of the thumbnail's size each."""

    tissue: NDArray[np.bool_]
    """Tissue that can be trusted; never under pen, never what could not be read."""
    pen: NDArray[np.bool_]
    """Ink and a rim of 40 um around it."""
    blur: NDArray[np.float32]
    """0 sharp to 1 blurred on tissue, 0 elsewhere."""
    unreadable: NDArray[np.bool_]
    """What could not be read."""
    presumed: NDArray[np.bool_]
    """What could not be read and borders on tissue: whether it is tissue only the tiles there can show."""
    stain_absorbance: float | None
    """Median optical density of the tissue in green light; ``None`` where there is none."""
    colourless: bool
    """Whether every pixel is a shade of one colour, as on a greyscale image or bare glass."""


def find_tissue(
    thumbnail: NDArray[np.uint8], um_per_px: float, unreadable: NDArray[np.bool_] | None = None
) -> TissueMap:
    """Find tissue, pen marks and blur on a thumbnail uint8 RGB [row, column, 3] of ``um_per_px``.

    An empty slide has no tissue; that is a result, not an error. Cost grows with the thumbnail alone: at
    2,048 px about two seconds of a CPU, eight where tissue fills a picture of 20 um/px, and half a gigabyte of memory.

    ``unreadable``: [row, column] what could not be read; nothing by default.
    """
    if unreadable is None:
        unreadable = np.zeros(thumbnail.shape[:2], bool)
    image, work_um_per_px = to_work_scale(extend_into(thumbnail, unreadable), um_per_px)
    absorbance = measure_absorbance(image, estimate_glass(image))
    averaged = smooth(absorbance, SMOOTH_UM / 2 / work_um_per_px)
    pen, surround = find_pen(averaged, image, work_um_per_px)
    if unreadable.any():
        # Colours extended into a hole are as even as ink.
        hole = _resize(unreadable.astype(np.uint8), *image.shape[:2]) > 0
        pen &= ~dilate(hole, HALO_UM, work_um_per_px)
    excluded = pen | surround
    stain = averaged[..., 1] - np.minimum(averaged[..., 0], averaged[..., 2])
    evident = stain > choose_threshold(stain[~excluded])
    # Texture is asked of what is not evident yet: the border of dark tissue would lend its own to smooth dye.
    elsewhere = ~(excluded | dilate(evident, DETAIL_UM, work_um_per_px))
    faint = (stain > FAINT_STAIN) & (measure_texture(absorbance[..., 1], elsewhere, work_um_per_px) > FAINT_TEXTURE)
    tissue = (evident | faint) & (stain > MIN_STAIN_SHARE * channel_mean(averaged)) & ~excluded
    tissue = clean_mask(tissue, work_um_per_px) & ~excluded
    blur = np.where(tissue, measure_blur(absorbance, work_um_per_px), np.float32(0))
    rows, columns = thumbnail.shape[:2]
    found = _resize(tissue.astype(np.uint8), rows, columns) > 0
    blur = np.asarray(_resize(blur.astype(np.float32), rows, columns), np.float32)
    return TissueMap(
        tissue=found & ~unreadable,
        pen=(_resize(pen.astype(np.uint8), rows, columns) > 0) & ~unreadable,
        blur=np.where(unreadable, np.float32(0), blur),
        unreadable=unreadable,
        presumed=found & unreadable,
        stain_absorbance=float(np.median(averaged[..., 1][tissue])) if tissue.any() else None,
        colourless=is_colourless(image),
    )


def choose_threshold(stain: NDArray[np.float32]) -> float:
    """Otsu's threshold on stain (absorbance), held within `STAIN_GUARDS`."""
    low, high = STAIN_GUARDS
    if stain.size == 0:
        return low
    # 0 to 0.5 absorbance in 256 steps: what absorbs more than that is tissue anyway.
    levels = np.clip(stain * 510, 0, 255).astype(np.uint8).reshape(1, -1)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(np.clip(threshold / 510, low, high))


def measure_texture(green: NDArray[np.float32], where: NDArray[np.bool_], um_per_px: float) -> NDArray[np.float32]:
    """Root-mean-square detail of green absorbance finer than `DETAIL_UM`, over the pixels ``where`` within 50 um."""
    detail = smooth(green, 2.0 / um_per_px) - smooth(green, max(2.0, DETAIL_UM / um_per_px))
    # A speck of dust must not lend its contrast to everything around it.
    energy = np.where(where, np.minimum(detail * detail, MAX_DETAIL**2), 0)
    window_px = max(2.0, 25.0 / um_per_px)
    return np.sqrt(np.maximum(smooth(energy, window_px), 0) / np.maximum(smooth(where, window_px), 0.05))


def clean_mask(mask: NDArray[np.bool_], um_per_px: float) -> NDArray[np.bool_]:
    """Join fibres, fill small holes, and remove specks, lines and pieces smaller than a capture spot."""
    # Lines first, since closing would make them as broad as a strip of tissue. Holes before the opening, which
    # would remove the membranes of fat cells as too thin, while what they enclose is not.
    mask = drop_small(mask, MIN_SPECK_UM2, um_per_px)
    mask = drop_lines(mask, max_width_um=40.0, min_length_um=2_500.0, um_per_px=um_per_px)
    mask = fill_holes(close_gaps(mask, CLOSE_UM, um_per_px), MAX_HOLE_UM2, um_per_px)
    return drop_small(open_gaps(mask, OPEN_UM, um_per_px), MIN_TISSUE_UM2, um_per_px)


def _resize(image: NDArray[np.uint8] | NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    if image.shape == (rows, columns):
        return np.asarray(image)
    return np.asarray(cv2.resize(image, (columns, rows), interpolation=cv2.INTER_NEAREST))


# Share of fine detail at 4 um/px, measured on sections of two laboratories: 0.17 to 0.58 in focus, 0.05 to 0.12
# after an average over 4 um, below 0.03 after one over 8 um.
_SHARP_RATIO = 0.15
_BLURRED_RATIO = 0.03
# Contrast of residual compression noise, in absorbance: detail below it is no evidence of focus.
_NOISE = 0.004


def measure_blur(absorbance: NDArray[np.float32], um_per_px: float) -> NDArray[np.float32]:
    """Blur [row, column] from the share of fine detail in all detail of the mean absorbance [row, column, 3].

    Fine detail is what an average over one pixel removes, all detail what an average over four removes; each is
    squared and averaged over 100 um. A ratio does not depend on how strongly the section is stained. It sees
    defocus of several micrometres, tape and air bubbles, not the slight softness that shows at 40x only.
    """
    grey = channel_mean(absorbance)
    fine = grey - smooth(grey, 1.0)
    everything = grey - smooth(grey, 4.0)
    window_px = max(4.0, 50.0 / um_per_px)
    fine_energy = smooth(fine * fine, window_px)
    energy = smooth(everything * everything, window_px)
    ratio = np.maximum(fine_energy - _NOISE**2 / 4, 0) / (energy + _NOISE**2)
    blur = (_SHARP_RATIO - ratio) / (_SHARP_RATIO - _BLURRED_RATIO)
    return np.asarray(np.clip(blur, 0, 1), np.float32)
