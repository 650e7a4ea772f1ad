"""Spots meet their neighbours, regions partition them, and the graph gets what it declares."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocast.bundle import FeatureStatistics, FusionSpec, TensorSpec
from histocast.errors import ConfigError, DataError, OutputError
from histocast.fusion.fusion_inputs import FusionInputs, regions_of_slide
from histocast.fusion.lattice import grid_coordinates, neighbour_index, regions
from histocast.fusion.spot_features import SpotFeatures, standardisation
from histocast.resources import scratch_array
from spot_files import square_array, visium_array, write_features, write_tiles

PITCH = 290.0


def fusion_inputs(spec: FusionSpec, store: SpotFeatures, spots=None, *, fixed=None) -> dict[str, np.ndarray]:
    """Inputs of a graph for some spots, all readable ones by default: a whole section as one region."""
    chosen = np.flatnonzero(store.readable) if spots is None else spots
    return FusionInputs.prepare(spec, store, pitch_level0_px=PITCH, fixed=fixed)(chosen)


EMBEDDING = {"morphology.embedding": TensorSpec(name="embedding", dtype="float32", shape=("tile", 3))}


def fusion(inputs: tuple[TensorSpec, ...], **changes: object) -> FusionSpec:
    feeds = {
        name: ("morphology.embedding",)
        for name in ("target", "neighbour", "context")
        if name in {tensor.name for tensor in inputs}
    }
    known = {"file": None, "sha256": "0" * 64, "inputs": inputs, "outputs": (), "method": "test", "feeds": feeds}
    return FusionSpec.model_validate({**known, **changes})


ALL_INPUTS = (
    TensorSpec(name="target", dtype="float32", shape=("spot", 3)),
    TensorSpec(name="neighbour", dtype="float32", shape=("spot", 25, 3)),
    TensorSpec(name="neighbour_mask", dtype="bool", shape=("spot", 25)),
    TensorSpec(name="context", dtype="float32", shape=("spot", 3)),
    TensorSpec(name="grid_xy", dtype="int64", shape=("spot", 2)),
)


def open_store(
    folder: Path, centres, row, col, *, unreadable=(), in_tissue=None, seed=0, values=None, **quality: np.ndarray
) -> SpotFeatures:
    ids = np.arange(len(centres)) if in_tissue is None else np.flatnonzero(in_tissue)
    values = np.random.default_rng(seed).normal(size=(len(centres), 3)) if values is None else values
    order = np.random.default_rng(1).permutation(len(ids))
    tiles = write_tiles(folder / "tiles.parquet", centres, array_row=row, array_col=col, in_tissue=in_tissue, **quality)
    features = write_features(
        folder / "features.parquet",
        ids[order],
        {"morphology.embedding": values[ids][order]},
        unreadable=unreadable,
    )
    return SpotFeatures.open(tiles, features, columns=EMBEDDING, scratch=folder)


class TestNeighbours:
    def test_on_a_grid_they_are_the_lattice(self):
        centres, row, col = square_array(7, 6)
        index = neighbour_index(centres, pitch_level0_px=PITCH)
        for spot in range(len(centres)):
            for place in range(25):
                r, c = row[spot] + place // 5 - 2, col[spot] + place % 5 - 2
                expected = r * 7 + c if 0 <= r < 6 and 0 <= c < 7 else -1
                assert index[spot, place] == expected

    @pytest.mark.parametrize("degrees", [-3.0, 1.5, 4.0])
    def test_on_a_turned_and_jittered_array_they_are_the_same_as_on_a_straight_one(self, degrees):
        centres, _, _ = square_array(9, 8)
        angle = np.deg2rad(degrees)
        turned = centres @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        turned += np.random.default_rng(0).normal(scale=0.04 * PITCH, size=centres.shape)
        np.testing.assert_array_equal(
            neighbour_index(turned, pitch_level0_px=PITCH), neighbour_index(centres, pitch_level0_px=PITCH)
        )

    def test_on_a_visium_array_all_25_exist_inside_and_none_is_taken_twice(self):
        centres, row, col = visium_array(12, 14)
        index = neighbour_index(centres, pitch_level0_px=PITCH)
        inside = (row >= 3) & (row < 11) & (col >= 6) & (col < 18)
        assert inside.sum() > 20
        for spot in np.flatnonzero(inside):
            assert len(set(index[spot].tolist())) == 25
            assert -1 not in index[spot]
            distance = np.linalg.norm(centres[index[spot]] - centres[spot], axis=1)
            assert distance.max() < 3.4 * PITCH

    def test_a_gap_is_absent_and_the_spot_itself_is_in_the_middle(self):
        centres, _, _ = square_array(5, 5)
        index = neighbour_index(np.delete(centres, 13, axis=0), pitch_level0_px=PITCH)
        assert index[12, 12] == 12
        assert index[12, 13] == -1
        assert (index[12] >= 0).sum() == 24

    def test_spots_at_one_place_each_stand_in_their_own_middle(self):
        index = neighbour_index(np.zeros((3, 2)), pitch_level0_px=PITCH)
        assert index[:, 12].tolist() == [0, 1, 2]

    def test_no_spots(self):
        assert neighbour_index(np.zeros((0, 2)), pitch_level0_px=PITCH).shape == (0, 25)


class TestGridCoordinates:
    def test_visium_columns_are_halved_and_stay_unique(self):
        _, row, col = visium_array(6, 7)
        cells = grid_coordinates(row, col)
        assert len(np.unique(cells, axis=0)) == len(cells)
        assert cells[:, 0].max() == 5

    def test_spots_that_share_a_cell_move_to_the_nearest_free_one(self):
        cells = grid_coordinates(np.array([4, 4, 4, 9]), np.array([4, 4, 4, 8]))
        assert len(np.unique(cells, axis=0)) == 4
        assert np.abs(cells[:3] - 4).max() == 1


class TestRegions:
    def partition(self, centres: np.ndarray, **options: int) -> list:
        found = list(regions(centres, pitch_level0_px=PITCH, **options))
        cores = np.concatenate([region.core for region in found]) if found else np.empty(0, int)
        np.testing.assert_array_equal(np.sort(cores), np.arange(len(centres)))
        for region in found:
            assert len(region.spots) <= options["region_spots"]
            assert len(np.unique(region.spots)) == len(region.spots)
        return found

    def test_a_section_that_fits_is_one_region(self):
        centres, _, _ = square_array(30, 30)
        assert len(self.partition(centres, region_spots=1024, halo_spots=4)) == 1

    def test_a_large_grid_has_full_halos(self):
        centres, row, col = square_array(90, 70)
        for region in self.partition(centres, region_spots=1024, halo_spots=4):
            inside = set(region.spots.tolist())
            for spot in region.core:
                near = (abs(row - row[spot]) <= 4) & (abs(col - col[spot]) <= 4)
                assert inside.issuperset(np.flatnonzero(near).tolist())

    def test_cost_is_linear_in_spots(self):
        for side in (60, 120, 180):
            centres, _, _ = square_array(side, side)
            found = self.partition(centres, region_spots=1024, halo_spots=4)
            assert sum(len(region.spots) for region in found) < 2.6 * len(centres)

    def test_a_hexagonal_array_is_denser_and_still_fits(self):
        centres, _, _ = visium_array(64, 78)
        found = self.partition(centres, region_spots=1024, halo_spots=4)
        assert sum(len(region.spots) for region in found) < 3.5 * len(centres)

    def test_many_spots_at_one_place(self):
        self.partition(np.zeros((100, 2)), region_spots=16, halo_spots=2)

    def test_only_readable_spots_take_part(self):
        centres, _, _ = square_array(20, 20)
        among = np.arange(0, 400, 3)
        found = list(regions(centres, pitch_level0_px=PITCH, region_spots=50, halo_spots=1, among=among))
        np.testing.assert_array_equal(np.sort(np.concatenate([region.core for region in found])), among)
        assert set(np.concatenate([region.spots for region in found]).tolist()) <= set(among.tolist())

    def test_no_spots_give_no_region(self):
        assert not list(regions(np.zeros((0, 2)), pitch_level0_px=PITCH, region_spots=9, halo_spots=1))

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 400),
        st.integers(1, 60),
        st.integers(0, 5),
        st.sampled_from([1.0, 12.0, 300.0]),
        st.integers(0, 5),
    )
    def test_any_scatter_is_partitioned(self, count, region_spots, halo_spots, extent, seed):
        centres = np.random.default_rng(seed).uniform(0, extent * PITCH, (count, 2)).round(-2)
        self.partition(centres, region_spots=region_spots, halo_spots=halo_spots)


class TestStore:
    def test_rows_meet_their_tiles_in_any_order_and_only_tissue_is_kept(self, tmp_path):
        centres, row, col = square_array(6, 5)
        in_tissue = np.arange(30) % 4 != 0
        store = open_store(tmp_path, centres, row, col, in_tissue=in_tissue, unreadable=(7,))
        values = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float16)
        assert store.tile_id.tolist() == np.flatnonzero(in_tissue).tolist()
        assert store.tile_id[~store.readable].tolist() == [7]
        readable = store.readable
        np.testing.assert_array_equal(store.columns["morphology.embedding"][readable], values[store.tile_id[readable]])
        assert not store.columns["morphology.embedding"][~readable].any()
        assert store.tiles.column("spot").to_pylist()[0] == "1x0"

    def test_features_of_another_slide_are_refused(self, tmp_path):
        centres, row, col = square_array(2, 2)
        tiles = write_tiles(tmp_path / "t.parquet", centres, array_row=row, array_col=col)
        values = {"morphology.embedding": np.zeros((4, 3))}
        features = write_features(tmp_path / "f.parquet", np.arange(4), values, slide_digest="sampled-sha256:other")
        with pytest.raises(DataError, match="run encode again"):
            SpotFeatures.open(tiles, features, columns=EMBEDDING, scratch=tmp_path)

    def test_a_tile_without_a_row_is_an_error_not_a_guess(self, tmp_path):
        centres, row, col = square_array(2, 2)
        tiles = write_tiles(tmp_path / "t.parquet", centres, array_row=row, array_col=col)
        features = write_features(tmp_path / "f.parquet", np.arange(3), {"morphology.embedding": np.zeros((3, 3))})
        with pytest.raises(DataError, match="1 tiles in tissue have no row"):
            SpotFeatures.open(tiles, features, columns=EMBEDDING, scratch=tmp_path)

    @pytest.mark.parametrize(
        "columns", [{"other.embedding": np.zeros((4, 3))}, {"morphology.embedding": np.zeros((4, 2))}]
    )
    def test_columns_that_do_not_fit_are_named(self, tmp_path, columns):
        centres, row, col = square_array(2, 2)
        tiles = write_tiles(tmp_path / "t.parquet", centres, array_row=row, array_col=col)
        features = write_features(tmp_path / "f.parquet", np.arange(4), columns)
        with pytest.raises(DataError, match=r"morphology\.embedding"):
            SpotFeatures.open(tiles, features, columns=EMBEDDING, scratch=tmp_path)

    def test_maps_and_tokens_keep_their_shape(self, tmp_path):
        centres, row, col = square_array(2, 2)
        tiles = write_tiles(tmp_path / "t.parquet", centres, array_row=row, array_col=col)
        flat = np.arange(4 * 8).reshape(4, 8).astype(float)
        features = write_features(tmp_path / "f.parquet", np.arange(4), {"nuclei.map": flat, "vit.tokens": flat})
        columns = {
            "nuclei.map": TensorSpec(name="map", dtype="float32", shape=("tile", 2, 2, 2)),
            "vit.tokens": TensorSpec(name="tokens", dtype="float32", shape=("tile", "token", 4)),
        }
        store = SpotFeatures.open(tiles, features, columns=columns, scratch=tmp_path)
        np.testing.assert_array_equal(store.columns["nuclei.map"], flat.reshape(4, 2, 2, 2))
        assert store.columns["vit.tokens"].shape == (4, 2, 4)

    def test_a_full_scratch_disk_is_a_clear_error(self, tmp_path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            with pytest.raises(OutputError, match="scratch"):
                scratch_array(tmp_path, "big", shape=(1000, 1000), dtype=np.float32)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not list(tmp_path.iterdir())


SHIFTS = {"first": 0.0, "second": 1.0}


class TestInputs:
    def test_exactly_the_declared_inputs_with_their_dtypes(self, tmp_path):
        centres, row, col = square_array(6, 6)
        store = open_store(tmp_path, centres, row, col, unreadable=(14,))
        inputs = fusion_inputs(fusion(ALL_INPUTS), store, [7, 8, 20])
        assert {name: (value.dtype.name, value.shape) for name, value in inputs.items()} == {
            "target": ("float32", (3, 3)),
            "neighbour": ("float32", (3, 25, 3)),
            "neighbour_mask": ("bool", (3, 25)),
            "context": ("float32", (3, 3)),
            "grid_xy": ("int64", (3, 2)),
        }
        assert inputs["grid_xy"].tolist() == [[0, 0], [1, 0], [1, 2]]
        np.testing.assert_array_equal(inputs["neighbour"][:, 12], inputs["target"])
        assert not inputs["neighbour_mask"][0, 18], "the unreadable spot below and right of spot 7"
        assert not inputs["neighbour"][~inputs["neighbour_mask"]].any()

    def test_an_input_nothing_fills_is_a_configuration_error(self, tmp_path):
        centres, row, col = square_array(2, 2)
        store = open_store(tmp_path, centres, row, col)
        gene = TensorSpec(name="gene", dtype="float32", shape=("gene", 4))
        with pytest.raises(ConfigError, match="gene"):
            fusion_inputs(fusion((*ALL_INPUTS, gene)), store)
        table = np.ones((5, 4), np.float32)
        filled = fusion_inputs(fusion((*ALL_INPUTS, gene)), store, fixed={"gene": table})
        assert filled["gene"] is table

    def test_columns_are_concatenated_in_the_order_fed(self, tmp_path):
        centres, row, col = square_array(2, 2)
        store = open_store(tmp_path, centres, row, col)
        twice = {"target": ("morphology.embedding", "morphology.embedding")}
        inputs = fusion_inputs(fusion(ALL_INPUTS[:1], feeds=twice), store)
        np.testing.assert_array_equal(inputs["target"][:, :3], inputs["target"][:, 3:])

    def test_standardising_within_the_slide_uses_readable_spots_alone(self, tmp_path):
        centres, row, col = square_array(30, 30)
        store = open_store(tmp_path, centres, row, col, unreadable=(3, 4))
        inputs = fusion_inputs(fusion(ALL_INPUTS, standardise_within_slide=True), store)
        assert len(inputs["target"]) == 898
        np.testing.assert_allclose(inputs["target"].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(inputs["target"].std(axis=0), 1, atol=1e-4)
        assert not inputs["neighbour"][~inputs["neighbour_mask"]].any(), "what is absent is 0 after standardising"

    def test_features_are_standardised_by_the_training_set_where_its_statistics_are_given(self, tmp_path):
        """A slide is then seen as it is: a shift of all its features stays."""
        centres, row, col = square_array(20, 20)
        values = np.random.default_rng(0).normal(3.0, 2.0, (400, 3))
        stores = [
            open_store(tmp_path / name, centres, row, col, values=values + shift) for name, shift in SHIFTS.items()
        ]
        found = standardisation("morphology.embedding", stores)
        both = np.concatenate([values, values + 1.0])
        np.testing.assert_allclose(found.mean, both.mean(axis=0), atol=1e-2)
        np.testing.assert_allclose(found.sd, both.std(axis=0), atol=1e-2)
        statistics = {"morphology.embedding": FeatureStatistics(mean=found.mean.tolist(), sd=found.sd.tolist())}
        spec = fusion(ALL_INPUTS, statistics=statistics)
        inputs = [fusion_inputs(spec, store) for store in stores]
        for name in ("target", "context"):
            difference = inputs[1][name] - inputs[0][name]
            np.testing.assert_allclose(difference, 1.0 / found.sd[None].repeat(400, axis=0), atol=5e-3)
        assert not inputs[0]["neighbour"][~inputs[0]["neighbour_mask"]].any()

    def standardise(self, folder, values):
        centres, row, col = square_array(len(values) // 4, 4)
        store = open_store(folder, centres, row, col)
        return standardisation("map", [replace(store, columns={"map": values})])

    def test_a_constant_feature_does_not_become_noise(self, tmp_path):
        values = (100 + np.random.default_rng(0).normal(scale=0.01, size=(5000, 2))).astype(np.float16)
        found = self.standardise(tmp_path, values)
        assert np.abs(found.apply(values.astype(np.float32))).max() < 1.0

    def test_maps_are_left_as_they_are(self, tmp_path):
        assert self.standardise(tmp_path, np.zeros((4, 2, 8, 8), np.float16)) is None

    def test_values_do_not_depend_on_the_window(self, tmp_path):
        centres, row, col = square_array(25, 25)
        store = open_store(tmp_path, centres, row, col)
        spec = fusion(ALL_INPUTS, standardise_within_slide=True)
        gather = FusionInputs.prepare(spec, store, pitch_level0_px=PITCH)
        whole = gather(np.arange(625))
        for region in regions(store.centres_level0_px, pitch_level0_px=PITCH, region_spots=120, halo_spots=2):
            part = gather(region.core)
            for name in ("target", "neighbour", "neighbour_mask", "context"):
                np.testing.assert_array_equal(part[name], whole[name][region.core])

    def test_an_empty_slide(self, tmp_path):
        centres, row, col = square_array(3, 3)
        store = open_store(tmp_path, centres, row, col, in_tissue=np.zeros(9, bool))
        inputs = fusion_inputs(fusion(ALL_INPUTS, standardise_within_slide=True), store)
        assert inputs["neighbour"].shape == (0, 25, 3)
        assert inputs["grid_xy"].shape == (0, 2)


class TestUncleanSpots:
    """Spots under ink, out of focus or unreadable change nothing for any other spot."""

    SIDE = 12
    SPOILT = (3, 40, 41, 52, 53, 99)

    def spoil(self, folder: Path, kind: str, values: np.ndarray) -> SpotFeatures:
        centres, row, col = square_array(self.SIDE, self.SIDE)
        spoilt = np.isin(np.arange(len(centres)), self.SPOILT)
        folder.mkdir()
        quality = {} if kind == "unreadable" else {kind: np.where(spoilt, 0.8, 0.01)}
        unreadable = self.SPOILT if kind == "unreadable" else ()
        return open_store(folder, centres, row, col, values=values, unreadable=unreadable, **quality)

    @pytest.mark.parametrize("kind", ["pen_fraction", "blur", "unreadable"])
    def test_whatever_they_look_like_the_others_get_the_same_inputs(self, tmp_path, kind):
        spec = fusion(ALL_INPUTS, standardise_within_slide=True, region_spots=64, halo_spots=2)
        values = np.random.default_rng(0).normal(size=(self.SIDE**2, 3))
        other = values.copy()
        other[list(self.SPOILT)] = 50.0
        found = []
        for name, features in (("first", values), ("second", other)):
            store = self.spoil(tmp_path / name, kind, features)
            assert np.flatnonzero(~store.in_statistics).tolist() == list(self.SPOILT)
            gather = FusionInputs.prepare(spec, store, pitch_level0_px=PITCH)
            parts = list(regions_of_slide(store, spec, pitch_level0_px=PITCH))
            predicted = np.concatenate([part.core for part in parts])
            assert sorted(predicted.tolist()) == np.flatnonzero(store.readable).tolist()
            assert all(len(part.spots) <= 64 for part in parts)
            clean = [part for part in parts if store.in_statistics[part.core].all()]
            assert all(store.in_statistics[part.spots].all() for part in clean), "no clean spot sees another kind"
            found.append([gather(part.spots) for part in clean])
        assert len(found[0]) == len(found[1]) > 1
        for first, second in zip(*found, strict=True):
            for name in first:
                np.testing.assert_array_equal(first[name], second[name])

    def test_a_spoilt_spot_sees_the_clean_ones(self, tmp_path):
        spec = fusion(ALL_INPUTS, region_spots=64, halo_spots=2)
        store = self.spoil(tmp_path / "s", "blur", np.zeros((self.SIDE**2, 3)))
        last = list(regions_of_slide(store, spec, pitch_level0_px=PITCH))[-1]
        assert sorted(last.core.tolist()) == list(self.SPOILT)
        assert store.in_statistics[last.spots[last.core_count :]].all()
        assert last.core_count < len(last.spots) <= 64
        mask = FusionInputs.prepare(spec, store, pitch_level0_px=PITCH)([40])["neighbour_mask"][0]
        assert mask[12], "itself"
        assert not mask[13], "its spoilt neighbour, 41"
        assert mask[11], "its clean neighbour, 39"

    @pytest.mark.parametrize(("clean", "used"), [(0, 9), (4, 9), (5, 5)])
    def test_where_hardly_anything_else_is_there_they_are_used(self, tmp_path, clean, used):
        centres, row, col = square_array(3, 3)
        blur = np.where(np.arange(9) < clean, 0.0, 0.9)
        store = open_store(tmp_path, centres, row, col, blur=blur)
        assert store.in_statistics.sum() == used

    def test_a_clean_slide_is_cut_into_regions_as_ever(self, tmp_path):
        centres, row, col = square_array(20, 20)
        store = open_store(tmp_path, centres, row, col)
        spec = fusion(ALL_INPUTS, region_spots=120, halo_spots=2)
        plain = regions(centres, pitch_level0_px=PITCH, region_spots=120, halo_spots=2)
        for found, expected in zip(regions_of_slide(store, spec, pitch_level0_px=PITCH), plain, strict=True):
            np.testing.assert_array_equal(found.spots, expected.spots)
            assert found.core_count == expected.core_count
