"""A gene that a section did not measure has no label there, and changes nothing that is learned or scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from histocast.artifacts import GENES, read_table
from histocast.bundle import Bundle, read_bundle
from histocast.errors import DataError
from histocast.evaluation.evaluate_models import evaluate, predict_section
from histocast.inference import open_predictor
from histocast.networks.measured import heldout_sd, over_measured
from histocast.networks.ridge import RidgeOptions, fit_ridge
from histocast.networks.ridge_solution import Decomposition
from histocast.sections.protocols import PROTOCOLS
from histocast.sections.section import prepare_section
from histocast.training.calibration import conformal_half_widths
from histocast.training.train_fold import train
from histocast.training.training_set import open_training_set
from made_sections import made_counts, made_recipe, spot_names, write_counts, write_stages

# Ensembl id, approved and old symbol, of as many genes as a panel here has.
NAMES = (
    ("ENSG00000163041", "H3-3A", "H3F3A"),
    ("ENSG00000168385", "SEPTIN2", "SEPT2"),
    ("ENSG00000145416", "MARCHF1", "MARCH1"),
    ("ENSG00000133794", "BMAL1", "ARNTL"),
    ("ENSG00000172053", "QARS1", "QARS"),
)
PANEL = tuple(symbol for _, symbol, _ in NAMES)
OTHERS = ("KRT8", "KRT18", "VIM")
MASKED = 2
"""Place in the panel of the gene that some sections lack."""


def make_set(
    folder: Path, bundle: Bundle, *, spelled: dict[str, int], lacking: tuple[str, ...] = (), patients: str = "PQRS"
) -> Path:
    """Sections by sample, each with its genes in one spelling of `NAMES`, some of them without one gene."""
    for number, (sample, spelling) in enumerate(spelled.items()):
        stages = folder / "stages" / sample
        counts = made_counts(write_stages(stages, sample=sample, seed=number), 50 + number)[
            :, : len(PANEL) + len(OTHERS)
        ]
        genes = [*(names[spelling] for names in NAMES), *OTHERS]
        kept = [place for place in range(len(genes)) if not (sample in lacking and place == MASKED)]
        table = write_counts(
            stages / "c.tsv", counts[:, kept], spots=spot_names(), genes=tuple(genes[place] for place in kept)
        )
        prepare_section(stages, patient=patients[number], counts=table, bundle=bundle, outdir=folder / "set")
    return folder / "set"


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory, encoder_bundle: Bundle) -> Path:
    """Four sections of as many patients, the first of which did not measure one gene."""
    spelled = {"S1": 1, "S2": 1, "S3": 1, "S4": 1}
    return make_set(tmp_path_factory.mktemp("lacking"), encoder_bundle, spelled=spelled, lacking=("S1",))


def small_recipe(**changes: object) -> object:
    return made_recipe(panel=PANEL, **changes)


def test_disjoint_spellings_train_to_the_same_model(encoder_bundle: Bundle, tmp_path: Path) -> None:
    for name, spelled in {"equal": {"S1": 1, "S2": 1}, "disjoint": {"S1": 0, "S2": 2}}.items():
        folder = make_set(tmp_path / name, encoder_bundle, spelled=spelled)
        train(folder, recipe=small_recipe(), outdir=tmp_path / name / "model")
    for file in ("fusion.onnx", "genes.parquet"):
        equal, disjoint = (tmp_path / name / "model" / file for name in ("equal", "disjoint"))
        assert equal.read_bytes() == disjoint.read_bytes(), file


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_masked_gene_has_no_zero_labels(protocol: str, lacking: Path) -> None:
    with open_training_set(lacking, small_recipe()) as training:
        assert training.panel.gene_ids == tuple(gene for gene, _, _ in NAMES)
        assert training.panel.measured("S1").tolist() == [place != MASKED for place in range(len(PANEL))]
        masked, whole = (training.labels(section, protocol) for section in training.sections[:2])
    assert np.isnan(masked[:, MASKED]).all()
    assert np.isfinite(np.delete(masked, MASKED, axis=1)).all()
    assert np.isfinite(whole).all()
    with open_training_set(lacking, small_recipe(missing_genes="zero")) as training:
        assert (training.labels(training.sections[0], protocol)[:, MASKED] == 0).all()
    with (
        pytest.raises(DataError, match=r"1 panel genes were not measured: MARCHF1"),
        open_training_set(lacking, small_recipe(missing_genes="refuse")),
    ):
        pass


def test_a_fold_without_a_gene_on_the_training_side_is_refused(encoder_bundle: Bundle, tmp_path: Path) -> None:
    folder = make_set(tmp_path, encoder_bundle, spelled={"S1": 1, "S2": 1, "S3": 1}, lacking=("S1", "S2"))
    with pytest.raises(DataError, match=r"(?s)fold R.*measured in no section that is trained on: MARCHF1"):
        train(folder, recipe=small_recipe(), fold="R", outdir=tmp_path / "m")


METHODS = {
    "ridge": {"alphas": [0.01]},
    "stnet": {"model": {}},
    "bleep": {"model": {"dim": 8, "retrieved": 20}},
    "domainst": {"model": {"trunk": {"dim": 16}, "gene_text": False}},
    "dkan": {"model": {"trunk": {"dim": 16}, "gene_text": False}},
    "alignst": {"model": {"dim": 16, "gene_text": False}},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_a_masked_gene_from_the_sections_that_measured_it(
    method: str, lacking: Path, tmp_path: Path
) -> None:
    options = METHODS[method] if method == "ridge" else METHODS[method] | {"training": {"epochs": 3, "members": 2}}
    recipe = small_recipe(method=method, options=options, folds="section")
    record = train(lacking, recipe=recipe, fold="S4", outdir=tmp_path / "m")
    assert np.isfinite(record.heldout_pearson)
    assert record.onnx_difference < 1e-4
    bundle = read_bundle(tmp_path / "m")
    genes, _ = read_table(tmp_path / "m" / "genes.parquet", GENES)
    with open_training_set(lacking, recipe) as training:
        whole = np.concatenate([training.labels(section, "strict") for section in training.sections[1:3]])
        with open_predictor(tmp_path / "m", bundle, names=("fusion",), threads=1) as predictor:
            expression, sd = predict_section(
                training, training.sections[0], bundle=bundle, genes=genes, predictor=predictor
            )
    assert np.isfinite(expression).all()
    assert (sd > 0).all()
    # Zeros of the section that lacks it would pull its mean a third of the way down.
    assert genes["mean"][MASKED].as_py() == pytest.approx(whole[:, MASKED].mean(), rel=1e-5)
    assert expression[:, MASKED].mean() == pytest.approx(whole[:, MASKED].mean(), rel=0.12)
    assert all(0 < width < 10 for width in genes["interval_90"].to_pylist())


def test_nothing_is_scored_of_a_masked_gene(lacking: Path, tmp_path: Path) -> None:
    recipe = small_recipe(folds="section", controls=("ridge", "kernel ridge", "extra trees"))
    for fold in ("S1", "S2"):
        train(lacking, recipe=recipe, fold=fold, outdir=tmp_path / fold)
    evaluation = evaluate(lacking, models=[tmp_path / "S1", tmp_path / "S2"], outdir=tmp_path)
    rows = pq.read_table(tmp_path / "genes.parquet").to_pandas()
    scores = ["pearson", "spearman", "mse", "mae", "rvd", "ssim", "morans_i_truth", "morans_i_predicted"]
    masked = (rows["sample"] == "S1") & (rows["gene_symbol"] == PANEL[MASKED])
    assert set(rows[masked].subject) == {
        *("model", "training mean", "one depth map", "mean of all genes", "stain area"),
        *("ridge", "kernel ridge", "extra trees", "average"),
    }
    assert rows[masked][scores].isna().all(axis=None)
    assert not rows[~masked & (rows.subject == "model")][scores].isna().any(axis=None)
    for level in (80, 90):
        figure = evaluation.summary("strict").figure(f"coverage_{level}")
        assert abs(100 * figure.by_sample["S1"] - level) < 15
    first = evaluation.measured[0]
    assert (first.sample, first.found, first.absent, first.spots) == ("S1", 4, ("MARCHF1",), 99)
    for page in ("evaluation.md", "evaluation.html"):
        text = (tmp_path / page).read_text()
        assert "1: MARCHF1" in text
        assert "HGNC table of 2026" in text


def test_ridge_on_some_spots_is_ridge_on_these_alone() -> None:
    random = np.random.default_rng(0)
    design = random.normal(size=(80, 6))
    labels = design @ random.normal(size=(6, 3)) + random.normal(size=(80, 3))
    group = np.arange(80) // 20
    labels[:20, 1] = np.nan
    labels[20:, 2] = np.nan
    solution = Decomposition(design, labels).solve(1e-6)
    alone = Decomposition(design[20:], labels[20:, 1:2]).solve(1e-6)
    np.testing.assert_allclose(solution.predict(design)[:, 1], alone.predict(design)[:, 0], atol=1e-4)
    full = Decomposition(design, labels[:, :1]).solve(1e-6)
    np.testing.assert_allclose(solution.predict(design)[:, 0], full.predict(design)[:, 0], atol=1e-9)
    found = fit_ridge(design, labels, section=group, group=group, options=RidgeOptions(alphas=(0.01,)))
    # The third gene was measured in one group alone: no held-out value, and the sd of its labels.
    assert np.isnan(found.heldout_expression[:20, 2]).all()
    assert np.isfinite(found.heldout_expression[:, :2]).all()
    assert found.module.residual_sd[2].item() == pytest.approx(labels[:20, 2].std(), rel=1e-5)
    assert np.isnan(conformal_half_widths(labels, found.heldout_expression, found.heldout_sd, coverage=0.9)).tolist() == [
        False, False, True,
    ]  # fmt: skip


def test_statistics_over_measured_spots_are_those_of_numpy_where_all_were_measured() -> None:
    labels = np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32)
    for statistic in (np.mean, np.std, np.var, np.min, np.ptp):
        np.testing.assert_array_equal(over_measured(statistic, labels), statistic(labels, axis=0))
        masked = labels.copy()
        masked[:10, 3] = np.nan
        found = over_measured(statistic, masked)
        assert found[3] == pytest.approx(statistic(labels[10:, 3]), rel=1e-5)
        np.testing.assert_array_equal(np.delete(found, 3), np.delete(statistic(labels, axis=0), 3))
    np.testing.assert_array_equal(heldout_sd(labels, labels * 0), np.sqrt(np.mean(labels**2, axis=0)))
