"""The shipped demo bundle is what its script makes, and predicts what the slides hide, also of genes it never saw."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import onnxruntime
import pytest

from histocast.artifacts import EXPRESSION, GENES, read_table
from histocast.bundle import read_bundle
from histocast.fusion.panel import gene_inputs
from histocast.fusion.selected_genes import ask_genes
from histocast.inference import verify_bundle
from histocast_demo.archive import make_archive
from histocast_demo.expression import list_genes
from histocast_demo.score import score_demo
from histocast_demo.terrain import SlideRecipe, list_demo_recipes

MAX_BYTES = 4_000_000
PLACES = 30

AGREEMENT = 0.98
"""Correlation of what two trainings predict. On one machine they are equal; another processor may round otherwise, and
training makes the difference of last bits larger."""


@pytest.fixture(scope="module")
def shipped(root: Path) -> Path:
    return root / "assets" / "demo-bundle"


def run_verb(root: Path, *words: str | Path) -> None:
    command = [sys.executable, "-m", "histocast", *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root / "python")}, check=False
    )
    assert done.returncode == 0, done.stderr


def follow(root: Path, page: str, folder: Path) -> str:
    """Run the commands and then the Python of a page in a folder of its own; return what they print."""
    (folder / "assets").symlink_to(root / "assets")
    blocks = re.findall(r"```(bash|python)\n(.*?)```", (root / page).read_text(), re.DOTALL)
    commands, code = ("".join(text for kind, text in blocks if kind == wanted) for wanted in ("bash", "python"))
    environment = {
        **os.environ,
        "PATH": f"{root / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(root / "python"),
    }
    printed = ""
    for command in (["bash", "-euc", commands], [sys.executable, "-c", code]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    return printed


@pytest.fixture(scope="module")
def own_model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of the tutorial that trains a model, and what it printed."""
    folder = tmp_path_factory.mktemp("own-model")
    return folder, follow(root, "docs/tutorials/own-model.md", folder)


def test_the_tutorial_of_ones_own_model_ends_with_a_bundle(own_model: tuple[Path, str]):
    folder, printed = own_model
    assert verify_bundle(folder / "bundle").fusion.method == "ridge"
    assert "ok    bundle     demo-ridge 1" in printed
    assert (folder / "scored" / "evaluation.html").is_file()


def test_the_tutorial_of_one_slide_reads_what_it_predicted(root: Path, tmp_path: Path):
    printed = follow(root, "docs/tutorials/one-slide.md", tmp_path)
    assert "log1p_cp10k" in printed
    assert "tiles unlike the training tissue: 0" in printed
    assert (tmp_path / "results" / "A" / "A.html").is_file()


def test_the_tutorial_of_a_cohort_gathers_two_slides_and_adds_one(root: Path, tmp_path: Path):
    printed = follow(root, "docs/tutorials/cohort.md", tmp_path)
    shown = "mean of ERBB2 by slide: {'A': "
    assert shown in printed
    gathered = anndata.read_h5ad(tmp_path / "cohort" / "cohort.h5ad")
    assert list(gathered.obs_names) == ["A", "B", "A2"]
    np.testing.assert_array_equal(gathered.X[0], gathered.X[2])
    assert "LUMINAL" in (tmp_path / "cohort" / "cohort.html").read_text()


def test_the_python_of_the_front_page_prints_what_it_says(root: Path, tmp_path: Path):
    printed = follow(root, "README.md", tmp_path)
    assert f"```\n\n```\n{printed}```" in (root / "README.md").read_text()


@pytest.fixture(scope="module")
def made_again(root: Path, own_model: tuple[Path, str]) -> Path:
    """The bundle of the script's commands, but for the figures on the slide left out; the tutorial prepared its sections."""
    folder, recipe = own_model[0], root / "assets" / "demo-recipe.json"
    texts = root / "assets" / "demo-genes" / "genes.parquet"
    run_verb(root, "train", "--set", folder / "set", "--recipe", recipe, "--gene-text", texts,
             "--fold", "T1", "--outdir", folder / "again")  # fmt: skip
    run_verb(root, "export", "--model", folder / "again", "--encoders", folder / "set/encoders",
             "--outdir", folder / "shipped")  # fmt: skip
    return folder / "shipped"


def run_graph(path: Path, seed: int, fixed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of a graph for inputs that its contract allows: `PLACES` of every named axis, ``fixed`` as they are."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed)

    def fill(node: Any) -> np.ndarray:
        shape = [side if isinstance(side, int) else PLACES for side in node.shape]
        if "uint8" in node.type:
            smooth = rng.integers(0, 256, (*shape[:1], 7, 7, 3))
            return np.kron(smooth, np.ones((1, shape[1] // 7, shape[2] // 7, 1))).astype(np.uint8)
        return np.ones(shape, bool) if "bool" in node.type else rng.standard_normal(shape).astype(np.float32)

    given = {node.name: fill(node) for node in session.get_inputs()}
    return session.run(None, {**given, **{name: fixed[name] for name in given if name in fixed}})


def test_it_is_whole_and_small(shipped: Path):
    bundle = verify_bundle(shipped)
    assert bundle.geometry.tile_px == 224
    assert bundle.geometry.um_per_px == 0.5
    assert bundle.geometry.pitch_um == 112
    assert sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file()) < MAX_BYTES


def test_it_predicts_the_generators_genes_and_marks_those_it_never_saw(root: Path, shipped: Path):
    genes, _ = read_table(shipped / "genes.parquet", GENES)
    assert genes["gene_id"].to_pylist() == list(list_genes().gene_id)
    recipe = json.loads((root / "assets" / "demo-recipe.json").read_text(encoding="utf-8"))
    assert [*recipe["panel"], *recipe["unseen_genes"]] == list(list_genes().index)
    seen = genes["seen_in_training"].to_pylist()
    assert seen == [True] * len(recipe["panel"]) + [False] * len(recipe["unseen_genes"])
    levels = ask_genes(shipped, read_bundle(shipped), None).table["evidence"].to_pylist()
    assert {*levels} == {"trained", "similar_text", "dissimilar_text"}


def test_it_states_figures_beside_controls(shipped: Path):
    subjects = {metric.subject for metric in read_bundle(shipped).metrics}
    assert {"model", "training mean", "stain area", "shuffled spots"} <= subjects


def test_nothing_in_it_names_the_machine_that_made_it(shipped: Path):
    for path in shipped.rglob("*"):
        if path.is_file():
            assert not re.search(rb"/(work|tmp|home|root|usr)/\w", path.read_bytes()), path.name


def test_the_script_makes_the_same_numbers_again(shipped: Path, made_again: Path):
    old, new = read_bundle(shipped), read_bundle(made_again)
    for part in ("name", "version", "geometry", "scale", "calibration", "gene_count"):
        assert getattr(new, part) == getattr(old, part), part
    assert new.fusion.feeds == old.fusion.feeds
    assert new.ood.threshold == pytest.approx(old.ood.threshold, rel=1e-4)
    assert new.ood.mean == pytest.approx(old.ood.mean, rel=1e-4, abs=1e-5)
    assert new.gene_text == old.gene_text
    genes, again = (read_table(folder / "genes.parquet", GENES)[0] for folder in (shipped, made_again))
    columns = PLACES // 5
    fixed = {
        **gene_inputs(old.fusion, genes),
        "grid_xy": np.stack(np.divmod(np.arange(PLACES), columns)[::-1], axis=1),
    }
    for spec in (*old.encoders, old.fusion):
        assert spec.file is not None
        before, after = (run_graph(folder / spec.file, 1, fixed) for folder in (shipped, made_again))
        for one, other in zip(before, after, strict=True):
            if spec is not old.fusion:
                np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3, err_msg=spec.file)
            assert np.corrcoef(one.reshape(-1), other.reshape(-1))[0, 1] > AGREEMENT, spec.file
    for column in genes.column_names:
        if column in ("val_pcc", "interval_80", "interval_90"):
            np.testing.assert_allclose(again[column].to_numpy(), genes[column].to_numpy(), rtol=0.1, atol=0.05)
        elif genes[column].type == "float":
            np.testing.assert_allclose(again[column].to_numpy(), genes[column].to_numpy(), rtol=1e-3, atol=1e-3)
        else:
            assert again[column].equals(genes[column]), column


@pytest.fixture(scope="module")
def predicted(root: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small slide that the demo does not hold, with its predictions."""
    archive, results = tmp_path_factory.mktemp("archive"), tmp_path_factory.mktemp("results")
    recipe = list_demo_recipes(7)[0]
    small = SlideRecipe(**{**recipe.model_dump(), "width_px": 5000, "height_px": 4600})
    make_archive(archive, recipes=[small])
    slide, folder = archive / "slides/D1.tiff", results / "D1"
    bundle, outdir = ("--bundle", shipped), ("--outdir", folder)
    inputs = ("--slide-record", folder / "slide.json", "--tiles", folder / "tiles.parquet")
    run_verb(root, "tile", "--sample", "D1", "--slide", slide, *bundle, *outdir)
    run_verb(root, "encode", "--slide", slide, *inputs, *bundle, *outdir)
    run_verb(root, "predict", *inputs, "--features", folder / "features.parquet",
             "--thumbnail", folder / "thumbnail.png", *bundle, *outdir)  # fmt: skip
    return archive, results


def test_predictions_follow_the_hidden_truth(predicted: tuple[Path, Path]):
    score = score_demo(*predicted)
    trained = score[score.evidence == "trained"]
    median = trained.groupby("programme").pearson.median()
    assert score.spots[0] > 100
    assert median["stroma"] > 0.7
    assert median["tumour"] > 0.6
    assert median["immune"] > 0.4
    # What the slide does not show must not be predicted.
    assert abs(median["unrelated"]) < 0.3
    assert trained.pearson.mean() > 0.5


def test_genes_it_never_saw_are_predicted_where_their_descriptions_are_near(predicted: tuple[Path, Path]):
    score = score_demo(*predicted)
    near, far = (score[score.evidence == name] for name in ("similar_text", "dissimilar_text"))
    assert (len(near), len(far)) == (8, 4)
    assert near.pearson.mean() > 0.4
    assert near.pearson.mean() > far.pearson.mean()
    # Beside what knows nothing of the gene: the mean map of the trained ones.
    unseen = score[score.evidence != "trained"]
    assert unseen.pearson.mean() > unseen.shared.mean() + 0.1


def test_described_genes_that_the_bundle_does_not_hold_are_predicted_too(
    root: Path, predicted: tuple[Path, Path], shipped: Path, tmp_path: Path
):
    folder = predicted[1] / "D1"
    run_verb(root, "predict", "--slide-record", folder / "slide.json", "--tiles", folder / "tiles.parquet",
             "--features", folder / "features.parquet", "--thumbnail", folder / "thumbnail.png",
             "--genes", root / "assets/demo-genes/genes.parquet",
             "--bundle", shipped, "--outdir", tmp_path)  # fmt: skip
    more, _ = read_table(tmp_path / "D1.parquet", EXPRESSION)
    own, _ = read_table(folder / "D1.parquet", EXPRESSION)
    assert more.num_columns == own.num_columns + 38
    for gene in list_genes().gene_id:
        np.testing.assert_allclose(more[gene].to_numpy(), own[gene].to_numpy(), atol=1e-4)
    assert more.schema.field("ENSG00000186847").metadata[b"gene_symbol"] == b"KRT14"
    assert more.schema.field("ENSG00000186847").metadata[b"evidence"] == b"similar_text"
    assert np.isfinite(more["ENSG00000186847"].to_numpy()).all()


def test_predictions_are_numbers_for_every_gene(predicted: tuple[Path, Path]):
    table, _ = read_table(predicted[1] / "D1" / "D1.parquet", EXPRESSION)
    values = np.stack([table[gene].to_numpy() for gene in list_genes().gene_id])
    assert np.isfinite(values).all()
    assert values.std(axis=1).max() > 0.3
