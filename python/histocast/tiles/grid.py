"""A square grid over the whole slide, from its corner, whatever the pyramid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK_TILES = 65_536


@dataclass(frozen=True)
class GridPart:
    """Some whole rows of the grid, row-major, an array [tile] each."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    tile_id: NDArray[np.int64]
    """``row * columns + column``: the same whichever tiles are kept."""
    centres_level0_px: NDArray[np.float64]
    """[tile, 2] (x, y)."""


@dataclass(frozen=True)
class Grid:
    """Cells of ``pitch_level0_px`` from the slide's corner (0, 0); those whose centre lies on the slide."""

    width_px: int
    height_px: int
    pitch_level0_px: float

    @property
    def columns(self) -> int:
        """Cells in a row."""
        return int(np.ceil(self.width_px / self.pitch_level0_px - 0.5))

    @property
    def rows(self) -> int:
        """Cells in a column."""
        return int(np.ceil(self.height_px / self.pitch_level0_px - 0.5))

    def parts(self) -> Iterator[GridPart]:
        """Yield the grid in parts of bounded size, so that a fine pitch does not fill memory."""
        columns = self.columns
        if columns == 0:
            return
        step = max(1, CHUNK_TILES // columns)
        for first in range(0, self.rows, step):
            row, column = (
                axis.ravel() for axis in np.mgrid[first : min(first + step, self.rows), 0:columns].astype(np.int64)
            )
            centres = (np.stack([column, row], axis=1) + 0.5) * self.pitch_level0_px
            yield GridPart(row, column, row * columns + column, centres)
