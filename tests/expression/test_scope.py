"""A bundle says for what it holds, and its card, page and files say the same."""

from __future__ import annotations

from pathlib import Path

import anndata
import pytest

from histocast.artifacts import write_json
from histocast.bundle import Bundle, bundle_digest
from histocast.evaluation.summary import Evaluation
from histocast.expression.scope import BETWEEN_SLIDES, SAME_PATIENT, WITHIN_SLIDE, describe_scope
from histocast.records import read_record
from histocast.release.model_card import render_model_card
from histocast.sections.labels import SCALES
from histocast.training.train_record import TrainRecord
from predicted_sample import predict, write_report
from sample_bundle import write_bundle, write_slide_files


def change(bundle: Bundle, **parts: dict[str, object]) -> Bundle:
    changes = {name: getattr(bundle, name).model_copy(update=update) for name, update in parts.items()}
    return bundle.model_copy(update=changes)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.mark.parametrize(
    ("parts", "comparable", "said"),
    [
        ({"fusion": {"standardise_within_slide": True}}, False, f"{WITHIN_SLIDE}: features are standardised"),
        ({"scale": SCALES["residual"].model_dump()}, False, f"{WITHIN_SLIDE}: values are relative to the section"),
        ({"scale": SCALES["paper"].model_dump()}, True, f"{BETWEEN_SLIDES} by how features are standardised; how well"),
    ],
)
def test_slides_can_be_compared_or_not(
    bundle: Bundle, parts: dict[str, dict[str, object]], comparable: bool, said: str
) -> None:
    changed = change(bundle, **({"fusion": {"standardise_within_slide": False}} | parts))
    assert changed.comparable_between_slides == comparable
    assert describe_scope(changed)["slides"].startswith(said)


def test_what_was_measured_between_slides_is_stated(made_folds: tuple[Path, Evaluation], bundle: Bundle) -> None:
    metrics = made_folds[1].metrics("strict", method="ridge")
    measured = change(bundle, fusion={"standardise_within_slide": False}).model_copy(update={"metrics": metrics})
    said = describe_scope(measured)["slides"]
    value = {metric.name: metric.value for metric in metrics if metric.subject == "model"}
    assert f"keep {value['crop_slope']:.2f} of the contrast" in said
    assert f"r {value['slide_means_pearson']:.2f} and slope {value['slide_means_slope']:.2f}" in said
    assert "4 sections of 2 patients, genes taken together" in said


@pytest.mark.parametrize(("patients", "claims"), [(None, False), (1, False), (3, True)])
def test_coverage_is_claimed_for_several_patients_alone(bundle: Bundle, patients: int | None, claims: bool) -> None:
    scope = describe_scope(change(bundle, calibration={"patients": patients}))
    assert ("meant to hold 90 %" in scope["intervals"]) == claims
    assert ("no coverage is claimed" in scope["intervals"]) != claims
    assert (SAME_PATIENT in scope["intervals"] and SAME_PATIENT in scope["val_pcc"]) == (patients == 1)


def test_card_page_files_and_readme_of_one_training_patient_claim_no_coverage(
    made_folds: tuple[Path, Evaluation], root: Path, tmp_path: Path
) -> None:
    known = write_bundle(tmp_path / "bundle")
    bundle = change(known, calibration={"patients": 1}, fusion={"standardise_within_slide": True})
    bundle = bundle.model_copy(update={"metrics": ()})
    write_json(tmp_path / "bundle" / "bundle.json", bundle)
    files = write_slide_files(tmp_path, bundle_digest(tmp_path / "bundle"), columns=6, rows=5)
    predict(files, tmp_path / "bundle", tmp_path)
    facts = anndata.read_h5ad(tmp_path / "S1.h5ad").uns["histocast"]
    record = read_record(made_folds[0] / "models" / "ridge-strict-A" / "train.json", TrainRecord)
    assert not facts["parameters"]["comparable_between_slides"]
    said = {
        "card": render_model_card(bundle, record),
        "page": write_report(files, tmp_path).source,
        "uns": str(facts),
    }
    assert f"**{SAME_PATIENT}**" in (root / "README.md").read_text()
    for where, text in said.items():
        assert text.count(SAME_PATIENT) >= 2, where
        assert WITHIN_SLIDE in text, where
        for claim in ("meant to hold", "Intervals cover", "covers 90", "90 % of measured"):
            assert claim not in text, (where, claim)


def test_a_model_of_one_patient_knows_that_it_is(made_folds: tuple[Path, Evaluation]) -> None:
    bundle = Bundle.model_validate_json((made_folds[0] / "models" / "ridge-strict-A" / "bundle.json").read_bytes())
    assert bundle.calibration.patients == 1
    assert SAME_PATIENT in describe_scope(bundle)["intervals"]
