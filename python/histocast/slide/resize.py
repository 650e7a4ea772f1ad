"""Windows to tiles: by area where they shrink, between pixels where they grow.

OpenCV averages by area fast where a window is a whole multiple of its tile. Else, as with the 508 px that are 256 at
0.252 um/px, it takes ten times as long. The average is separable: one sparse matrix of area weights, applied along
rows and then along columns, is the same sum and takes less than half of that.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.slide.reader import Pixels


class Resizer(Protocol):
    """Brings one window at a time to a tile's size; of one thread."""

    window: NDArray[Any]
    """[size_px, size_px, 3] To be filled before `write`."""

    def write(self, tile: Pixels) -> None:
        """Write the window's pixels, resized."""
        ...


def resizer(size_px: int, tile_px: int) -> Resizer | None:
    """Return what makes tiles of ``tile_px`` of windows of ``size_px``, or None where these are the same."""
    if size_px == tile_px:
        return None
    if size_px > tile_px and size_px % tile_px:
        return _AreaAverage(size_px, tile_px)
    return _ByOpenCV(size_px, cv2.INTER_AREA if size_px > tile_px else cv2.INTER_LINEAR)


class _ByOpenCV:
    def __init__(self, size_px: int, method: int) -> None:
        self.window: NDArray[Any] = np.empty((size_px, size_px, 3), np.uint8)
        self._method = method

    def write(self, tile: Pixels) -> None:
        cv2.resize(self.window, tile.shape[:2], dst=tile, interpolation=self._method)


class _AreaAverage:
    def __init__(self, size_px: int, tile_px: int) -> None:
        # The products are of floats, so that pixels are converted while they are copied together.
        self.window: NDArray[Any] = np.empty((size_px, size_px, 3), np.float32)
        self._weights = area_weights(size_px, tile_px)
        # Arrays this large, made anew for each tile, can cost ten times what is done with them.
        self._turned = np.empty((size_px, tile_px, 3), np.float32)
        self._rounded = np.empty((tile_px, tile_px, 3), np.uint8)

    def write(self, tile: Pixels) -> None:
        size_px, tile_px = self._turned.shape[:2]
        rows = self._weights @ self.window.reshape(size_px, -1)
        # Turned round, columns are rows, and a row is what the product adds up fast.
        cv2.transpose(rows.reshape(tile_px, size_px, 3), dst=self._turned)
        del rows
        columns = self._weights @ self._turned.reshape(size_px, -1)
        cv2.convertScaleAbs(columns.reshape(tile_px, tile_px, 3), dst=self._rounded)
        cv2.transpose(self._rounded, dst=tile)


@lru_cache(maxsize=8)
def area_weights(size_px: int, tile_px: int) -> Any:
    """Return the share of each of ``size_px`` pixels in each of ``tile_px`` larger ones.

    Returns
    -------
    scipy.sparse.csr_array
        float32 [tile_px, size_px]; rows sum to one.

    >>> area_weights(3, 2).toarray().round(3).tolist()
    [[0.667, 0.333, 0.0], [0.0, 0.333, 0.667]]
    """
    from scipy.sparse import csr_array

    # In units of 1 / tile_px of a pixel all borders are whole numbers, and overlaps exact.
    large, small = np.arange(tile_px)[:, None] * size_px, np.arange(size_px) * tile_px
    overlap = np.minimum(large + size_px, small + tile_px) - np.maximum(large, small)
    return csr_array((np.maximum(overlap, 0) / size_px).astype(np.float32))
