"""A training set made once for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from histocast.bundle import Bundle, read_bundle
from histocast.training import Evaluation, cross_validate, export_encoders
from made_sections import made_recipe, make_training_set


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the recipe's encoders."""
    folder = tmp_path_factory.mktemp("encoders")
    export_encoders(made_recipe(), outdir=folder)
    return folder


@pytest.fixture(scope="session")
def encoder_bundle(encoders: Path) -> Bundle:
    """What ``bundle.json`` of the encoders says."""
    return read_bundle(encoders)


@pytest.fixture(scope="session")
def made_set(tmp_path_factory: pytest.TempPathFactory, encoder_bundle: Bundle) -> Path:
    """Four sections of two patients."""
    patients = {"A1": "A", "A2": "A", "B1": "B", "B2": "B"}
    return make_training_set(tmp_path_factory.mktemp("made"), encoder_bundle, patients=patients)


@pytest.fixture(scope="session")
def made_folds(tmp_path_factory: pytest.TempPathFactory, made_set: Path) -> tuple[Path, Evaluation]:
    """The set cross-validated under both protocols: output folder and figures."""
    outdir = tmp_path_factory.mktemp("folds")
    return outdir, cross_validate(made_set, recipe=made_recipe(), outdir=outdir)
