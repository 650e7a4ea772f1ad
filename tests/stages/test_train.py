"""From sections to a bundle: what was hidden is found, honestly scored, and exported as it was scored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from histocast.artifacts import GENES, read_table
from histocast.bundle import Bundle, read_bundle
from histocast.errors import ConfigError, DataError, UsageError
from histocast.evaluation.evaluate_models import evaluate, predict_section
from histocast.evaluation.summary import Evaluation
from histocast.inference import open_predictor, verify_bundle
from histocast.networks.correlation import gene_pearson
from histocast.records import read_record
from histocast.release.export_bundle import export_bundle
from histocast.sections.folds import split_sections
from histocast.sections.labels import SCALES
from histocast.sections.protocols import PROTOCOLS
from histocast.sections.section import prepare_section
from histocast.training.train_fold import train
from histocast.training.train_record import TrainRecord
from histocast.training.training_set import list_sections, open_training_set
from made_sections import OTHERS, PANEL, made_counts, made_recipe, make_training_set, spot_names, write_counts

Folds = tuple[Path, Evaluation]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, made_set: Path) -> Path:
    """A model of every section."""
    folder = tmp_path_factory.mktemp("model")
    train(made_set, recipe=made_recipe(), outdir=folder)
    return folder


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_hidden_weights_are_found_and_the_controls_are_not_flattered(protocol: str, made_folds: Folds) -> None:
    _, evaluation = made_folds
    pearson = {s.subject: s.figure("pearson").mean for s in evaluation.summaries if s.protocol == protocol}
    assert pearson["model"] > 0.6
    assert pearson["training mean"] == 0.0
    assert abs(pearson["shuffled spots"]) < 0.03
    assert abs(pearson["stain area"]) < 0.2


def test_sections_of_a_patient_are_never_on_both_sides(made_folds: Folds) -> None:
    outdir, evaluation = made_folds
    folders = sorted((outdir / "models").iterdir())
    assert [folder.name for folder in folders] == [f"ridge-{p}-{fold}" for p in sorted(PROTOCOLS) for fold in "AB"]
    for folder in folders:
        record = read_record(folder / "train.json", TrainRecord)
        assert {sample[0] for sample in record.train} == {"AB".replace(record.fold, "")}
        assert read_bundle(folder).scale == SCALES[record.protocol]
        assert {sample[0] for sample in record.test} == {record.fold}
    assert evaluation.split == "leave one patient out (2 patients)"
    assert evaluation.resampled == "patients"


def test_intervals_cover_what_they_say_on_patients_that_were_held_out(made_folds: Folds) -> None:
    summary = made_folds[1].summary("strict")
    for level in (80, 90):
        figure = summary.figure(f"coverage_{level}")
        assert figure is not None
        assert abs(figure.mean * 100 - level) < 8


def test_every_figure_is_there_for_every_held_out_section(made_folds: Folds) -> None:
    outdir, evaluation = made_folds
    table = pq.read_table(outdir / "sections.parquet").to_pandas()
    model = table[(table.subject == "model") & (table.protocol == "strict")]
    assert set(model["sample"]) == {"A1", "A2", "B1", "B2"}
    expected = {"pearson", "pearson_median", "pearson_iqr", "pearson_share_above_0.2", "pearson_hpg50", "pearson_heg50", "pearson_hvg50", "spearman", "mse", "mae", "rvd", "ssim", "morans_i_truth", "morans_i_predicted", "morans_i_agreement", "coverage_80", "coverage_90", "pearson_partial", "ceiling", "ceiling_share", "crop_slope"}  # fmt: skip
    assert set(model.metric) == expected
    assert not model.value.isna().any()
    genes = pq.read_table(outdir / "genes.parquet").to_pandas()
    assert (genes[(genes.subject == "model") & (genes.protocol == "paper")].groupby("sample").size() == 60).all()
    published = evaluation.summary("paper").figure("pearson_hpg50_chosen_on_test")
    assert published.mean >= evaluation.summary("paper").figure("pearson_hpg50").mean
    text = (outdir / "evaluation.md").read_text()
    assert text.count("Split: ") == text.count("Smoothing: ") == text.count("Normalisation: ") == len(PROTOCOLS)


def test_the_exported_bundle_carries_its_figures_with_their_facts(
    model: Path, made_folds: Folds, encoders: Path, tmp_path: Path
) -> None:
    outdir, evaluation = made_folds
    export_bundle(model, encoders=encoders, evaluation=outdir, outdir=tmp_path / "b", name="made", version="2")
    bundle = verify_bundle(tmp_path / "b")
    assert (bundle.name, bundle.version, bundle.gene_count) == ("made", "2", len(PANEL))
    figures = {(metric.name, metric.subject): metric for metric in bundle.metrics}
    headline = figures["pearson", "model"]
    assert headline.value == pytest.approx(evaluation.summary("strict").figure("pearson").mean, abs=1e-6)
    assert "all genes" in headline.normalisation
    assert (headline.smoothing, headline.split) == ("none", evaluation.split)
    assert {"training mean", "stain area", "shuffled spots"} <= {subject for _, subject in figures}
    card = (tmp_path / "b" / "README.md").read_text()
    assert "Research use only" in card
    assert f"{headline.value:.3f}" in card
    shown = ("pearson_median", "pearson_heg50", "pearson_hvg50", "mae")
    assert all(f"| {name} | " in card for name in shown)
    assert f"{bundle.ood.threshold:.3g}" in card
    assert bundle.licence == "Apache-2.0 (histocast, encoder morphology); not stated (training data)"
    whole = "".join(file.read_text() for file in ((tmp_path / "b" / "bundle.json"), (tmp_path / "b" / "README.md")))
    assert str(tmp_path) not in whole


def test_genes_carry_what_held_out_spots_said(model: Path) -> None:
    table, _ = read_table(model / "genes.parquet", GENES)
    frame = table.to_pandas()
    assert list(frame.gene_symbol) == list(PANEL)
    record = read_record(model / "train.json", TrainRecord)
    assert frame.val_pcc.mean() == pytest.approx(record.heldout_pearson, abs=1e-5)
    assert (frame.interval_90 > frame.interval_80).all()
    assert (frame.interval_80 > 0).all()
    assert record.inner_split == "leave one patient out"
    assert record.test == ()
    assert record.onnx_difference < 1e-4
    best = frame.sort_values("val_pcc", ascending=False).gene_id.head(50)
    assert set(record.top.predicted) == set(best)


def test_training_twice_gives_the_same_bytes(model: Path, made_set: Path, tmp_path: Path) -> None:
    train(made_set, recipe=made_recipe(), outdir=tmp_path)
    for name in ("bundle.json", "fusion.onnx", "genes.parquet", "train.json"):
        assert (tmp_path / name).read_bytes() == (model / name).read_bytes(), name


def test_a_model_depends_on_no_label_of_the_held_out_sections(
    made_set: Path, made_folds: Folds, encoder_bundle: Bundle, tmp_path: Path
) -> None:
    copy = tmp_path / "set"
    shutil.copytree(made_set, copy)
    counts = write_counts(tmp_path / "other.tsv", made_counts(np.zeros((99, 96)), seed=7), spots=spot_names())
    for sample in ("B1", "B2"):
        prepare_section(copy / sample, patient="B", counts=counts, bundle=encoder_bundle, outdir=copy)
    train(copy, recipe=made_recipe(), fold="B", outdir=tmp_path / "m")
    trained = made_folds[0] / "models" / "ridge-strict-B"
    assert (tmp_path / "m" / "fusion.onnx").read_bytes() == (trained / "fusion.onnx").read_bytes()


def test_predictions_for_evaluation_are_those_of_the_graph_on_all_spots(made_set: Path, model: Path) -> None:
    bundle = read_bundle(model)
    with open_training_set(made_set, made_recipe()) as training:
        section = training.sections[0]
        with open_predictor(model, bundle, names=("fusion",), threads=1) as predictor:
            genes, _ = read_table(model / "genes.parquet", GENES)
            expression, sd = predict_section(training, section, bundle=bundle, genes=genes, predictor=predictor)
            direct = predictor.infer("fusion", training.gather(section, bundle.fusion)(section.measured))
            small = bundle.model_copy(update={"fusion": bundle.fusion.model_copy(update={"region_spots": 40})})
            in_parts, _ = predict_section(training, section, bundle=small, genes=genes, predictor=predictor)
        labels = training.labels(section, "strict")
    np.testing.assert_allclose(expression, direct["expression"], atol=1e-5)
    np.testing.assert_allclose(in_parts, expression, atol=1e-5)
    assert expression.shape == sd.shape == (98, len(PANEL))
    assert np.nanmean(gene_pearson(labels, expression)) > 0.6


def test_one_patient_is_split_by_sections_and_said_so(tmp_path: Path, encoder_bundle: Bundle) -> None:
    folder = make_training_set(tmp_path, encoder_bundle, patients={"S1": "P", "S2": "P"})
    split = split_sections(list_sections(folder), by="auto")
    assert [fold.test for fold in split.folds] == [("S1",), ("S2",)]
    assert "one patient" in split.description
    assert "not generalisation" in split.description
    record = train(folder, recipe=made_recipe(), fold="S2", outdir=tmp_path / "m")
    assert "only section" in record.inner_split
    assert record.heldout_pearson > 0.3
    with pytest.raises(DataError, match="1 patient"):
        split_sections(list_sections(folder), by="patient")


class Sample(NamedTuple):
    sample: str
    patient: str


def test_groups_of_patients_by_number_are_disjoint_alike_in_size_and_always_the_same() -> None:
    # As in STNet: 23 patients of three sections, one of them of two.
    samples = [Sample(f"{patient}-{number}", f"P{patient:02d}") for patient in range(23) for number in range(3)][:-1]
    split = split_sections(samples, by=8)
    assert [fold.name for fold in split.folds] == list("12345678")
    assert split.by == "patient"
    assert split.description == "leave one of 8 groups of patients out (23 patients)"
    assert sorted(name for fold in split.folds for name in fold.test) == sorted(each.sample for each in samples)
    patient_of = {each.sample: each.patient for each in samples}
    for fold in split.folds:
        # Seven groups of three patients and one of two.
        assert len(fold.test) in (5, 6, 8, 9)
        assert not {patient_of[name] for name in fold.test} & {patient_of[name] for name in fold.train}
        assert sorted(fold.test + fold.train) == sorted(each.sample for each in samples)
    again = split_sections(samples[::-1], by=8)
    assert [sorted(fold.test) for fold in again.folds] == [sorted(fold.test) for fold in split.folds]
    with pytest.raises(DataError, match=r"(?s)2 patients.*at least 8"):
        split_sections(samples[:6], by=8)


def test_a_panel_by_id_and_with_unmeasured_genes(made_set: Path) -> None:
    recipe = made_recipe(panel=(OTHERS[0], *PANEL[:5]), missing_genes="zero")
    with open_training_set(made_set, recipe) as training:
        assert training.panel.gene_symbols == (OTHERS[0], *PANEL[:5])
        assert training.panel.columns["A1"].tolist() == [60, 0, 1, 2, 3, 4]


def test_wrong_requests_are_refused(
    made_set: Path, model: Path, encoders: Path, made_folds: Folds, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"no fold 'C'\n.*one of A, B"):
        train(made_set, recipe=made_recipe(), fold="C", outdir=tmp_path)
    with pytest.raises(ConfigError, match=r"options\.alpha: Extra inputs"):
        train(made_set, recipe=made_recipe(options={"alpha": 1}), outdir=tmp_path)
    with pytest.raises(UsageError, match="saw every section"):
        evaluate(made_set, models=[model], outdir=tmp_path)
    with pytest.raises(UsageError, match="no model"):
        evaluate(made_set, models=[], outdir=tmp_path)
    fold = made_folds[0] / "models" / "ridge-strict-A"
    shutil.copytree(fold, tmp_path / "again")
    with pytest.raises(UsageError, match="two models of ridge strict A"):
        evaluate(made_set, models=[fold, tmp_path / "again"], outdir=tmp_path)


def test_foreign_encoders_and_figures_are_refused(
    model: Path, encoders: Path, made_folds: Folds, tmp_path: Path
) -> None:
    shutil.copytree(encoders, tmp_path / "encoders")
    file = tmp_path / "encoders" / "encoders" / "morphology.onnx"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ConfigError, match="with which the sections were encoded"):
        export_bundle(model, encoders=tmp_path / "encoders", outdir=tmp_path / "b")
    text = json.loads((made_folds[0] / "evaluation.json").read_text())
    (tmp_path / "evaluation.json").write_text(json.dumps({**text, "recipe": "other"}))
    with pytest.raises(UsageError, match="an evaluation of other"):
        export_bundle(model, encoders=encoders, evaluation=tmp_path / "evaluation.json", outdir=tmp_path / "b")
