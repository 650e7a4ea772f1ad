"""The bundle of real breast tissue is whole and small, and says plainly what it is of and for whom it holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from histocast.artifacts import GENES, read_table
from histocast.bundle import Bundle
from histocast.evaluation.summary import MODEL
from histocast.expression.scope import SAME_PATIENT, describe_scope
from histocast.inference import verify_bundle

MAX_BYTES = 8_000_000


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "assets" / "breast-her2st"


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return verify_bundle(folder)


def test_it_is_whole_small_and_of_the_recipe_that_is_shipped(root: Path, folder: Path, bundle: Bundle) -> None:
    recipe = json.loads((root / "assets" / "breast-her2st-recipe.json").read_text(encoding="utf-8"))
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MAX_BYTES
    assert (bundle.fusion.method, bundle.description) == (recipe["method"], recipe["description"])
    assert bundle.geometry.um_per_px == recipe["geometry"]["um_per_px"]
    assert bundle.training_data["samples"] == ["C2", "C3", "C4", "C5", "C6"]
    genes, _ = read_table(folder / "genes.parquet", GENES)
    assert genes.num_rows == 250
    assert np.isfinite(genes["interval_90"].to_numpy()).all()


def test_its_card_says_one_patient_research_and_whose_data(folder: Path, bundle: Bundle) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    for said in ("research demonstration", "five", "one HER2-positive", "CC BY 4.0", "Andersson", SAME_PATIENT):
        assert said in card, said
    assert bundle.calibration.patients == 1
    assert "CC BY 4.0" in bundle.licence
    assert SAME_PATIENT in describe_scope(bundle)["intervals"]
    for path in folder.rglob("*"):
        if path.is_file():
            assert not re.search(rb"/(work|tmp|home|root|usr)/\w", path.read_bytes()), path.name


def test_its_figures_stand_next_to_depth_and_an_average(bundle: Bundle) -> None:
    pearson = {metric.subject: metric.value for metric in bundle.metrics if metric.name == "pearson"}
    crop = [metric.value for metric in bundle.metrics if (metric.name, metric.subject) == ("crop_slope", MODEL)]
    assert bundle.comparable_between_slides
    assert crop[0] == pytest.approx(1.0, abs=0.1)
    # As docs/evaluation.md has them.
    for subject, value in {MODEL: 0.281, "ridge": 0.271, "average": 0.286, "one depth map": 0.091}.items():
        assert pearson[subject] == pytest.approx(value, abs=0.003), subject
