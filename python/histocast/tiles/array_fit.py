"""Rows and columns of spots whose table has only their centres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histocast.fusion.lattice import separate_cells

NEIGHBOUR_PITCHES = 1.25
"""Spots within this distance are neighbours: less than the diagonal of a square array."""


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
