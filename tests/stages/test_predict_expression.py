"""Predictions arrive at their spots, with honest intervals, in files that the field's tools open."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import anndata
import cv2
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from described_bundle import SEEN, UNSEEN, gene_texts, projection, write_described_bundle, write_descriptions
from histocast.artifacts import EXPRESSION, PREDICTED_GENES, SLIDE_FACTS_KEY, SLIDE_SUMMARY, open_parquet, read_table
from histocast.bundle import Bundle, bundle_digest, read_bundle
from histocast.errors import ConfigError, DataError, MissingInputError, OutputError
from histocast.expression.predict_expression import predict_expression
from histocast.expression.slide_summary import SlideFacts
from histocast.fusion.lattice import neighbour_index
from histocast.inference import open_predictor
from histocast.sections.labels import SCALES
from sample_bundle import PITCH_PX, SlideFiles, gene_weights, write_bundle, write_slide_files
from spot_files import SLIDE_DIGEST


def predict(folder: Path, files: SlideFiles, bundle_folder: Path, bundle: Bundle, **options):
    with open_predictor(bundle_folder, bundle, names=("fusion",), threads=1) as predictor:
        return predict_expression(
            record=files.record,
            tiles=files.tiles,
            features=files.features,
            thumbnail=files.thumbnail,
            bundle_folder=bundle_folder,
            bundle=bundle,
            predictor=predictor,
            outdir=folder,
            **options,
        )


FIXED = [column.name for column in EXPRESSION.columns]


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(bundle_folder) -> Bundle:
    return Bundle.model_validate_json((bundle_folder / "bundle.json").read_bytes())


@pytest.fixture(scope="module")
def done(tmp_path_factory, bundle_folder, bundle):
    """One slide with two unreadable tiles, predicted."""
    folder = tmp_path_factory.mktemp("slide")
    files = write_slide_files(folder, bundle_digest(bundle_folder), unreadable=(40, 65))
    facts = predict(folder / "out", files, bundle_folder, bundle)
    return folder / "out", files, facts


@pytest.fixture(scope="module")
def data(done) -> anndata.AnnData:
    return anndata.read_h5ad(done[0] / "S1.h5ad")


def expected_expression(
    files: SlideFiles, tile_id: np.ndarray, *, lost: tuple[int, ...], genes: int = 30
) -> np.ndarray:
    """The graph's arithmetic in numpy, over the whole slide at once."""
    own, around = gene_weights(genes)
    readable = ~np.isin(tile_id, lost)
    centres = np.stack(np.divmod(tile_id, 12)[::-1], axis=-1) * PITCH_PX
    index = neighbour_index(centres, pitch_level0_px=PITCH_PX)
    mask = (index >= 0) & readable[index]
    values = files.values[tile_id].astype(np.float64)
    mean = (values[index] * mask[..., None]).sum(axis=1) / np.maximum(mask.sum(axis=1, keepdims=True), 1)
    predicted = 1 + values @ own + mean @ around
    predicted[~readable] = np.nan
    return predicted


class TestAnnData:
    def test_numbers_are_the_graphs_and_stand_at_their_spots(self, data, done):
        tile_id = data.obs["tile_id"].to_numpy()
        np.testing.assert_allclose(data.X, expected_expression(done[1], tile_id, lost=(40, 65)), atol=2e-5)
        assert data.X.dtype == np.float32
        np.testing.assert_array_equal(data.obsm["spatial"], data.obs[["x_level0_px", "y_level0_px"]].to_numpy())
        # cellxgene shows embeddings that are called X_ and have two finite columns, and needs an index without repeats.
        np.testing.assert_array_equal(data.obsm["X_spatial"], data.obsm["spatial"])
        assert data.obs_names.tolist() == [f"S1_{number % 12}x{number // 12}" for number in tile_id]
        assert data.obs["in_tissue"].all()
        assert done[2]["spots"] == data.n_obs

    def test_unreadable_tiles_stay_and_hold_no_number(self, data, done):
        lost = data.obs["status"] == "unreadable"
        assert data.obs["tile_id"][lost].tolist() == [40, 65]
        for matrix in (data.X, *data.layers.values()):
            assert np.isnan(matrix[lost]).all()
            assert np.isfinite(matrix[~lost]).all()
        assert data.obs["ood_score"][lost].isna().all()
        assert not data.obs["ood_flag"][lost].any()
        assert done[2]["unreadable"] == 2

    def test_intervals_are_conformal_and_end_where_the_scale_does(self, data, bundle_folder):
        assert set(data.layers) == {"sd", "lower", "upper"}, "predictions never sit in a counts layer"
        width = pq.read_table(bundle_folder / "genes.parquet").column("interval_90").to_numpy()
        ok = (data.obs["status"] == "ok").to_numpy()
        values, sd = data.X[ok], data.layers["sd"][ok]
        np.testing.assert_allclose(data.layers["upper"][ok], values + width * sd, rtol=1e-5, atol=1e-6)
        raw = values - width * sd
        lower = data.layers["lower"][ok]
        np.testing.assert_allclose(lower, np.minimum(np.maximum(raw, 0), values), rtol=1e-5, atol=1e-6)
        assert (values < 0).any()
        assert (lower <= values).all()
        assert lower[values >= 0].min() >= 0

    def test_genes_keep_what_is_known_of_them(self, data):
        assert data.var.index.name == "gene_id"
        assert data.var_names.is_unique
        assert data.var.loc["ENSG00000000007", "gene_symbol"] == "GENE7"
        assert data.var["seen_in_training"].dtype == bool
        assert data.var["val_pcc"].isna().tolist().index(True) == 4
        ok = data.obs["status"] == "ok"
        np.testing.assert_allclose(data.var["predicted_mean"], data.X[ok].mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(data.var["predicted_sd"], data.X[ok].std(axis=0), atol=1e-5)

    def test_out_of_distribution_is_the_documented_distance(self, data, done):
        values = done[1].values[data.obs["tile_id"]].astype(np.float32)
        ok = (data.obs["status"] == "ok").to_numpy()
        score = np.sqrt((values**2).mean(axis=1))
        np.testing.assert_allclose(data.obs["ood_score"][ok], score[ok], rtol=1e-5)
        assert data.obs["ood_flag"][ok].tolist() == (score[ok] > 1.6).tolist()

    def test_provenance_says_what_made_it_and_what_it_is_worth(self, data, bundle_folder):
        known = data.uns["histocast"]
        assert known["inputs"] == {"slide": SLIDE_DIGEST, "bundle": bundle_digest(bundle_folder)}
        assert known["bundle"]["version"] == "1.2.0"
        assert known["scale"]["name"] == "log1p_cp10k"
        assert known["calibration"]["coverage_percent"] == 90
        assert known["parameters"]["region_spots"] == 1024
        assert known["metrics"]["value"].tolist() == [0.2441, 0.3712, 0.893, 0.1312, 0.0021]
        assert set(known["metrics"].columns) >= {"split", "genes", "normalisation", "smoothing", "averaging"}

    def test_the_picture_lies_under_the_spots(self, data):
        library = data.uns["spatial"]["S1"]
        image, factors = library["images"]["hires"], library["scalefactors"]
        assert image.dtype == np.uint8
        at = (data.obsm["spatial"] * factors["tissue_hires_scalef"]).astype(int)
        glass = image[at[:, 1], at[:, 0]].min(axis=1) > 235
        assert not glass.any(), "every spot lies on tissue in the picture"
        assert factors["spot_diameter_fullres"] == pytest.approx(200)

    def test_scanpy_draws_it(self, data, tmp_path):
        script = (
            "import sys, matplotlib; matplotlib.use('Agg')\n"
            "import scanpy, anndata, warnings; warnings.simplefilter('ignore')\n"
            "data = anndata.read_h5ad(sys.argv[1])\n"
            "scanpy.pl.spatial(data, color='GENE7', gene_symbols='gene_symbol', show=False)\n"
            "matplotlib.pyplot.savefig(sys.argv[2])\n"
        )
        source, drawn = tmp_path / "in.h5ad", tmp_path / "drawn.png"
        data.copy().write_h5ad(source)
        subprocess.run([sys.executable, "-c", script, source, drawn], check=True, capture_output=True)
        assert drawn.stat().st_size > 10_000

    def test_it_survives_being_written_again_by_anndata(self, data, tmp_path):
        data.copy().write_h5ad(tmp_path / "again.h5ad")
        again = anndata.read_h5ad(tmp_path / "again.h5ad", backed="r")
        np.testing.assert_array_equal(again.X[:3], data.X[:3])


class TestParquet:
    def test_one_row_per_spot_and_one_column_per_gene(self, data, done):
        table = pl.read_parquet(done[0] / "S1.parquet")
        assert table.columns == [*FIXED, *data.var_names]
        np.testing.assert_array_equal(table.drop(FIXED).to_numpy(), data.X)
        assert table.filter(pl.col("tile_id") == 40)["ENSG00000000000"].to_list() == [None]

    def test_quality_columns_say_what_the_anndata_file_says(self, data, done):
        table = pl.read_parquet(done[0] / "S1.parquet").to_pandas()
        for name in FIXED:
            np.testing.assert_array_equal(table[name], data.obs[name].astype(table[name].dtype), err_msg=name)

    def test_the_gene_table_says_what_var_says(self, data, done):
        table = read_table(done[0] / "S1.genes.parquet", PREDICTED_GENES)[0].to_pandas().set_index("gene_id")
        assert table.index.tolist() == data.var_names.tolist()
        for name in table.columns:
            np.testing.assert_array_equal(table[name], data.var[name].astype(table[name].dtype), err_msg=name)

    def test_symbols_and_provenance_stand_in_the_metadata(self, done):
        file, provenance = open_parquet(done[0] / "S1.parquet", EXPRESSION)
        assert file.schema_arrow.field("ENSG00000000009").metadata[b"gene_symbol"] == b"GENE9"
        assert provenance.inputs["slide"] == SLIDE_DIGEST
        assert provenance.parameters["coverage_percent"] == 90


class TestSlideSummary:
    @pytest.mark.parametrize("prefix", ["", "in_distribution_"])
    def test_its_statistics_are_those_of_the_spots(self, data, done, prefix):
        table = pl.read_parquet(done[0] / "S1.slide.parquet")
        assert table["gene_id"].to_list() == data.var_names.tolist()
        chosen = data.obs["in_statistics"] & ~data.obs["ood_flag"] if prefix else data.obs["status"] == "ok"
        assert 10 < chosen.sum() < len(chosen)
        values = data.X[chosen.to_numpy()].astype(np.float64)
        np.testing.assert_allclose(table[f"{prefix}mean"], values.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(table[f"{prefix}sd"], values.std(axis=0), rtol=1e-4)
        reach = np.ptp(values, axis=0).max() / 256
        for name, share in (("median", 0.5), ("p10", 0.1), ("p90", 0.9)):
            np.testing.assert_allclose(table[f"{prefix}{name}"], np.quantile(values, share, axis=0), atol=reach)
        if prefix:
            np.testing.assert_allclose(table["high_fraction"], (values > np.float32(1.1)).mean(axis=0), atol=1e-6)
        assert table[f"{prefix}mean_se"].null_count() == 30, "1.2 mm are no five blocks"

    def test_its_metadata_say_what_the_slide_is_like_and_show_it(self, data, done):
        file, provenance = open_parquet(done[0] / "S1.slide.parquet", SLIDE_SUMMARY)
        facts = SlideFacts.model_validate_json(file.schema_arrow.metadata[SLIDE_FACTS_KEY])
        ok = (data.obs["status"] == "ok").to_numpy()
        clean = (data.obs["in_statistics"] & ~data.obs["ood_flag"]).to_numpy()
        assert (facts.spots, facts.readable_spots, facts.in_distribution_spots) == (len(ok), ok.sum(), clean.sum())
        assert facts.ood_fraction == pytest.approx(data.obs["ood_flag"][ok].mean())
        features = done[1].values[data.obs["tile_id"][clean]].astype(np.float64)
        np.testing.assert_allclose(facts.embedding, features.mean(axis=0), rtol=1e-4, atol=1e-5)
        assert provenance.inputs["slide"] == SLIDE_DIGEST
        picture = cv2.imdecode(np.frombuffer(b64decode(facts.picture_jpeg), np.uint8), cv2.IMREAD_COLOR)
        assert max(picture.shape) <= 96
        assert (done[0] / "S1.slide.parquet").stat().st_size < 50_000


@pytest.mark.parametrize(
    ("within_slide", "scale", "expected"),
    [
        (True, SCALES["strict"], False),
        *((False, scale, name != "residual") for name, scale in SCALES.items()),
    ],
)
def test_a_bundle_that_is_relative_to_the_slide_is_not_comparable_between_slides(bundle, within_slide, scale, expected):
    fusion = bundle.fusion.model_copy(update={"standardise_within_slide": within_slide})
    assert bundle.model_copy(update={"fusion": fusion, "scale": scale}).comparable_between_slides is expected


class TestRegions:
    @pytest.mark.parametrize(("region_spots", "halo_spots"), [(20, 1), (9, 0), (30, 4)])
    def test_numbers_of_a_local_method_do_not_depend_on_the_windows(self, tmp_path, data, region_spots, halo_spots):
        cut = write_bundle(tmp_path / "bundle", region_spots=region_spots, halo_spots=halo_spots)
        files = write_slide_files(tmp_path, bundle_digest(tmp_path / "bundle"), unreadable=(40, 65))
        facts = predict(tmp_path / "out", files, tmp_path / "bundle", cut)
        assert facts["regions"] > 1
        again = anndata.read_h5ad(tmp_path / "out" / "S1.h5ad")
        np.testing.assert_allclose(again.X, data.X, atol=1e-5)


class TestEdges:
    def test_a_slide_without_tissue_gives_complete_empty_files(self, tmp_path, bundle_folder, bundle):
        files = write_slide_files(tmp_path, bundle_digest(bundle_folder), empty=True)
        facts = predict(tmp_path, files, bundle_folder, bundle)
        assert facts["spots"] == facts["regions"] == 0
        data = anndata.read_h5ad(tmp_path / "S1.h5ad")
        assert data.shape == (0, 30)
        assert set(data.layers) == {"sd", "lower", "upper"}
        assert data.obsm["spatial"].shape == (0, 2)
        assert "gene_symbol" in data.var
        assert data.uns["spatial"]["S1"]["images"]["hires"].size
        table = pl.read_parquet(tmp_path / "S1.parquet")
        assert table.shape == (0, 30 + len(FIXED))
        assert table.schema["ENSG00000000000"] == pl.Float32

        summary = pl.read_parquet(tmp_path / "S1.slide.parquet")
        assert summary.shape == (30, len(SLIDE_SUMMARY.columns))
        assert summary["in_distribution_mean"].null_count() == 30

    def test_all_tiles_unreadable(self, tmp_path, bundle_folder, bundle):
        files = write_slide_files(tmp_path, bundle_digest(bundle_folder), unreadable=tuple(range(120)))
        facts = predict(tmp_path, files, bundle_folder, bundle)
        assert facts["unreadable"] == facts["spots"] > 0
        assert np.isnan(anndata.read_h5ad(tmp_path / "S1.h5ad").X).all()

    def test_one_tile(self, tmp_path, bundle_folder, bundle):
        files = write_slide_files(tmp_path, bundle_digest(bundle_folder), columns=1, rows=1)
        assert predict(tmp_path, files, bundle_folder, bundle)["spots"] == 1

    def test_a_missing_thumbnail_is_named_by_sample(self, tmp_path, bundle_folder, bundle):
        files = write_slide_files(tmp_path, bundle_digest(bundle_folder))
        files.thumbnail.unlink()
        with pytest.raises(MissingInputError, match="sample S1"):
            predict(tmp_path / "out", files, bundle_folder, bundle)

    def test_a_gene_table_of_another_length_is_a_bundle_fault(self, tmp_path):
        write_bundle(tmp_path / "bundle", gene_count=12)
        wrong = write_bundle(tmp_path / "bundle").model_copy(update={"gene_count": 12})
        files = write_slide_files(tmp_path, bundle_digest(tmp_path / "bundle"))
        with pytest.raises(ConfigError, match="12 different gene ids"):
            predict(tmp_path / "out", files, tmp_path / "bundle", wrong)

    def test_nothing_is_left_behind_when_an_output_cannot_be_written(self, tmp_path, bundle_folder, bundle):
        files = write_slide_files(tmp_path / "in", bundle_digest(bundle_folder), columns=40, rows=40)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
        try:
            with pytest.raises(OutputError):
                predict(tmp_path / "out", files, bundle_folder, bundle)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert {path.name for path in (tmp_path / "out").iterdir()} <= {"S1.parquet", "S1.genes.parquet"}

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
    @pytest.mark.parametrize("size", ["64k", "300k", "400k"])
    def test_a_full_disk_is_an_output_error(self, tmp_path, bundle_folder, bundle, size):
        files = write_slide_files(tmp_path / "in", bundle_digest(bundle_folder), columns=40, rows=40)
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=False, capture_output=True
        )
        if mounted.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
        try:
            with pytest.raises(OutputError, match=r"room|cannot write"):
                predict(disk, files, bundle_folder, bundle, scratch=tmp_path)
            assert not list(disk.glob("*.h5ad"))
            assert not list(disk.glob(".*partial*"))
        finally:
            subprocess.run(["umount", disk], check=True)


class TestPanel:
    def test_a_panel_writes_its_genes_in_its_order(self, tmp_path, data, bundle_folder, bundle):
        files = write_slide_files(tmp_path, bundle_digest(bundle_folder), unreadable=(40, 65))
        panel = tmp_path / "panel.txt"
        panel.write_text("GENE7\nGENE2\nGENE20\n")
        facts = predict(tmp_path / "out", files, bundle_folder, bundle, genes=panel)
        assert facts["genes"] == 3
        subset = anndata.read_h5ad(tmp_path / "out" / "S1.h5ad")
        np.testing.assert_array_equal(subset[:, "ENSG00000000007"].X, data[:, "ENSG00000000007"].X)
        assert subset.var["gene_symbol"].tolist() == ["GENE7", "GENE2", "GENE20"]
        assert "genes" in subset.uns["histocast"]["inputs"]

    def test_an_unknown_gene_is_refused(self, tmp_path, bundle_folder, bundle):
        files = write_slide_files(tmp_path, bundle_digest(bundle_folder))
        panel = tmp_path / "panel.txt"
        panel.write_text("GENE7\nNOSUCH\n")
        with pytest.raises(DataError, match="NOSUCH"):
            predict(tmp_path / "out", files, bundle_folder, bundle, genes=panel)


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("described")
    write_described_bundle(folder / "bundle")
    return folder


class TestDescribedGenes:
    def test_genes_of_the_bundle_are_marked_in_both_files(self, described):
        bundle = read_bundle(described / "bundle")
        files = write_slide_files(described / "in", bundle_digest(described / "bundle"), unreadable=(40, 65))
        facts = predict(described / "out", files, described / "bundle", bundle)
        assert (facts["genes"], facts["unseen_genes"]) == (SEEN + UNSEEN, UNSEEN)
        data = anndata.read_h5ad(described / "out" / "S1.h5ad")
        assert data.var["seen_in_training"].tolist() == [True] * SEEN + [False] * UNSEEN
        assert data.var["evidence"].tolist()[:SEEN] == ["trained"] * SEEN
        assert list(data.var["evidence"].cat.categories) == ["trained", "similar_text", "dissimilar_text"]
        assert data.var["evidence"].iloc[[SEEN, -1]].tolist() == ["similar_text", "dissimilar_text"]
        assert data.var["text_distance"].isna().tolist() == [True] * SEEN + [False] * UNSEEN
        assert np.isnan(data.layers["upper"][:, SEEN:]).all()
        assert np.isfinite(data.layers["upper"][np.asarray(data.obs["status"] == "ok"), :SEEN]).all()
        schema = pq.read_schema(described / "out" / "S1.parquet")
        first, last = (schema.field(data.var_names[place]).metadata for place in (0, -1))
        assert (first[b"seen_in_training"], first[b"evidence"]) == (b"true", b"trained")
        assert (last[b"seen_in_training"], last[b"evidence"]) == (b"false", b"dissimilar_text")
        assert b"nearest_gene" not in first
        summary = pl.read_parquet(described / "out" / "S1.slide.parquet")
        assert summary["high_fraction"].null_count() == SEEN + UNSEEN, "the bundle does not state the percentile"
        assert summary["training_mean"].null_count() == UNSEEN
        assert last[b"nearest_gene"].decode() == data.var["nearest_gene"].iloc[-1]
        assert data.var["nearest_gene"].tolist()[: SEEN + 1] == [""] * SEEN + ["GENE0"]

    def test_six_hundred_genes_beside_the_bundle_are_predicted_by_their_descriptions(self, described, tmp_path):
        bundle = read_bundle(described / "bundle")
        files = write_slide_files(tmp_path / "in", bundle_digest(described / "bundle"))
        texts = gene_texts(600, seed=4)
        names = {f"ENSG{number:011d}": f"Q{number}" for number in range(5000, 5600)}
        asked = write_descriptions(tmp_path / "genes.parquet", names, texts)
        facts = predict(tmp_path / "out", files, described / "bundle", bundle, genes=asked)
        assert facts["unseen_genes"] == 600
        data = anndata.read_h5ad(tmp_path / "out" / "S1.h5ad")
        assert data.var_names.tolist() == list(names)
        features = files.values[data.obs["tile_id"].to_numpy()].astype(np.float32)
        np.testing.assert_allclose(data.X, 1 + features @ projection() @ texts.T, atol=1e-4)
        assert data.uns["histocast"]["inputs"]["genes"].startswith("sha256:")


def test_memory_does_not_grow_with_the_slide(tmp_path):
    """The predictions of 24,000 spots are written in less memory than they take."""
    script = Path(__file__).with_name("measure_memory.py")
    done = subprocess.run([sys.executable, script, tmp_path, "240"], check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout)
    matrices_mb = 4 * 4 * 600 * measured["spots"] / 1e6
    assert matrices_mb > 200
    assert measured["anonymous_mb"] < 0.6 * matrices_mb
