"""Measured spots: where a capture array's spots lie on the slide.

    layout                                 name      centre (x, y)                 array (row, column)  in tissue
    Spatial Transcriptomics selection TSV  <x>x<y>   pixel_x, pixel_y              y, x                 selected
    Visium tissue_positions                barcode   pxl_col_in_fullres,           array_row, array_col in_tissue
                                                     pxl_row_in_fullres
    CSV                                    spot      x, y                          array_row, array_col in_tissue

On an ST array x counts columns and y rows, as on the image. Visium gives pixels as (row, column), which is
(y, x). Of a plain CSV only ``x`` and ``y`` are needed: spots are then named ``spot0``, ``spot1`` ..., get row and
column by `fit_array`, and all count as tissue. Pixels are those of the image at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histocast.errors import ErrorCollector
from histocast.fusion.lattice import separate_cells
from histocast.tiles.spot_table import VISIUM_COLUMNS, SpotTable, read_spot_table, unknown_layout

_ST_COLUMNS = ("x", "y", "pixel_x", "pixel_y")

NEIGHBOUR_PITCHES = 1.25
"""Spots within this distance are neighbours: less than the diagonal of a square array."""


@dataclass(frozen=True)
class MeasuredSpots:
    """Spots in the order of their table, an array [spot] each."""

    names: list[str]
    x_level0_px: NDArray[np.float64]
    y_level0_px: NDArray[np.float64]
    array_row: NDArray[np.int32]
    array_col: NDArray[np.int32]
    in_tissue: NDArray[np.bool_]
    """Whether the table says so; the image is not asked."""

    def __len__(self) -> int:
        return len(self.names)

    def centres_level0_px(self) -> NDArray[np.float64]:
        """Centres [spot, 2] as (x, y)."""
        return np.stack([self.x_level0_px, self.y_level0_px], axis=1)

    def row_major_rank(self) -> NDArray[np.int32]:
        """Number of each spot when the array is read row by row."""
        rank = np.empty(len(self), np.int32)
        rank[np.lexsort((self.array_col, self.array_row))] = np.arange(len(self), dtype=np.int32)
        return rank

    def pitch_level0_px(self) -> float | None:
        """Median distance between neighbouring spots, in level-0 pixels; none for a single spot."""
        return median_pitch_px(self.centres_level0_px())


def read_spots(path: Path, *, slide_size_px: tuple[int, int] | None = None) -> MeasuredSpots:
    """Read a table of measured spots in any layout this module knows.

    ``path``: the table; text may be gzipped, with BOM or CRLF.
    ``slide_size_px``: width and height of the slide at level 0; spots in tissue must then lie within. Spots out of
        tissue may lie beyond, as they do where an image was cropped.
    Raises `MissingInputError`: there is no such file, or it may not be read; `DataError`: the layout is unknown, or it
    lists every cell that is no number, every spot that stands twice and every spot outside the slide, each with its
    line.
    """
    table = read_spot_table(path)
    names = set(table.columns)
    faults = ErrorCollector(str(path))
    if names.issuperset(_ST_COLUMNS):
        spots = _from_selection(table, faults)
    elif names.issuperset(VISIUM_COLUMNS):
        spots = _from_visium(table, faults)
    elif names.issuperset(("x", "y")) and "new_x" not in names:
        spots = _from_csv(table, faults)
    else:
        # x and y of a selection without pixels are array positions, a pixel apart if taken for centres.
        advice = "add pixel_x and pixel_y, the centres in pixels of the image" if "new_x" in names else None
        raise unknown_layout(list(table.columns), str(path), advice=advice)
    _check_unique(spots, table, faults)
    if slide_size_px is not None:
        _check_inside(spots, table, faults, slide_size_px)
    faults.raise_if_any()
    return spots


def _from_selection(table: SpotTable, faults: ErrorCollector) -> MeasuredSpots:
    column, row = (table.numbers(name, faults, whole=True) for name in ("x", "y"))
    return MeasuredSpots(
        names=[
            f"{x:.0f}x{y:.0f}" if np.isfinite(x + y) else f"line {line}"
            for x, y, line in zip(column, row, table.lines, strict=True)
        ],
        x_level0_px=table.numbers("pixel_x", faults),
        y_level0_px=table.numbers("pixel_y", faults),
        array_row=_to_int(row),
        array_col=_to_int(column),
        in_tissue=_flags_or_true(table, "selected", faults),
    )


def _from_visium(table: SpotTable, faults: ErrorCollector) -> MeasuredSpots:
    return MeasuredSpots(
        names=table.names("barcode", faults),
        x_level0_px=table.numbers("pxl_col_in_fullres", faults),
        y_level0_px=table.numbers("pxl_row_in_fullres", faults),
        array_row=_to_int(table.numbers("array_row", faults, whole=True)),
        array_col=_to_int(table.numbers("array_col", faults, whole=True)),
        in_tissue=table.flags("in_tissue", faults),
    )


def _from_csv(table: SpotTable, faults: ErrorCollector) -> MeasuredSpots:
    x, y = table.numbers("x", faults), table.numbers("y", faults)
    if {"array_row", "array_col"} <= set(table.columns):
        row, column = (table.numbers(name, faults, whole=True) for name in ("array_row", "array_col"))
    else:
        known = np.isfinite(x) & np.isfinite(y)
        row, column = (np.zeros(len(x), np.float64) for _ in range(2))
        row[known], column[known] = fit_array(np.stack([x[known], y[known]], axis=1))
    names = table.names("spot", faults) if "spot" in table.columns else [f"spot{row}" for row in range(len(table))]
    return MeasuredSpots(
        names=names,
        x_level0_px=x,
        y_level0_px=y,
        array_row=_to_int(row),
        array_col=_to_int(column),
        in_tissue=_flags_or_true(table, "in_tissue", faults),
    )


def _flags_or_true(table: SpotTable, name: str, faults: ErrorCollector) -> NDArray[np.bool_]:
    return table.flags(name, faults) if name in table.columns else np.ones(len(table), bool)


def _to_int(values: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.nan_to_num(values, nan=0.0).astype(np.int32)


def _check_unique(spots: MeasuredSpots, table: SpotTable, faults: ErrorCollector) -> None:
    first: dict[tuple[str, object], int] = {}
    seen: dict[int, str] = {}
    columns = (spots.names, spots.x_level0_px, spots.y_level0_px, spots.array_row, spots.array_col)
    for row, (name, x, y, array_row, array_col) in enumerate(zip(*columns, strict=True)):
        said: list[tuple[str, str, object]] = [("name", f"spot {name!r}", name)] if name else []
        if np.isfinite(x + y):
            said.append(("centre", f"spot at ({x:g}, {y:g})", (x, y)))
            place = f"place on the array, row {array_row} and column {array_col}"
            said.append(("place", place, (array_row, array_col)))
        for kind, what, key in said:
            before = first.setdefault((kind, key), row)
            if before != row:
                seen.setdefault(row, f"duplicate {what}, first on line {table.lines[before]}")
    table.note(np.array(sorted(seen), np.int64), faults, seen.__getitem__, expected="each spot once")


def _check_inside(
    spots: MeasuredSpots, table: SpotTable, faults: ErrorCollector, slide_size_px: tuple[int, int]
) -> None:
    width_px, height_px = slide_size_px
    x, y = spots.x_level0_px, spots.y_level0_px
    outside = spots.in_tissue & ((x < 0) | (x > width_px) | (y < 0) | (y > height_px))
    table.note(
        np.flatnonzero(outside),
        faults,
        lambda row: f"spot {spots.names[row]!r} at ({x[row]:g}, {y[row]:g}) lies outside the slide",
        expected=f"x within 0 to {width_px} and y within 0 to {height_px}",
        advice="give centres in pixels of the image at full resolution, x to the right and y down",
    )


def median_pitch_px(centres_px: NDArray[np.float64]) -> float | None:
    """Median distance between neighbours among ``centres_px`` [spot, 2]; none for fewer than two spots.

    Neighbours are all spots hardly farther than the nearest ones are. The median of the very nearest alone
    would come out short, by a twentieth on a real ST array, whose spots are printed with some scatter.
    """
    if len(centres_px) < 2:
        return None
    from scipy.spatial import cKDTree

    # The spot itself, and the six neighbours of a hexagonal array.
    distances = cKDTree(centres_px).query(centres_px, k=min(7, len(centres_px)))[0][:, 1:]
    nearest = float(np.median(distances[:, 0]))
    return float(np.median(distances[distances <= NEIGHBOUR_PITCHES * nearest]))


def fit_array(centres_px: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column [spot] of each centre [spot, 2] (x, y) on the array that fits them, from 0; no two are equal.

    A hexagonal array is numbered as Visium numbers one: the columns of a row by two, those of the next row between
    them. Any other is numbered as a square one. Either may be turned. Steps are counted from neighbour to neighbour, so
    that an error of the pitch does not add up across the array. Of two spots that are nearest to one place, the later
    takes the nearest free one.
    """
    pitch_px = median_pitch_px(centres_px)
    if not pitch_px:
        none = np.zeros(len(centres_px), np.int64)
        return none, none
    from scipy.spatial import cKDTree

    pairs = cKDTree(centres_px).query_pairs(NEIGHBOUR_PITCHES * pitch_px, output_type="ndarray")
    apart = centres_px[pairs[:, 1]] - centres_px[pairs[:, 0]]
    directions = np.arctan2(apart[:, 1], apart[:, 0])
    # Directions to neighbours repeat every 90 degrees on a square array and every 60 on a hexagonal one.
    fourfold, sixfold = (np.exp(1j * fold * directions).mean() for fold in (4, 6))
    hexagonal = abs(sixfold) > abs(fourfold) + 1e-6
    turn = np.angle(sixfold) / 6 if hexagonal else np.angle(fourfold) / 4
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    unit_px = pitch_px * (np.array([0.5, 0.75**0.5]) if hexagonal else np.ones(2))
    places = _count_steps((centres_px @ axes) / unit_px, pairs, hexagonal=hexagonal)
    places = separate_cells(places - places.min(axis=0))
    return places[:, 1] - places[:, 1].min(), places[:, 0] - places[:, 0].min()


def _count_steps(points: NDArray[np.float64], pairs: NDArray[np.int64], *, hexagonal: bool) -> NDArray[np.int64]:
    """Whole places [spot, 2] of ``points`` in units of the array: by steps within what hangs together, else by rounding."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(points), len(points))).tocsr()
    _, part = connected_components(links, directed=False)
    _, starts = np.unique(part, return_index=True)
    places = np.zeros((len(points), 2), np.int64)
    for start in starts:
        places[start] = _nearest_place(points[start] - points[0], hexagonal=hexagonal)
        order, before = breadth_first_order(links, start, directed=False)
        for spot in order[1:]:
            step = points[spot] - points[before[spot]]
            places[spot] = places[before[spot]] + _nearest_place(step, hexagonal=hexagonal)
    return places


def _nearest_place(point: NDArray[np.float64], *, hexagonal: bool) -> NDArray[np.int64]:
    """The nearest place [2] of the array; on a hexagonal one row and column are both even or both odd."""
    place = np.round(point).astype(np.int64)
    if hexagonal and place.sum() % 2:
        column = place[0] + (1 if point[0] > place[0] else -1)
        place[0] = column
    return place
