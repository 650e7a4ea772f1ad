"""Morphology of masks in micrometres, so that it means the same on every thumbnail."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def _disc(radius_um: float, um_per_px: float) -> NDArray[np.uint8]:
    side = 2 * max(1, round(radius_um / um_per_px)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _apply(operation: int, mask: Mask, radius_um: float, um_per_px: float) -> Mask:
    disc = _disc(radius_um, um_per_px)
    margin = disc.shape[0] // 2
    # The mask goes on beyond the image's edge as it is there, so that tissue cut by the edge keeps its rim.
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    done = cv2.morphologyEx(padded, operation, disc)
    rows, columns = mask.shape
    return np.asarray(done[margin : margin + rows, margin : margin + columns] > 0)


def dilate(mask: Mask, radius_um: float, um_per_px: float) -> Mask:
    """Grow a mask by ``radius_um``, at least by one pixel."""
    return np.asarray(cv2.dilate(mask.astype(np.uint8), _disc(radius_um, um_per_px)) > 0)


def close_gaps(mask: Mask, radius_um: float, um_per_px: float) -> Mask:
    """Join what lies closer than twice ``radius_um``; nothing where that is under a pixel."""
    return mask if radius_um < um_per_px / 2 else _apply(cv2.MORPH_CLOSE, mask, radius_um, um_per_px)


def open_gaps(mask: Mask, radius_um: float, um_per_px: float) -> Mask:
    """Remove what is narrower than twice ``radius_um``; nothing where that is under a pixel."""
    return mask if radius_um < um_per_px / 2 else _apply(cv2.MORPH_OPEN, mask, radius_um, um_per_px)


def drop_small(mask: Mask, min_area_um2: float, um_per_px: float) -> Mask:
    """Remove connected parts of less than ``min_area_um2``."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] * um_per_px**2 >= min_area_um2
    keep[0] = False
    return np.asarray(keep[labels]) if count > 1 else mask


def drop_lines(mask: Mask, *, max_width_um: float, min_length_um: float, um_per_px: float) -> Mask:
    """Remove connected parts that are long and, on average, thin: edges of coverslips, hairs, scratches."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    length_px = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    width_px = stats[:, cv2.CC_STAT_AREA] / np.maximum(length_px, 1)
    line = (length_px * um_per_px >= min_length_um) & (width_px * um_per_px <= max_width_um)
    keep = ~line
    keep[0] = False
    return np.asarray(keep[labels]) if count > 1 else mask


def fill_holes(mask: Mask, max_area_um2: float, um_per_px: float) -> Mask:
    """Fill gaps of at most ``max_area_um2`` that the mask surrounds; a gap at the image's edge stays open."""
    rows, columns = mask.shape
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    inside = (left > 0) & (top > 0) & (right < columns) & (bottom < rows)
    fill = inside & (stats[:, cv2.CC_STAT_AREA] * um_per_px**2 <= max_area_um2)
    fill[0] = False
    return np.asarray(mask | fill[labels]) if count > 1 else mask
