"""Patients of other depth, stain and scanner, whose truth is known: what is claimed of new patients holds there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from histocast.bundle import Bundle
from histocast.evaluation.between_slides import crop_slope
from histocast.evaluation.controls import DEPTH_MAP, FoldDesign, predict_controls
from histocast.evaluation.metrics import coverage
from histocast.networks.correlation import gene_pearson
from histocast.sections.section import Section
from histocast.training.calibration import conformal_half_widths
from histocast.training.fit import Fitted, fit
from histocast.training.training_set import TrainingSet, open_training_set
from made_sections import PANEL, Patient, gene_rates, made_features, made_recipe, make_training_set

PATIENTS = 12
DEPTHS = np.geomspace(0.1, 1.0, PATIENTS)

Floats = np.ndarray


@dataclass(frozen=True)
class Study:
    """Ridge trained on every second patient; the others are unseen."""

    training: TrainingSet
    fitted: Fitted
    seen: tuple[Section, ...]
    unseen: tuple[Section, ...]

    def predict(self, section: Section) -> tuple[Floats, Floats]:
        """Expression and its sd, [spot, gene]."""
        inputs = self.training.gather(section, self.fitted.fusion)(section.measured)
        with torch.no_grad():
            found = self.fitted.module(**{name: torch.from_numpy(values) for name, values in inputs.items()})
        return tuple(values.numpy().astype(np.float64) for values in found)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, encoder_bundle: Bundle) -> Iterator[Study]:
    """Two stains, two scanners, and depth differing tenfold, on either side."""
    patients = {
        f"P{number:02}": Patient(depth=depth, stain=number // 2 % 2, scanner=number // 4 % 2)
        for number, depth in enumerate(DEPTHS)
    }
    folder = make_training_set(tmp_path_factory.mktemp("patients"), encoder_bundle, patients=patients)
    with open_training_set(folder, made_recipe()) as training:
        names = tuple(patients)
        seen, unseen = training.choose(names[::2]), training.choose(names[1::2])
        yield Study(training, fit(training, seen, protocol="strict", by="patient"), seen, unseen)


@pytest.mark.parametrize("percent", [80, 90])
def test_intervals_hold_what_they_claim_on_patients_of_other_depth(study: Study, percent: int) -> None:
    fitted = study.fitted
    heldout = (fitted.labels, fitted.heldout_expression, fitted.heldout_sd)
    widths = conformal_half_widths(*heldout, coverage=percent / 100, patient=fitted.section)
    held = [
        coverage(study.training.labels(section, "strict"), *study.predict(section), widths) for section in study.unseen
    ]
    assert 100 * np.mean(held) == pytest.approx(percent, abs=3)


def test_slides_of_two_stains_and_two_scanners_can_be_compared(study: Study) -> None:
    predicted = [study.predict(section)[0] for section in study.unseen]
    slopes = [
        crop_slope(section, values, predict=lambda window: study.predict(window)[0])
        for section, values in zip(study.unseen, predicted, strict=True)
    ]
    assert np.mean(slopes) == pytest.approx(1.0, abs=0.1)
    rates = [gene_rates(made_features(number)) for number in range(1, PATIENTS, 2)]
    truth = [np.log1p(1e4 * rate / rate.sum(axis=1, keepdims=True))[:, : len(PANEL)] for rate in rates]
    means = (np.stack([values.mean(axis=0) for values in each]) for each in (predicted, truth))
    moved, true = (mean - mean.mean(axis=0) for mean in means)
    assert (moved * true).sum() / (true**2).sum() == pytest.approx(1.0, abs=0.2)
    assert np.corrcoef(moved.ravel(), true.ravel())[0, 1] > 0.9


def test_depth_alone_predicts_shallow_genes_until_it_is_divided_out(study: Study) -> None:
    names = [[section.record.sample for section in sections] for sections in (study.seen, study.unseen)]
    fold = FoldDesign.of(study.training, *names, by="patient")
    pearson = {}
    for protocol in ("strict", "residual"):
        predicted = predict_controls(study.training, fold, protocol=protocol)[DEPTH_MAP]
        found = [gene_pearson(study.training.labels(s, protocol), predicted[s.record.sample]) for s in study.unseen]
        pearson[protocol] = np.nanmean(found)
    assert pearson["strict"] > 0.04
    assert abs(pearson["residual"]) < 0.03
