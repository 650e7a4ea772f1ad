"""The folders of the demo, and the score of predictions made for it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from histocast.artifacts import EXPRESSION, write_table
from histocast.errors import DataError, MissingInputError, OutputError
from histocast.records import Provenance
from histocast_demo.archive import make_training_set
from histocast_demo.expression import list_genes, truth_at
from histocast_demo.score import describe_score, score_demo
from histocast_demo.terrain import SlideRecipe, read_latents


def write_predictions(results: Path, sample: str, points: np.ndarray, values: np.ndarray, names: list[str]) -> None:
    columns = {
        **{column.name: pa.nulls(len(points), column.dtype) for column in EXPRESSION.columns},
        "sample": pa.array([sample] * len(points)),
        "tile_id": pa.array(np.arange(len(points)), pa.int32()),
        "x_level0_px": pa.array(points[:, 0]),
        "y_level0_px": pa.array(points[:, 1]),
        **{name: pa.array(values[:, index].astype(np.float32)) for index, name in enumerate(names)},
    }
    table = pa.table(columns)
    provenance = Provenance(artifact="expression", schema_version=EXPRESSION.version, sample=sample)
    write_table(results / sample / f"{sample}.parquet", table, provenance)


def mark_unseen(path: Path, nearest: dict[str, str]) -> None:
    """Say in the metadata of gene columns that genes were never measured, and which is described alike."""
    table = pq.read_table(path)
    fields = [
        field.with_metadata({"evidence": "similar_text", "nearest_gene": nearest[field.name]})
        if field.name in nearest
        else field
        for field in table.schema
    ]
    pq.write_table(table.cast(pa.schema(fields, table.schema.metadata)), path)


def predict_with(archive: Path, results: Path, change) -> None:
    for sample in ("S1", "S2"):
        latents, seed = read_latents(archive / "truth" / f"{sample}.npz")
        points = np.random.default_rng(2).uniform(500, 1300, (60, 2))
        truth = change(truth_at(latents, points, seed=seed))
        write_predictions(results, sample, points, truth, list(list_genes().gene_id))


def test_the_truth_scores_one(archive: Path, tmp_path: Path):
    predict_with(archive, tmp_path, lambda truth: 0.5 * truth + 1)
    score = score_demo(archive, tmp_path)
    assert score.groupby("sample").spots.unique().to_dict() == {"S1": 60, "S2": 60}
    assert score.pearson.to_numpy() == pytest.approx(np.ones(2 * len(list_genes())), abs=1e-5)
    text = "\n".join(describe_score(score))
    assert "ERBB2" in text
    assert f"mean of {len(list_genes())} genes: 1.00" in text


def test_shuffled_predictions_score_nothing(archive: Path, tmp_path: Path):
    predict_with(archive, tmp_path, lambda truth: truth[np.random.default_rng(0).permutation(len(truth))])
    assert abs(score_demo(archive, tmp_path).pearson.mean()) < 0.15


def test_genes_that_were_never_measured_are_scored_apart(archive: Path, tmp_path: Path):
    predict_with(archive, tmp_path, lambda truth: truth)
    ids = list_genes().gene_id
    nearest = {ids["COL5A1"]: "COL3A1", ids["S100A8"]: "COL3A1"}
    for sample in ("S1", "S2"):
        mark_unseen(tmp_path / sample / f"{sample}.parquet", nearest)
    score = score_demo(archive, tmp_path)
    unseen = score[score.evidence != "trained"]
    assert set(unseen.gene) == {"COL5A1", "S100A8"}
    assert unseen.pearson.to_numpy() == pytest.approx(np.ones(4), abs=1e-5)
    nearest = unseen.groupby("gene").nearest.mean()
    assert nearest["COL5A1"] > 0.5 > abs(nearest["S100A8"])
    assert score[score.evidence == "trained"].nearest.isna().all()
    text = "\n".join(describe_score(score))
    assert f"mean of {len(list_genes()) - 2} genes: 1.00" in text
    assert "mean of 2 genes: 1.00" in text
    assert "mean by evidence: similar text 1.00" in text


def test_unreadable_spots_are_left_out(archive: Path, tmp_path: Path):
    def lose_some(truth: np.ndarray) -> np.ndarray:
        truth = truth.copy()
        truth[:10] = np.nan
        return truth

    predict_with(archive, tmp_path, lose_some)
    assert set(score_demo(archive, tmp_path).spots) == {50}


def test_a_slide_without_spots_has_no_score(archive: Path, tmp_path: Path):
    predict_with(archive, tmp_path, lambda truth: truth)
    names = list(list_genes().gene_id)
    write_predictions(tmp_path, "S2", np.zeros((0, 2)), np.zeros((0, len(names))), names)
    score = score_demo(archive, tmp_path)
    assert score.groupby("sample").spots.unique().to_dict() == {"S1": 60, "S2": 0}
    assert score[score["sample"] == "S2"].pearson.isna().all()
    assert "(spots: S1 60, S2 0)" in next(describe_score(score))


def test_missing_results_and_foreign_genes_are_refused(archive: Path, tmp_path: Path):
    with pytest.raises(MissingInputError, match="S1"):
        score_demo(archive, tmp_path)
    with pytest.raises(MissingInputError, match="histocast_demo"):
        score_demo(tmp_path, tmp_path)
    points = np.ones((3, 2))
    write_predictions(tmp_path, "S1", points, points, ["ENSG00000000001", "ENSG00000000002"])
    with pytest.raises(DataError, match="none of the demo's genes"):
        score_demo(archive, tmp_path)


def test_an_output_that_cannot_be_written_is_said(tmp_path: Path, recipes: tuple[SlideRecipe, ...]):
    (tmp_path / "slides").write_text("a file where a folder belongs")
    with pytest.raises(OutputError):
        make_training_set(tmp_path, recipes=recipes[:1])


def test_a_training_set_fits_its_own_sheet(tmp_path: Path, recipes: tuple[SlideRecipe, ...]):
    import anndata

    sheet = make_training_set(tmp_path, recipes=recipes)
    with sheet.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["sample"] for row in rows] == ["S1", "S2"]
    for row in rows:
        assert (tmp_path / row["slide"]).is_file()
        with (tmp_path / row["spots"]).open(newline="") as stream:
            spots = list(csv.DictReader(stream))
        counts = anndata.read_h5ad(tmp_path / row["counts"])
        assert list(counts.obs_names) == [spot["spot"] for spot in spots]
        assert list(counts.var_names) == list(list_genes().gene_id)
        assert list(counts.var["gene_symbol"]) == list(list_genes().index)
        assert len(spots) > 20
        values = counts.X.toarray()
        assert (values == np.round(values)).all()
        assert values.sum() > 0
