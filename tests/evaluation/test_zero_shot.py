"""Genes left out of training, predicted from their descriptions and scored beside what knows less."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from histocast.artifacts import GENES, read_table
from histocast.bundle import read_bundle
from histocast.errors import UsageError
from histocast.evaluation.evaluate_models import evaluate, predict_section
from histocast.evaluation.summary import Evaluation
from histocast.evaluation.tables import render_markdown
from histocast.evaluation.zero_shot import (
    NEAREST_GENE,
    OTHER_TEXT,
    OWN_TEXT,
    PANEL_MEAN,
    SHUFFLED_TEXT,
    TEXT_KERNEL,
    UNSEEN_SUBJECTS,
    average_by_text,
    shuffled_text_pearson,
)
from histocast.inference import open_predictor
from histocast.training.read_recipe import hold_out_genes
from histocast.training.train_fold import train
from histocast.training.training_set import open_training_set
from made_sections import OTHERS, PANEL, gene_weights, made_recipe

HELD = PANEL[-12:]
NOWHERE = "NEVER1"


@pytest.fixture(scope="module")
def speaking_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that say what a gene follows: what a description would be at its best."""
    names = [*PANEL, *OTHERS, NOWHERE]
    values = np.concatenate([gene_weights().T, np.ones((1, len(gene_weights())))]).astype(np.float32)
    columns = {
        "gene_id": pa.array(names),
        "gene_symbol": pa.array(names),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]),
    }
    path = tmp_path_factory.mktemp("text") / "genes.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("held") / "unseen.txt"
    path.write_text("\n".join((*HELD, NOWHERE)) + "\n")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, made_set: Path, speaking_text: Path, held_out: Path) -> Path:
    """DKAN that was not shown some genes of the panel, nor patient B."""
    options = {"model": {"trunk": {"dim": 16}}, "training": {"epochs": 60, "members": 2, "average": 0.5}}
    recipe = hold_out_genes(made_recipe(method="dkan", options=options), held_out)
    folder = tmp_path_factory.mktemp("unseen") / "model"
    train(made_set, recipe=recipe, fold="B", outdir=folder, gene_text=speaking_text)
    return folder


@pytest.fixture(scope="module")
def scored(model: Path, made_set: Path) -> tuple[Path, Evaluation]:
    folder = model.parent / "evaluation"
    return folder, evaluate(made_set, models=[model], outdir=folder)


def test_genes_held_out_leave_the_panel(model: Path) -> None:
    record = json.loads((model / "train.json").read_text())["recipe"]
    genes, _ = read_table(model / "genes.parquet", GENES)
    seen = genes.filter(genes.column("seen_in_training")).column("gene_symbol").to_pylist()
    assert seen == [gene for gene in PANEL if gene not in HELD] == record["panel"]
    assert genes.slice(len(seen)).column("gene_symbol").to_pylist() == [*HELD, NOWHERE]


def test_unseen_genes_stand_apart_beside_what_knows_less(scored: tuple[Path, Evaluation]) -> None:
    folder, evaluation = scored
    assert {summary.subject for summary in evaluation.unseen} == set(UNSEEN_SUBJECTS)
    assert not {summary.subject for summary in evaluation.summaries} & set(UNSEEN_SUBJECTS)
    # One of those left out is in no counts.
    assert evaluation.unseen_genes == len(HELD)
    pearson = {summary.subject: summary.figure("pearson").mean for summary in evaluation.unseen}
    assert pearson[OWN_TEXT] > pearson[OTHER_TEXT] + 0.2
    assert pearson[OWN_TEXT] > pearson[PANEL_MEAN]
    assert pearson[NEAREST_GENE] > pearson[OTHER_TEXT]
    assert pearson[TEXT_KERNEL] > pearson[OTHER_TEXT]
    table = (folder / "evaluation.md").read_text().split("### Genes never measured")[1]
    assert f"Pearson of {len(HELD)} genes that took no part in training" in table
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    named = ("own text", "nearest seen gene", "text kernel", "panel mean", "shuffled text")
    assert rows == ["| pearson", *(f"| {name}" for name in named)]
    page = (folder / "evaluation.html").read_text().partition("Genes never measured")[2]
    assert f"{pearson[OWN_TEXT]:.3f} [" in page or f">{pearson[OWN_TEXT]:.3f}<" in page
    genes = pq.read_table(folder / "genes.parquet").to_pylist()
    assert {row["gene_symbol"] for row in genes if row["subject"] == OWN_TEXT} == set(HELD)


def test_another_genes_text_costs_a_panel_gene_its_pattern(scored: tuple[Path, Evaluation]) -> None:
    evaluation = scored[1]
    pearson = {summary.subject: summary.figure("pearson").mean for summary in evaluation.summaries}
    assert pearson[SHUFFLED_TEXT] < pearson["model"] - 0.2


def test_a_gene_given_anothers_text_is_predicted_as_that_gene(model: Path, made_set: Path) -> None:
    """What lets texts be dealt at random without predicting once more."""
    bundle = read_bundle(model)
    genes, _ = read_table(model / "genes.parquet", GENES)
    order = np.random.default_rng(0).permutation(genes.num_rows)
    place = genes.schema.get_field_index("embedding")
    dealt = genes.set_column(place, "embedding", genes.column("embedding").take(pa.array(order)))
    with (
        open_training_set(made_set, made_recipe()) as training,
        open_predictor(model, bundle, names=("fusion",), threads=1) as predictor,
    ):
        own, other = (
            predict_section(training, training.sections[0], bundle=bundle, genes=asked, predictor=predictor)[0]
            for asked in (genes, dealt)
        )
    np.testing.assert_allclose(other, own[:, order], atol=1e-4)
    assert np.abs(other - own).max() > 0.1


def test_the_text_kernel_averages_maps_of_genes_described_alike_in_their_own_units() -> None:
    random = np.random.default_rng(0)
    patterns = random.normal(size=(2, 300))
    # Three genes of one pattern and three of another, of which one varies a hundred times more than all others.
    known = np.repeat(np.eye(2), 3, axis=0) + 0.01 * random.normal(size=(6, 2))
    scale = np.array([1.0, 2.0, 1.0, 100.0, 1.0, 1.0])
    seen = patterns[[0, 0, 0, 1, 1, 1]].T * scale + 5.0
    found = average_by_text(seen, np.array([[1.0, 0.0], [1.0, 1.0]]), known)
    assert np.corrcoef(found[:, 0], patterns[0])[0, 1] > 0.999
    assert found.mean(axis=0) == pytest.approx(5.0, abs=0.5 * scale.max() / np.sqrt(300))
    halves = [np.corrcoef(found[:, 1], pattern)[0, 1] for pattern in patterns]
    assert halves == pytest.approx([np.sqrt(0.5)] * 2, abs=0.1)


def test_shuffled_texts_keep_no_gene_in_its_place() -> None:
    values = np.random.default_rng(3).normal(size=(400, 5))
    assert abs(shuffled_text_pearson(values, values, seed=0)) < 0.1
    assert np.isnan(shuffled_text_pearson(values[:, :1], values[:, :1], seed=0))


def test_a_method_that_knows_its_panel_has_no_such_table(made_set: Path, held_out: Path, tmp_path: Path) -> None:
    recipe = hold_out_genes(made_recipe(), held_out)
    train(made_set, recipe=recipe, fold="B", outdir=tmp_path / "m")
    evaluation = evaluate(made_set, models=[tmp_path / "m"], outdir=tmp_path)
    assert evaluation.unseen == ()
    assert SHUFFLED_TEXT not in {summary.subject for summary in evaluation.summaries}
    assert "never measured" not in render_markdown(evaluation)


def test_something_must_be_left_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("\n".join(PANEL))
    with pytest.raises(UsageError, match="every gene of the panel"):
        hold_out_genes(made_recipe(), tmp_path / "all.txt")
