"""The measured anchors, on real sections: images, spots and counts through the same code as everybody's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from histocast.evaluation.evaluate_models import cross_validate
from histocast.evaluation.summary import Evaluation
from histocast.stages.prepare_sections import prepare_sections
from histocast.training.read_recipe import read_recipe
from histocast.training.recipe import Recipe

# Fifteen models of real sections: a minute on two free cores, several where other work shares them.
pytestmark = pytest.mark.timeout(1200)

SECTIONS = ("C2", "C3", "C4", "C5", "C6")
UM_PER_PX = 0.69
"""The images do not say: spots are 200 um and 290 px apart."""

Trained = tuple[Path, Recipe, Evaluation]


@pytest.fixture(scope="module")
def trained(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Five sections prepared and cross-validated: their folder, the recipe and the figures."""
    folder, data = tmp_path_factory.mktemp("her2st"), shared_data / "her2st"
    rows = [
        f"{s},{data}/images/{s}.jpg,{data}/counts/{s}.tsv.gz,C,{data}/spots/{s}_selection.tsv,{UM_PER_PX}"
        for s in SECTIONS
    ]
    sheet = folder / "training.csv"
    sheet.write_text("\n".join(["sample,slide,counts,patient,spots,mpp", *rows]) + "\n")
    recipe = read_recipe("her2st", panel=shared_data / "genes" / "panels" / "her2st.txt")
    # Kernel ridge and trees on every fold would take most of the time, and nothing here is about them.
    recipe = recipe.model_copy(update={"controls": ()})
    prepare_sections(sheet, recipe=recipe, outdir=folder / "set")
    return folder, recipe, cross_validate(folder / "set", recipe=recipe, outdir=folder / "cv")


@pytest.mark.parametrize(
    ("protocol", "anchor", "stain_anchor", "depth_map"),
    [("strict", 0.265, 0.165, 0.091), ("paper", 0.445, 0.241, 0.290), ("residual", 0.282, 0.179, -0.048)],
)
def test_ridge_reaches_the_anchor_and_is_clearly_above_its_controls(
    protocol: str, anchor: float, stain_anchor: float, depth_map: float, trained: Trained
) -> None:
    summaries = {s.subject: s for s in trained[2].summaries if s.protocol == protocol}
    pearson = {subject: summary.figure("pearson") for subject, summary in summaries.items()}
    assert pearson["model"].mean >= anchor
    assert pearson["model"].mean >= pearson["stain area"].mean + 0.08
    assert pearson["model"].mean >= pearson["one depth map"].mean + 0.12
    assert pearson["model"].mean >= pearson["mean of all genes"].mean + 0.12
    assert pearson["stain area"].mean == pytest.approx(stain_anchor, abs=0.02)
    assert pearson["one depth map"].mean == pytest.approx(depth_map, abs=0.02)
    assert pearson["training mean"].mean == 0.0
    assert abs(pearson["shuffled spots"].mean) < 0.03
    for sample in SECTIONS:
        assert pearson["model"].by_sample[sample] > pearson["stain area"].by_sample[sample]
    assert summaries["model"].figure("mse").mean < summaries["training mean"].figure("mse").mean
    for level in (80, 90):
        assert abs(summaries["model"].figure(f"coverage_{level}").mean * 100 - level) < 3


@pytest.mark.parametrize(("protocol", "ceiling"), [("strict", 0.634), ("paper", 0.819), ("residual", 0.619)])
def test_windows_keep_their_contrast_and_the_ceiling_is_as_documented(
    protocol: str, ceiling: float, trained: Trained
) -> None:
    summary = trained[2].summary(protocol)
    assert 0.9 <= summary.figure("crop_slope").mean <= 1.1
    assert summary.figure("ceiling").mean == pytest.approx(ceiling, abs=0.01)


def test_the_split_is_named_for_what_it_is(trained: Trained) -> None:
    assert trained[2].split.startswith("leave one section out, all of one patient")
    assert (trained[2].patients, trained[2].sections, trained[2].genes) == (1, 5, 250)


@pytest.fixture(scope="module")
def histocast(root: Path) -> Callable[..., None]:
    """Run a verb as the pipeline does, in a process of its own."""

    def run(*arguments: str | Path) -> None:
        path = os.pathsep.join([str(root / "python"), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "histocast", *map(str, arguments)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})

    return run


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_a_held_out_section_through_the_pipeline_equals_its_fold(
    protocol: str,
    trained: Trained,
    shared_data: Path,
    histocast: Callable[..., None],
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, recipe, evaluation = trained
    data, bundle = shared_data / "her2st", tmp_path / "bundle"
    model = folder / "cv" / "models" / f"ridge-{protocol}-C6"
    histocast("export", "--model", model, "--encoders", folder / "set" / "encoders", "--outdir", bundle)
    slide = ("--slide", data / "images" / "C6.jpg", "--mpp", UM_PER_PX, "--bundle", bundle, "--outdir", tmp_path)
    histocast("tile", "--sample", "C6", "--spots", data / "spots" / "C6_selection.tsv", *slide)
    stages = ("--slide-record", tmp_path / "slide.json", "--tiles", tmp_path / "tiles.parquet")
    histocast("encode", *stages, *slide)
    files = ("--features", tmp_path / "features.parquet", "--thumbnail", tmp_path / "thumbnail.png")
    histocast("predict", *stages, *files, "--bundle", bundle, "--outdir", tmp_path)
    monkeypatch.syspath_prepend(root / "benchmarks")
    from compare_expression import compare_expression

    found = compare_expression(tmp_path / "C6.h5ad", set_folder=folder / "set", recipe=recipe)
    for metric in ("pearson", "spearman", "mse", "ssim"):
        expected = evaluation.summary(protocol).figure(metric).by_sample["C6"]
        assert found[metric] == pytest.approx(expected, abs=1e-4), metric
