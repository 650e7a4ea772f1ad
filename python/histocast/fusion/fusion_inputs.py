"""Build what a fusion graph takes in, the same way for training and for prediction.

store = SpotFeatures.open(tiles, features, columns=bundle.feature_columns(), scratch=folder)
gather = FusionInputs.prepare(bundle.fusion, store, pitch_level0_px=pitch)
for region in regions_of_slide(store, bundle.fusion, pitch_level0_px=pitch):
    outputs = predictor.infer("fusion", gather(region.spots))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocast.bundle import FusionSpec
from histocast.errors import ConfigError
from histocast.fusion.lattice import Region, add_context, grid_coordinates, neighbour_index, regions
from histocast.fusion.spot_features import SpotFeatures, Standardisation, standardisation

__all__ = ["FusionInputs", "SpotFeatures", "regions_of_slide"]


@dataclass(frozen=True)
class FusionInputs:
    """What is computed once a slide, so that each region only gathers rows."""

    store: SpotFeatures
    feeds: Mapping[str, tuple[str, ...]]
    """Feature columns concatenated for each feature input."""
    names: tuple[str, ...]
    """Inputs the graph declares."""
    neighbours: NDArray[np.int32]
    """[spot, 25] as `neighbour_index`; empty where the graph takes no neighbours."""
    grid_xy: NDArray[np.int64]
    """[spot, 2] unique column and row."""
    statistics: Mapping[str, Standardisation]
    """By column; empty where features enter as they are."""
    fixed: Mapping[str, NDArray[Any]]
    """Inputs that are the same for every region, such as ``gene``."""

    @classmethod
    def prepare(
        cls,
        fusion: FusionSpec,
        store: SpotFeatures,
        *,
        pitch_level0_px: float,
        fixed: Mapping[str, NDArray[Any]] | None = None,
    ) -> FusionInputs:
        """Find neighbours, and what features are standardised with, as far as ``fusion`` needs them.

        Raises `ConfigError`: the graph declares an input that neither ``feeds`` nor ``fixed`` fills.
        """
        names = tuple(tensor.name for tensor in fusion.inputs)
        filled = {*fusion.feeds, *(fixed or {}), "neighbour_mask", "grid_xy"}
        if unfilled := sorted(set(names) - filled):
            raise ConfigError(
                f"nothing fills the input {', '.join(unfilled)}",
                expected="every input of the fusion graph fed from feature columns",
                where="bundle.json, fusion.feeds",
                advice="export the bundle again with this version of histocast",
            )
        takes_neighbours = not {"neighbour", "neighbour_mask"}.isdisjoint(names)
        columns = {column for name in names for column in fusion.feeds.get(name, ())}
        return cls(
            store=store,
            feeds=fusion.feeds,
            names=names,
            neighbours=neighbour_index(
                store.centres_level0_px if takes_neighbours else store.centres_level0_px[:0],
                pitch_level0_px=pitch_level0_px,
            ),
            grid_xy=grid_coordinates(store.array_row, store.array_col),
            statistics=_statistics(fusion, store, columns),
            fixed=fixed or {},
        )

    def __call__(self, spots: Sequence[int] | NDArray[np.integer]) -> dict[str, NDArray[Any]]:
        """The graph's inputs for ``spots`` (indices into the store), in their order.

        Feature inputs are float32 [spot, ...], ``neighbour`` float32 [spot, 25, dim] with 0 where the mask is
        false, ``neighbour_mask`` bool [spot, 25], ``grid_xy`` int64 [spot, 2] from 0 within these spots.
        Neighbours are taken from the whole slide, so they do not depend on how it is cut into regions. They are
        those of `SpotFeatures.in_statistics`; a spot that has none of these has its other readable neighbours.
        """
        rows = np.asarray(spots, np.int64)
        return {name: self._input(name, rows) for name in self.names}

    def _input(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        if name in self.fixed:
            return self.fixed[name]
        if name == "grid_xy":
            cells = self.grid_xy[rows]
            return cells - cells.min(axis=0, keepdims=True) if len(cells) else cells
        if name == "neighbour_mask":
            return self._mask(rows)
        if name == "neighbour":
            mask = self._mask(rows)
            values = self._features(name, np.where(mask, self.neighbours[rows], 0).reshape(-1))
            values = values.reshape(*mask.shape, *values.shape[1:])
            values[~mask] = 0.0
            return values
        return self._features(name, rows)

    def _mask(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        index = self.neighbours[rows]
        readable = (index >= 0) & self.store.readable[index]
        centre = np.arange(index.shape[1]) == index.shape[1] // 2
        clean = readable & (self.store.in_statistics[index] | centre)
        alone = ~(clean & ~centre).any(axis=1)
        return np.where(alone[:, None], readable, clean)

    def _features(self, name: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        parts = []
        for column in self.feeds[name]:
            values = self.store.columns[column][rows].astype(np.float32)
            found = self.statistics.get(column)
            parts.append(values if found is None else found.apply(values))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _statistics(fusion: FusionSpec, store: SpotFeatures, columns: set[str]) -> dict[str, Standardisation]:
    """By column: of the slide itself where the graph was trained so, else of the training set."""
    if fusion.standardise_within_slide:
        within = {column: standardisation(column, [store]) for column in sorted(columns - set(fusion.unstandardised))}
        return {column: found for column, found in within.items() if found is not None}
    return {
        column: Standardisation(np.array(found.mean, np.float32), np.array(found.sd, np.float32))
        for column, found in fusion.statistics.items()
        if column in columns
    }


def regions_of_slide(store: SpotFeatures, fusion: FusionSpec, *, pitch_level0_px: float) -> Iterator[Region]:
    """Yield the regions of a slide, in which each readable spot is predicted once.

    Spots that are not `SpotFeatures.in_statistics` come last, in regions of their own: they see the others, and no
    other spot sees them.
    """
    cut = partial(regions, store.centres_level0_px, pitch_level0_px=pitch_level0_px)
    context = np.flatnonzero(store.in_statistics)
    yield from cut(region_spots=fusion.region_spots, halo_spots=fusion.halo_spots, among=context)
    others = np.flatnonzero(store.readable & ~store.in_statistics)
    for part in cut(region_spots=max(fusion.region_spots // 2, 1), halo_spots=0, among=others):
        yield add_context(
            part,
            store.centres_level0_px / pitch_level0_px,
            among=context,
            room=fusion.region_spots - part.core_count,
            reach=fusion.halo_spots,
        )
