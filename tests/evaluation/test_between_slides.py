"""Figures between slides tell a model that sees slides as they are from one that sees each relative to itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from histocast.artifacts import GENES, read_table
from histocast.bundle import read_bundle
from histocast.evaluation.between_slides import FEW_SECTIONS, crop_section, crop_slope, score_slide_means
from histocast.evaluation.controls import TRAINING_MEAN
from histocast.evaluation.evaluate_models import predict_section
from histocast.evaluation.scores import GENE_SCHEMA
from histocast.evaluation.summary import MODEL, Evaluation
from histocast.inference import open_predictor
from histocast.sections.section import Section
from histocast.training.read_recipe import read_recipe, shipped_recipes
from histocast.training.training_set import open_training_set
from made_sections import made_recipe


@pytest.mark.parametrize("within_slide", [False, True])
def test_windows_scored_as_slides_keep_their_contrast_unless_each_is_seen_relative_to_itself(
    within_slide: bool, made_set: Path, made_folds: tuple[Path, Evaluation]
) -> None:
    folder = made_folds[0] / "models" / "ridge-strict-A"
    bundle = read_bundle(folder)
    fusion = bundle.fusion.model_copy(update={"standardise_within_slide": within_slide})
    bundle = bundle.model_copy(update={"fusion": fusion})
    genes, _ = read_table(folder / "genes.parquet", GENES)
    with (
        open_training_set(made_set, made_recipe()) as training,
        open_predictor(folder, bundle, names=("fusion",), threads=1) as predictor,
    ):

        def predict(section: Section) -> np.ndarray:
            return predict_section(training, section, bundle=bundle, genes=genes, predictor=predictor)[0]

        section = training.sections[0]
        slope = crop_slope(section, predict(section), predict=predict)
        window = crop_section(section, np.flatnonzero(section.store.array_col < 6))
    assert len(window) == 9 * 6 - 1, "one tile of these could not be read"
    kept = section.store.array_col[section.measured] < 6
    np.testing.assert_array_equal(window.store.tile_id[window.measured], section.store.tile_id[section.measured][kept])
    if within_slide:
        assert slope < 0.6
    else:
        assert slope > 0.9


def test_every_evaluation_reports_both_kinds_of_figure(made_folds: tuple[Path, Evaluation]) -> None:
    outdir, evaluation = made_folds
    for protocol in ("strict", "paper"):
        summary = evaluation.summary(protocol)
        assert summary.figure("crop_slope").mean > 0.9
        assert summary.figure("slide_means_pearson").mean > 0.9
        assert 0.7 < summary.figure("slide_means_slope").mean < 1.3
    assert evaluation.summary("residual").figure("crop_slope").mean > 0.9
    assert evaluation.summary("residual").figure("slide_means_pearson") is None
    for page in ("evaluation.md", "evaluation.html"):
        text = (outdir / page).read_text()
        assert text.count("Slide means: of 4 held-out sections, from the training mean, genes taken together") == 2
        assert "Slide means: none, values are relative to their section" in text


def gene_rows(truth: np.ndarray, predicted: np.ndarray, usual: np.ndarray) -> pl.DataFrame:
    """Rows of a model and of the training mean, from means [section, gene]."""
    rows = []
    for subject, values in {MODEL: predicted, TRAINING_MEAN: usual}.items():
        for sample, gene in np.ndindex(truth.shape):
            key = ("ridge", "strict", subject, "f", f"S{sample}", "P", f"G{gene}", f"G{gene}")
            rows.append((*key, *[np.nan] * (len(GENE_SCHEMA) - 10), truth[sample, gene], values[sample, gene]))
    return pl.DataFrame(rows, schema=GENE_SCHEMA, orient="row")


@pytest.mark.parametrize("sections", [4, FEW_SECTIONS])
def test_slide_means_are_correlated_as_deviations_from_the_training_mean(sections: int) -> None:
    random = np.random.default_rng(sections)
    usual = random.normal(size=(sections, 5))
    moved = random.normal(size=(sections, 5))
    predicted = 0.5 * moved + 0.2 * random.normal(size=moved.shape)
    found = score_slide_means(gene_rows(usual + moved, usual + predicted, usual)).row(0, named=True)
    if sections < FEW_SECTIONS:
        expected = (moved * predicted).sum() / np.sqrt((moved**2).sum() * (predicted**2).sum())
    else:
        expected = np.mean([np.corrcoef(moved[:, gene], predicted[:, gene])[0, 1] for gene in range(5)])
    assert found["slide_means_pearson"] == pytest.approx(expected)
    assert found["slide_means_slope"] == pytest.approx((moved * predicted).sum() / (predicted**2).sum())
    assert found["subject"] == MODEL


def test_no_shipped_recipe_and_no_shipped_bundle_sees_a_slide_relative_to_itself(root: Path, tmp_path: Path) -> None:
    (tmp_path / "panel.txt").write_text("KRT8\n")
    for name in (*shipped_recipes(), root / "assets" / "demo-recipe.json"):
        assert not read_recipe(name, panel=tmp_path / "panel.txt").standardise_within_slide, name
    for path in sorted(root.glob("assets/*/bundle.json")):
        bundle = read_bundle(path.parent)
        figures = {metric.name: metric.value for metric in bundle.metrics if metric.subject == MODEL}
        assert bundle.comparable_between_slides, path
        assert figures["crop_slope"] >= 0.9, path
