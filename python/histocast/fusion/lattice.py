"""Where spots lie to one another: neighbours on a 5 x 5 lattice, grid coordinates, and region windows.

Everything here works on centres in units of the pitch, so that a grid, an ST array turned by a degree or two
and a hexagonal Visium array are treated alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histocast.bundle import NEIGHBOUR_SIDE

# A lattice point of a square grid is met exactly or missed by a whole pitch; one of a hexagonal array is at
# most 1/sqrt(3) = 0.577 pitches from a spot. So 0.6 finds all of the second and invents none of the first.
NEIGHBOUR_REACH_PITCHES = 0.6

# On a hexagonal array, lattice points of odd rows lie midway between two spots. Looking a little to the right
# makes all of a row choose the same side, so that no spot is chosen twice.
TIE_BREAK_PITCHES = 0.02

BLOCK_SPOTS = 4096

Index = NDArray[np.int64]


def neighbour_index(centres_level0_px: NDArray[np.float64], *, pitch_level0_px: float) -> NDArray[np.int32]:
    """The spot at each point of the 5 x 5 lattice round every spot.

    ``centres_level0_px``: [spot, 2] (x, y).
    ``pitch_level0_px``: distance between neighbouring spots.
    Returns: int32 [spot, 25], row-major (y outer), -1 where no spot lies; the spot itself stands at 12.
    """
    from scipy.spatial import cKDTree

    points = np.asarray(centres_level0_px, np.float64).reshape(-1, 2) / pitch_level0_px
    steps = np.arange(NEIGHBOUR_SIDE) - NEIGHBOUR_SIDE // 2
    offsets = np.stack(np.meshgrid(steps + TIE_BREAK_PITCHES, steps, indexing="xy"), axis=-1).reshape(-1, 2)
    index = np.full((len(points), len(offsets)), -1, np.int32)
    if not len(points):
        return index
    tree = cKDTree(points)
    for start in range(0, len(points), BLOCK_SPOTS):
        block = slice(start, min(start + BLOCK_SPOTS, len(points)))
        _, found = tree.query(points[block, None] + offsets, distance_upper_bound=NEIGHBOUR_REACH_PITCHES)
        index[block] = np.where(found < len(points), found, -1)
    index[:, len(offsets) // 2] = np.arange(len(points))
    return index


def grid_coordinates(array_row: NDArray[np.integer], array_col: NDArray[np.integer]) -> NDArray[np.int64]:
    """Integer grid coordinates, one cell per spot: int64 [spot, 2] (column, row).

    Visium numbers the columns of its hexagonal array by two, so that row and column have one parity; such
    columns are halved, or every second cell of the grid would stay empty. Where two spots share a cell, the
    later one moves to the nearest free cell: the graph's positional step needs unique coordinates.
    """
    rows, columns = np.asarray(array_row, np.int64), np.asarray(array_col, np.int64)
    if len(rows) > 1 and len(np.unique((rows + columns) % 2)) == 1:
        columns = columns // 2
    return separate_cells(np.stack([columns, rows], axis=-1))


def separate_cells(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """``cells`` [spot, 2] (column, row) with no two equal: the later of two moves to the nearest free cell."""
    _, first = np.unique(cells, axis=0, return_index=True)
    if len(first) == len(cells):
        return cells
    taken = {tuple(cell) for cell in cells[first].tolist()}
    repeated = np.ones(len(cells), bool)
    repeated[first] = False
    separate = cells.copy()
    for spot in np.flatnonzero(repeated):
        separate[spot] = _nearest_free_cell(tuple(cells[spot].tolist()), taken)
        taken.add(tuple(separate[spot].tolist()))
    return separate


def _nearest_free_cell(cell: tuple[int, ...], taken: set[tuple[int, ...]]) -> tuple[int, int]:
    column, row = cell
    radius = 0
    while True:
        radius += 1
        ring = [
            (column + dx, row + dy)
            for dy in range(-radius, radius + 1)
            for dx in range(-radius, radius + 1)
            if max(abs(dx), abs(dy)) == radius and (column + dx, row + dy) not in taken
        ]
        if ring:
            return min(ring, key=lambda at: ((at[0] - column) ** 2 + (at[1] - row) ** 2, at[1], at[0]))


@dataclass(frozen=True)
class Region:
    """The spots of one call of the fusion graph."""

    spots: Index
    """Every spot of the call: the core first, then its halo."""
    core_count: int
    """How many of them are predicted here; the others give context and are the core of another region."""

    @property
    def core(self) -> Index:
        """The spots predicted here."""
        return self.spots[: self.core_count]


def regions(
    centres_level0_px: NDArray[np.float64],
    *,
    pitch_level0_px: float,
    region_spots: int,
    halo_spots: int,
    among: Index | None = None,
) -> Iterator[Region]:
    """Partition spots into windows of at most ``region_spots``, each spot the core of exactly one.

    A section that fits whole is one region. A larger one is cut into equal blocks whose side leaves room for
    a halo of ``halo_spots`` pitches; blocks denser than the lattice are halved, and a halo that still does
    not fit loses its farthest spots. Every call holds at most ``region_spots`` and no block is visited
    twice, so the cost is linear in the number of spots.

    ``centres_level0_px``: [spot, 2] (x, y) of all spots.
    ``among``: indices of the spots that take part (those that are readable); all by default.
    """
    from scipy.spatial import cKDTree

    chosen = np.arange(len(centres_level0_px)) if among is None else np.asarray(among, np.int64)
    if len(chosen) <= region_spots:
        if len(chosen):
            yield Region(chosen, len(chosen))
        return
    points = np.asarray(centres_level0_px, np.float64)[chosen] / pitch_level0_px
    tree = cKDTree(points)
    pending = list(_blocks(points, side=max(int(region_spots**0.5) - 2 * halo_spots, 1)))[::-1]
    while pending:
        core = pending.pop()
        halo = _halo(points, tree, core, reach=halo_spots)
        room = region_spots - len(core)
        # A core that has become small keeps what fits of its halo instead of shrinking for ever.
        if room < 0 or (len(halo) > room and len(core) > max(region_spots // 4, 1)):
            pending.extend(_halves(points, core))
            continue
        yield Region(chosen[np.concatenate([core, halo[:room]])], len(core))


def add_context(region: Region, points: NDArray[np.float64], *, among: Index, room: int, reach: int) -> Region:
    """Return ``region`` with the nearest spots of ``among`` as its context.

    All of them are added where they fit into ``room`` spots, else those within ``reach`` pitches of a core spot.

    ``points``: [spot, 2] (x, y) of all spots, in pitches.
    """
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(points[region.core]).query(points[among], p=np.inf)
    nearest = np.argsort(distance, kind="stable")
    if len(among) > room:
        nearest = nearest[distance[nearest] <= reach + 0.5][:room]
    return Region(np.concatenate([region.core, among[nearest]]), region.core_count)


def _blocks(points: NDArray[np.float64], *, side: int) -> Iterator[Index]:
    """Spots by equal blocks of at most ``side`` pitches, row by row; empty blocks are left out."""
    low = points.min(axis=0) - 0.5
    extent = points.max(axis=0) + 0.5 - low
    counts = np.maximum(np.ceil(extent / side - 1e-9).astype(np.int64), 1)
    cells = np.minimum(((points - low) / (extent / counts)).astype(np.int64), counts - 1)
    number = cells[:, 1] * counts[0] + cells[:, 0]
    order = np.argsort(number, kind="stable")
    edges = np.flatnonzero(np.diff(number[order])) + 1
    yield from np.split(order, edges)


def _halo(points: NDArray[np.float64], tree: object, core: Index, *, reach: int) -> Index:
    """Spots outside ``core`` within ``reach`` pitches of its bounding box, nearest first."""
    if reach == 0:
        return np.empty(0, np.int64)
    low, high = points[core].min(axis=0), points[core].max(axis=0)
    radius = (high - low).max() / 2 + reach + 0.5
    near = np.asarray(tree.query_ball_point((low + high) / 2, radius, p=np.inf), np.int64)  # type: ignore[attr-defined]
    near = np.setdiff1d(near, core, assume_unique=True)
    gap = np.maximum(np.maximum(low - points[near], points[near] - high), 0.0).max(axis=1)
    order = np.argsort(gap, kind="stable")
    inside: Index = near[order][gap[order] <= reach + 0.5]
    return inside


def _halves(points: NDArray[np.float64], core: Index) -> tuple[Index, Index]:
    """The core cut in two across its longer side; by order where all spots lie at one place."""
    axis = int(np.argmax(np.ptp(points[core], axis=0)))
    order = core[np.argsort(points[core, axis], kind="stable")]
    return order[len(order) // 2 :], order[: len(order) // 2]
