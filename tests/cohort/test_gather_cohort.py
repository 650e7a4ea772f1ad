"""Slides of several runs become one data set: every row accounted for, nothing compared that is not comparable."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import boto3
import numpy as np
import polars as pl
import pytest

from histocast.artifacts import SIGNATURES, SLIDES, open_parquet
from histocast.cohort.gather_cohort import gather_cohort
from histocast.errors import ConfigError, DataError, MissingInputError, OutputError, StaleInputError, UsageError
from histocast.stages.cohort import Cohort
from made_cohort import BUNDLE, Made, make_slides, write_results

SETS = "UP\tx\tGENE1\tGENE2\tgene3\nMISSING\tx\tNO1\tNO2\tGENE1\n"


def metadata(number: int) -> dict[str, str]:
    return {"site": "north" if number % 2 else "south", "age": str(40 + number % 30), "block": f"00{number}"}


SLIDES_MADE = [
    *make_slides(60, metadata=metadata),
    Made("no_tissue", None, metadata(0)),
    Made("broken", failed="tile", metadata=metadata(1)),
    replace(make_slides(1, seed=9)[0], sample="no_page", failed="report"),
]


@pytest.fixture(scope="module")
def gathered(tmp_path_factory) -> Path:
    """A cohort with a map and signatures."""
    folder = tmp_path_factory.mktemp("gathered")
    write_results(folder / "results", SLIDES_MADE)
    (folder / "sets.gmt").write_text(SETS)
    results = (folder / "results",)
    Cohort(results=results, outdir=folder / "cohort", signatures=folder / "sets.gmt", batch="site").run()
    return folder


@pytest.fixture
def gather(tmp_path, without_map) -> Callable[..., Path]:
    def run(*results: object, outdir: Path | None = None, **options: object) -> Path:
        outdir = outdir or tmp_path / "cohort"
        gather_cohort([str(each) for each in results], outdir=outdir, scratch=tmp_path, **options)
        return outdir

    return run


def matrix_of(folder: Path) -> anndata.AnnData:
    return anndata.read_h5ad(folder / "cohort.h5ad")


class TestTables:
    def test_every_row_is_there_in_its_order_with_its_outcome_and_metadata(self, gathered):
        table = pl.read_parquet(gathered / "cohort" / "slides.parquet")
        assert table["sample"].to_list() == [made.sample for made in SLIDES_MADE]
        odd = table.filter(pl.col("sample").is_in(["no_tissue", "broken", "no_page"]))
        assert odd.select("outcome", "failed_stage", "in_matrix").rows() == [
            ("ok", None, False),
            ("failed", "tile", False),
            ("failed", "report", True),
        ]
        assert odd["advice"].to_list() == [None, "state it in column mpp", "state it in column mpp"]
        assert table["meta.site"].to_list()[:2] == ["south", "north"]
        assert table["mean_expression"][4] == pytest.approx(SLIDES_MADE[4].mean.mean(), rel=1e-5)
        assert table["picture_jpeg"].null_count() == 1
        assert table["bundle_digest"].drop_nulls().unique().to_list() == [BUNDLE]
        open_parquet(gathered / "cohort" / "slides.parquet", SLIDES)

    def test_the_matrix_holds_the_means_of_each_slide_and_its_other_statistics(self, gathered):
        data = matrix_of(gathered / "cohort")
        predicted = [made for made in SLIDES_MADE if made.mean is not None]
        assert data.obs_names.tolist() == [made.sample for made in predicted]
        np.testing.assert_allclose(data.X, np.stack([made.mean for made in predicted]), rtol=1e-6)
        assert set(data.layers) == {"sd", "median", "p10", "p90", "mean_se", "high_fraction", "readable_mean"}
        np.testing.assert_allclose(data.layers["p90"], data.X + 0.6, rtol=1e-5)
        assert data.obsm["mean_embedding"].shape == (61, 8)
        np.testing.assert_allclose(data.var["slides_sd"], data.X.std(axis=0), rtol=1e-4)
        assert data.var.loc["ENSG00000000007", "gene_symbol"] == "GENE7"
        assert data.var["val_pcc"].iloc[0] == pytest.approx(0.5)
        assert data.uns["histocast"]["inputs"]["bundle"] == BUNDLE

    def test_metadata_that_are_numbers_are_numbers_and_names_are_names(self, gathered):
        obs = matrix_of(gathered / "cohort").obs
        assert obs["meta.age"].dtype == float
        assert str(obs["meta.site"].dtype) == "category"
        assert obs["meta.block"].iloc[7] == "007"

    def test_slides_that_are_alike_are_neighbours_and_near_on_the_map(self, gathered):
        data = matrix_of(gathered / "cohort")
        centred = data.X - data.X.mean(axis=0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        np.testing.assert_allclose(np.abs(data.obsm["X_pca"][:, :3]), np.abs(centred @ axes[:3].T), atol=1e-3)
        assert data.obsm["X_umap"].shape == (61, 2)
        assert np.isfinite(data.obsm["X_umap"]).all()
        places = data.obsm["X_pca"]
        nearest = np.argsort(np.linalg.norm(places[:, None] - places[None], axis=2), axis=1)[:, 1:15]
        joined = data.obsp["distances"].toarray() > 0
        assert [set(np.flatnonzero(row)) for row in joined] == [set(row) for row in nearest]
        assert data.uns["neighbors"]["params"]["n_neighbors"] == 15

    def test_signatures_are_scored_on_every_slide_and_refused_ones_are_null(self, gathered):
        table = pl.read_parquet(gathered / "cohort" / "signatures.parquet")
        data = matrix_of(gathered / "cohort")
        z = (data.X - data.X.mean(axis=0)) / data.X.std(axis=0)
        up = table.filter(pl.col("signature") == "UP")
        assert up["sample"].to_list() == data.obs_names.tolist()
        np.testing.assert_allclose(up["score"], z[:, 1:4].mean(axis=1), atol=1e-4)
        refused = table.filter(pl.col("signature") == "MISSING")
        assert refused["score"].null_count() == 61
        assert set(refused.select("genes", "predicted").rows()) == {(3, 1)}
        open_parquet(gathered / "cohort" / "signatures.parquet", SIGNATURES)

    def test_nothing_names_a_path(self, gathered):
        for path in (gathered / "cohort").iterdir():
            assert str(gathered).encode() not in path.read_bytes()


class TestMerging:
    def test_slides_are_added_to_a_cohort_without_reading_its_slides_again(self, gather, tmp_path):
        first, second = SLIDES_MADE[:40], SLIDES_MADE[40:]
        for name, part in (("one", first), ("two", second)):
            write_results(tmp_path / name, part, seed=len(part))
        at_once = gather(tmp_path / "one", tmp_path / "two", outdir=tmp_path / "at_once")
        outdir = gather(tmp_path / "one")
        (tmp_path / "one").rename(tmp_path / "gone")
        gather(outdir, tmp_path / "two", outdir=outdir)
        tables = [pl.read_parquet(folder / "slides.parquet") for folder in (at_once, outdir)]
        assert tables[0].equals(tables[1])
        one, two = map(matrix_of, (at_once, outdir))
        assert one.obs.equals(two.obs)
        assert one.var.equals(two.var)
        np.testing.assert_array_equal(one.X, two.X)
        for name in one.layers:
            np.testing.assert_array_equal(one.layers[name], two.layers[name])
        np.testing.assert_array_equal(one.obsm["mean_embedding"], two.obsm["mean_embedding"])

    SAME, OTHER = SLIDES_MADE[0], replace(SLIDES_MADE[0], digest="sampled-sha256:other")
    FAILED = replace(SLIDES_MADE[0], failed="encode")
    REST = SLIDES_MADE[1:4]

    @pytest.mark.parametrize(
        ("twice", "outcome"),
        [
            ((SAME, SAME), "ok"),
            ((FAILED, SAME), "ok"),
            ((SAME, FAILED), "ok"),
            ((FAILED, FAILED), "failed"),
            ((SAME, OTHER), None),
            ((SAME, replace(SAME, bundle="sha256:other")), None),
            ((SAME, replace(SAME, genes_digest="sha256:genes")), None),
        ],
    )
    @pytest.mark.parametrize("is_cohort", [False, True])
    def test_a_sample_that_is_there_twice_must_be_one_slide(self, gather, tmp_path, twice, outcome, is_cohort):
        folders = [write_results(tmp_path / str(n), [made, *self.REST[n:]]) for n, made in enumerate(twice)]
        if is_cohort:
            folders[0] = gather(folders[0], outdir=tmp_path / "earlier")
        if outcome is None:
            with pytest.raises(DataError, match="sample 'S0' is there 2 times"):
                gather(*folders)
            return
        table = pl.read_parquet(gather(*folders) / "slides.parquet")
        assert sorted(table["sample"]) == ["S0", "S1", "S2", "S3"]
        assert table.filter(pl.col("sample") == "S0")["outcome"].to_list() == [outcome]

    @pytest.mark.usefixtures("s3_endpoint")
    def test_results_may_lie_in_s3(self, gather, tmp_path):
        write_results(tmp_path / "results", SLIDES_MADE[:30])
        store = boto3.client("s3")
        store.create_bucket(Bucket="lab")
        expected = gather(tmp_path / "results")
        for folder, prefix in ((tmp_path / "results", "runs/1"), (expected, "cohorts/1")):
            for path in folder.rglob("*.*"):
                store.upload_file(str(path), "lab", f"{prefix}/{path.relative_to(folder)}")
        for uri in ("s3://lab/runs/1", "s3://lab/cohorts/1/"):
            outdir = gather(uri, outdir=tmp_path / uri[-3:].strip("/"))
            np.testing.assert_array_equal(matrix_of(outdir).X, matrix_of(expected).X)
        leftover = [path for path in tmp_path.iterdir() if path.name.startswith("object-")]
        assert leftover == []
        with pytest.raises(MissingInputError, match=r"neither summary\.parquet nor"):
            gather("s3://lab/none")

    def test_a_slide_that_was_predicted_alone_needs_no_run(self, gather, tmp_path):
        made = write_results(tmp_path / "results", SLIDES_MADE[:3], summary=False)
        table = pl.read_parquet(gather(made) / "slides.parquet")
        assert table.select("sample", "outcome").rows() == [("S0", "ok"), ("S1", "ok"), ("S2", "ok")]


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "error", "told"),
        [
            ({"bundle": "sha256:other"}, DataError, "predicted with bundle sha256:other"),
            ({"genes_digest": "sha256:panel"}, DataError, "predicted with genes sha256:panel"),
            ({"mean": np.ones(7)}, DataError, "other genes"),
            ({"facts": {"comparable_between_slides": False}}, ConfigError, "sees each slide relative to itself"),
        ],
    )
    @pytest.mark.parametrize("place", [0, 2])
    def test_what_is_not_comparable_is_refused(self, gather, tmp_path, change, error, told, place):
        slides = SLIDES_MADE[:3]
        slides[place] = replace(slides[place], **change)
        write_results(tmp_path / "results", slides)
        with pytest.raises(error) as caught:
            gather(tmp_path / "results")
        assert told.split()[0] in caught.value.message
        assert place == 0 or told in caught.value.message
        assert not (tmp_path / "cohort" / "cohort.h5ad").exists()

    def test_a_cohort_of_one_bundle_takes_no_slide_of_another(self, gather, tmp_path):
        write_results(tmp_path / "one", SLIDES_MADE[:3])
        write_results(tmp_path / "two", [replace(SLIDES_MADE[5], bundle="sha256:other")])
        outdir = gather(tmp_path / "one")
        before = (outdir / "cohort.h5ad").read_bytes()
        with pytest.raises(DataError, match="one cohort for each bundle"):
            gather(outdir, tmp_path / "two", outdir=outdir)
        assert (outdir / "cohort.h5ad").read_bytes() == before

    def test_nothing_to_gather(self, gather, tmp_path):
        with pytest.raises(MissingInputError, match="cannot be read"):
            gather(tmp_path / "none")
        (tmp_path / "empty").mkdir()
        with pytest.raises(MissingInputError, match=r"neither summary\.parquet nor"):
            gather(tmp_path / "empty")
        write_results(tmp_path / "results", [SLIDES_MADE[-2]])
        with pytest.raises(DataError, match="no slide with a prediction"):
            gather(tmp_path / "results")

    @pytest.mark.parametrize(
        "name",
        ["results/S1/S1.slide.parquet", "results/summary.parquet", "earlier/slides.parquet", "earlier/cohort.h5ad"],
    )
    @pytest.mark.parametrize("damage", ["cut", "another file", "torn within"])
    def test_a_damaged_file_is_named(self, gather, tmp_path, name, damage):
        write_results(tmp_path / "results", SLIDES_MADE[:3])
        gather(tmp_path / "results", outdir=tmp_path / "earlier")
        path = tmp_path / name
        whole = path.read_bytes()
        torn = bytearray(whole)
        torn[100 : len(whole) // 2] = bytes(len(whole) // 2 - 100)
        path.write_bytes({"cut": whole[: len(whole) // 2], "another file": b"PAR1" * 9, "torn within": torn}[damage])
        with pytest.raises(StaleInputError) as caught:
            gather(path.parents[len(Path(name).parts) - 2])
        assert caught.value.exit_code == 65

    def test_a_summary_under_the_name_of_another_sample_is_refused(self, gather, tmp_path):
        folder = write_results(tmp_path / "results", SLIDES_MADE[:3])
        (folder / "S1" / "S1.slide.parquet").replace(folder / "S2" / "S2.slide.parquet")
        with pytest.raises(StaleInputError, match="the summary of sample 'S1'"):
            gather(folder)

    def test_a_batch_that_no_samplesheet_has(self, gather, tmp_path):
        write_results(tmp_path / "results", SLIDES_MADE[:3])
        with pytest.raises(UsageError, match="site, age, block"):
            gather(tmp_path / "results", batch="hospital")

    def test_a_full_disk_leaves_what_was_there(self, gather, tmp_path):
        write_results(tmp_path / "results", make_slides(200, genes=300))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        try:
            with pytest.raises(OutputError):
                gather(tmp_path / "results")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list((tmp_path / "cohort").iterdir()) == []


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_few_slides_have_tables_and_no_map(tmp_path, count):
    write_results(tmp_path / "results", SLIDES_MADE[:count])
    data = matrix_of(gather_cohort([str(tmp_path / "results")], outdir=tmp_path, scratch=tmp_path) and tmp_path)
    assert data.n_obs == count
    assert ("X_pca" in data.obsm) == (count >= 3)
    assert "X_umap" not in data.obsm
    assert pl.read_parquet(tmp_path / "slides.parquet")["outlier"].null_count() == count


def test_slides_that_are_all_unlike_the_training_tissue_are_accounted_for(tmp_path):
    write_results(tmp_path / "results", [replace(SLIDES_MADE[-3], sample=f"S{number}") for number in range(3)])
    (tmp_path / "sets.gmt").write_text(SETS)
    Cohort(results=(tmp_path / "results",), outdir=tmp_path / "cohort", signatures=tmp_path / "sets.gmt").run()
    assert matrix_of(tmp_path / "cohort").shape == (0, 40)
    assert pl.read_parquet(tmp_path / "cohort" / "slides.parquet")["in_matrix"].to_list() == [False] * 3
    assert pl.read_parquet(tmp_path / "cohort" / "signatures.parquet").is_empty()
    assert "3 slides" in (tmp_path / "cohort" / "cohort.html").read_text()
    # Others are added to it as to any other cohort.
    write_results(tmp_path / "more", make_slides(4, prefix="T"))
    Cohort(results=(tmp_path / "cohort", tmp_path / "more"), outdir=tmp_path / "cohort").run()
    data = matrix_of(tmp_path / "cohort")
    assert data.shape == (4, 40)
    assert data.obsm["mean_embedding"].shape == (4, 8)
