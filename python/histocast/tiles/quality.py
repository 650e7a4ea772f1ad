"""What share of a tile is tissue or pen, and how sharp its tissue is, from the thumbnail's masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.tissue import TissueMap


@dataclass(frozen=True)
class TileQuality:
    """Quality columns of ``tiles.parquet``, float32 [tile] each."""

    tissue_fraction: NDArray[np.float32]
    presumed_fraction: NDArray[np.float32]
    """Tissue, and what could not be read beside it: it decides which tiles are tried."""
    pen_fraction: NDArray[np.float32]
    blur: NDArray[np.float32]
    """Mean over the tile's tissue; 0 where it has none."""


class QualityMeter:
    """Measures tiles of one size by the masks of a thumbnail.

    Sums over a tile are exact to the fraction of a thumbnail pixel: a tile is often only ten of them wide,
    so that rounding to whole pixels would move its fraction by a tenth.

    ``found``: masks of the thumbnail.
    ``downsample``: level-0 pixels per thumbnail pixel; both begin at the same corner.
    ``extent_level0_px``: side of a tile.
    """

    def __init__(self, found: TissueMap, *, downsample: float, extent_level0_px: float) -> None:
        rows, columns = found.tissue.shape
        self._downsample = downsample
        self._size = np.array([columns, rows], np.float64)
        self._half = extent_level0_px / downsample / 2
        self._area = (2 * self._half) ** 2
        self._tissue = _integrate(found.tissue.astype(np.uint8))
        self._presumed = _integrate((found.tissue | found.presumed).astype(np.uint8))
        self._pen = _integrate(found.pen.astype(np.uint8))
        self._blur = _integrate(found.blur)

    def measure(self, centres_level0_px: NDArray[np.float64]) -> TileQuality:
        """Measure tiles by their centres [tile, 2] (x, y); what lies outside the slide is not tissue."""
        centres = centres_level0_px / self._downsample
        low = np.clip(centres - self._half, 0, self._size)
        high = np.clip(centres + self._half, 0, self._size)
        tissue = _box_sums(self._tissue, low, high)
        blur = np.divide(_box_sums(self._blur, low, high), tissue, out=np.zeros_like(tissue), where=tissue > 1e-6)
        return TileQuality(
            tissue_fraction=_share(tissue / self._area),
            presumed_fraction=_share(_box_sums(self._presumed, low, high) / self._area),
            pen_fraction=_share(_box_sums(self._pen, low, high) / self._area),
            blur=_share(blur),
        )


def _integrate(image: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(cv2.integral(image, sdepth=cv2.CV_64F), np.float64)


def _box_sums(
    integral: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum over boxes [tile, 2] (x, y) of the image whose integral [row + 1, column + 1] is given."""
    corners = ((high[:, 0], high[:, 1], 1), (low[:, 0], high[:, 1], -1), (high[:, 0], low[:, 1], -1), (*low.T, 1))
    return sum((sign * _interpolate(integral, x, y) for x, y, sign in corners), np.zeros(len(low)))


def _interpolate(integral: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation, which is exact for the integral of pixels that are constant within."""
    column = np.minimum(x.astype(np.int64), integral.shape[1] - 2)
    row = np.minimum(y.astype(np.int64), integral.shape[0] - 2)
    across, down = x - column, y - row
    top = integral[row, column] * (1 - across) + integral[row, column + 1] * across
    bottom = integral[row + 1, column] * (1 - across) + integral[row + 1, column + 1] * across
    return np.asarray(top * (1 - down) + bottom * down)


def _share(values: NDArray[np.float64]) -> NDArray[np.float32]:
    # A sum of differences can leave 1e-12 or -0.0 where there is nothing, or end above the whole.
    return np.asarray(np.clip(np.round(values, 6), 0, 1) + 0.0, np.float32)
