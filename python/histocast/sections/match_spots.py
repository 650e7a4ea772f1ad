"""Do counts, spot table and recipe belong together? Which row of the counts is which tile."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from histocast.bundle import TileGeometry
from histocast.errors import DataError
from histocast.records import SlideRecord
from histocast.sections.counts import CountMatrix

MIN_MATCHED_SHARE = 0.5
"""Least share of the counted spots that have a tile, and of the tiles in tissue that have counts."""

MAX_PITCH_RATIO = 1.25
"""Most that the distance between spots may differ from the recipe's; known arrays are 50, 100, 150 and 200 um apart."""


def check_pitch(slide: SlideRecord, geometry: TileGeometry) -> None:
    """Raise `DataError` where the spots of a section are not as far apart as the recipe says."""
    ratio = slide.pitch_um / geometry.pitch_um
    if slide.layout != "spots" or 1 / MAX_PITCH_RATIO <= ratio <= MAX_PITCH_RATIO:
        return
    raise DataError(
        f"spots {slide.pitch_um:.4g} um apart, {ratio:.2g} times the recipe's {geometry.pitch_um:g} um",
        expected=f"within a factor of {MAX_PITCH_RATIO:g}",
        where=f"sample {slide.sample}",
        advice="give centres in pixels of the image at full resolution (not of tissue_hires_image), check the resolution "
        f"({slide.um_per_px:g} um/px, from the {slide.um_per_px_source}), or set geometry.pitch_um in the recipe",
    )


def match_spots(tiles: pa.Table, counts: CountMatrix, *, sample: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of ``tiles`` (`artifacts.TILES`) and of the counts that are the same spot, in the order of the tiles.

    Raises `DataError`: the tiles have no names, or too few of either have a partner.
    """
    where = f"sample {sample}"
    names = tiles.column("spot").to_pylist()
    if all(name is None for name in names):
        raise DataError(
            "tiles on a grid, which have no spot names",
            expected="measured spots, whose names the counts hold",
            where=where,
            advice="give the spot table in the training sheet's column 'spots'",
        )
    row_of = {name: row for row, name in enumerate(counts.spots)}
    pairs = [(tile, row_of[name]) for tile, name in enumerate(names) if name is not None and name in row_of]
    if not pairs:
        raise DataError(
            f"spots are named like {counts.spots[0]!r}, none of which has a tile",
            expected=f"names like {next(name for name in names if name is not None)!r}",
            where=where,
            advice="check that counts and spot table belong to the same section",
        )
    tile_rows, count_rows = np.array(pairs, np.int64).T
    in_tissue = tiles.column("in_tissue").to_numpy()
    counted = np.asarray(counts.matrix.sum(axis=1)).ravel() > 0
    shares = {
        "of the spots with counts have a tile": counted[count_rows].sum() / max(counted.sum(), 1),
        "of the tiles in tissue have counts": in_tissue[tile_rows].sum() / max(in_tissue.sum(), 1),
    }
    for what, share in shares.items():
        if share < MIN_MATCHED_SHARE:
            raise DataError(
                f"{share:.0%} {what}",
                expected=f"at least {MIN_MATCHED_SHARE:.0%}",
                where=where,
                advice="check that counts and spot table belong to the same section, and give the counts of spots in "
                "tissue (filtered_feature_bc_matrix)",
            )
    return tile_rows, count_rows
