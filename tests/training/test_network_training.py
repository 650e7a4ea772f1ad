"""Networks on a training set: trained, stopped and gone on with, scored, exported and asked for unseen genes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from histocast.artifacts import GENES, read_table
from histocast.bundle import Bundle, TensorSpec, read_bundle
from histocast.errors import ConfigError, DataError, UsageError
from histocast.evaluation.evaluate_models import evaluate, predict_section
from histocast.expression.prediction import predict_spots
from histocast.fusion.selected_genes import near_distance
from histocast.inference import open_predictor, verify_bundle
from histocast.networks.correlation import gene_pearson
from histocast.networks.dkan import DkanConfig
from histocast.release.export_bundle import export_bundle
from histocast.sections.measured_panel import Panel
from histocast.sections.section import prepare_section
from histocast.training.gene_text import read_gene_text
from histocast.training.read_recipe import read_recipe
from histocast.training.recipe import Recipe
from histocast.training.registry import read_options
from histocast.training.train_fold import train
from histocast.training.train_record import TrainRecord
from histocast.training.training_set import open_training_set
from made_sections import DIM, PANEL, made_counts, made_recipe, spot_names, write_counts, write_stages
from spot_files import write_features

TEXT = 10
UNSEEN = ("NEVER1", "NEVER2")


def network_recipe(method: str, **model: object) -> Recipe:
    options = {"model": model, "training": {"epochs": 60, "members": 2, "average": 0.5}}
    return made_recipe(method=method, options=options)


def small(method: str) -> dict[str, object]:
    return {"dim": 16} if method == "alignst" else {"trunk": {"dim": 16}}


@pytest.fixture(scope="module")
def gene_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``genes embed`` writes, of the panel in another order and two genes more."""
    names = [*reversed(PANEL), *UNSEEN]
    values = np.random.default_rng(5).normal(size=(len(names), TEXT)).astype(np.float32)
    columns = {
        "gene_id": pa.array(names),
        "gene_symbol": pa.array(names),
        "encoder": ["made/mean/raw/10"] * len(names),
        "encoder_revision": ["one"] * len(names),
        "source": ["ncbi+go", *["ncbi"] * (len(names) - 1)],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), TEXT),
    }
    path = tmp_path_factory.mktemp("text") / "genes.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def dkan_fold(tmp_path_factory: pytest.TempPathFactory, made_set: Path, gene_text: Path) -> tuple[Path, TrainRecord]:
    folder = tmp_path_factory.mktemp("dkan")
    recipe = network_recipe("dkan", **small("dkan"))
    return folder, train(made_set, recipe=recipe, fold="B", outdir=folder, gene_text=gene_text)


def test_a_variant_stands_beside_its_method_in_one_table(
    made_set: Path, dkan_fold: tuple[Path, TrainRecord], tmp_path: Path
) -> None:
    options = {"model": small("dkan") | {"gene_text": False}, "training": {"epochs": 2, "members": 2}}
    recipe = made_recipe(method="dkan", variant="no-gene-text", options=options)
    train(made_set, recipe=recipe, fold="B", outdir=tmp_path / "variant")

    evaluation = evaluate(made_set, models=[dkan_fold[0], tmp_path / "variant"], outdir=tmp_path)

    mean = {summary.method: summary for summary in evaluation.summaries if summary.subject == "training mean"}
    assert set(mean) == {"dkan", "dkan:no-gene-text"}
    assert mean["dkan"].figures == mean["dkan:no-gene-text"].figures
    lines = (tmp_path / "evaluation.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert [sum(name in line for line in table) for name in ("**dkan**", "**dkan:no-gene-text**")] == [2, 2]
    # What is alike for both stands once: in the table of figures, and in that of sections.
    assert sum("training mean" in line for line in table) == 2


def test_dkan_finds_the_signal_and_is_judged_beside_controls(
    made_set: Path, dkan_fold: tuple[Path, TrainRecord], tmp_path: Path
) -> None:
    folder, record = dkan_fold
    assert record.onnx_difference < 1e-4
    assert record.heldout_pearson > 0.1
    evaluation = evaluate(made_set, models=[folder], outdir=tmp_path)
    assert evaluation.split == "leave one patient out (2 patients); 2 of 4 sections scored"
    pearson = {s.subject: s.figure("pearson").mean for s in evaluation.summaries}
    assert pearson["model"] > 0.1
    assert abs(pearson["shuffled spots"]) < 0.05
    coverage = evaluation.summary("strict").figure("coverage_90").mean
    assert coverage == pytest.approx(0.9, abs=0.08)


def test_metrics_stand_in_a_table_and_checkpoints_are_gone(dkan_fold: tuple[Path, TrainRecord]) -> None:
    folder, record = dkan_fold
    with (folder / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    parts = [name for name in rows[0] if name.startswith("loss_")]
    assert list(rows[0]) == ["network", "epoch", "loss", *parts, "heldout_pearson", "learning_rate"]
    assert {"loss_supervised", "loss_contrastive"} <= set(parts)
    for network, best in enumerate(record.choices["epochs"]):
        mine = [row for row in rows if row["network"] == str(network)]
        assert [row["epoch"] for row in mine] == [str(epoch) for epoch in range(1, len(mine) + 1)]
        assert len(mine) >= best
        assert float(mine[-1]["loss"]) < float(mine[0]["loss"])
    told = json.loads((folder / "metrics.json").read_text())["epochs"]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == told
    assert not (folder / "checkpoints").exists()
    assert record.choices["networks"] == 2


def test_a_bundle_carries_descriptions_and_marks_genes_it_never_saw(
    made_set: Path, encoders: Path, dkan_fold: tuple[Path, TrainRecord], tmp_path: Path
) -> None:
    export_bundle(dkan_fold[0], encoders=encoders, outdir=tmp_path)
    bundle = verify_bundle(tmp_path)
    genes, _ = read_table(tmp_path / "genes.parquet", GENES)
    assert bundle.gene_count == genes.num_rows == len(PANEL) + len(UNSEEN)
    assert bundle.gene_text is not None
    assert (bundle.gene_text.encoder, bundle.gene_text.encoder_revision) == ("made/mean/raw/10", "one")
    panel = np.array(genes.column("embedding").to_pylist()[: len(PANEL)], np.float32)
    assert bundle.gene_text.near_distance == pytest.approx(near_distance(panel))
    card = (tmp_path / "README.md").read_text()
    assert "`made/mean/raw/10`" in card
    assert "networks 2" in card
    seen = genes.column("seen_in_training").to_pylist()
    assert dict(zip(genes.column("gene_symbol").to_pylist(), seen, strict=True)) == {
        **dict.fromkeys(PANEL, True),
        **dict.fromkeys(UNSEEN, False),
    }
    assert genes.slice(len(PANEL)).column("val_pcc").null_count == len(UNSEEN)
    with (
        open_training_set(made_set, made_recipe()) as training,
        open_predictor(tmp_path, bundle, names=("fusion",), threads=1) as predictor,
    ):
        section = training.sections[0]

        def predict(rows: list[int], folder: str) -> tuple[np.ndarray, np.ndarray]:
            scratch = tmp_path / folder
            scratch.mkdir()
            found = predict_spots(
                section.store,
                bundle=bundle,
                predictor=predictor,
                genes=genes.take(pa.array(rows)),
                gene_index=np.array(rows),
                pitch_level0_px=section.record.pitch_level0_px,
                scratch=scratch,
            )
            return np.array(found.expression)[section.measured], found.interval(slice(0, 5))[0]

        everything, lower = predict(list(range(genes.num_rows)), "all")
        some, _ = predict([7, len(PANEL)], "some")
        labels = training.labels(section, "strict")
    np.testing.assert_allclose(some, everything[:, [7, len(PANEL)]], atol=1e-4)
    assert np.isfinite(everything).all()
    assert np.isnan(lower[:, len(PANEL) :]).all()
    assert np.nanmean(gene_pearson(labels, everything[:, : len(PANEL)])) > 0.3


def test_a_bundle_in_half_precision_says_so_and_predicts_nearly_the_same(
    encoders: Path, dkan_fold: tuple[Path, TrainRecord], tmp_path: Path
) -> None:
    whole = export_bundle(dkan_fold[0], encoders=encoders, outdir=tmp_path / "whole")
    half = export_bundle(dkan_fold[0], encoders=encoders, outdir=tmp_path / "half", precision="fp16")
    assert (whole.fusion.precision, half.fusion.precision) == ("fp32", "fp16")
    assert whole.fusion.inputs == verify_bundle(tmp_path / "half").fusion.inputs
    assert "half precision" in (tmp_path / "half" / "README.md").read_text()
    assert "half precision" not in (tmp_path / "whole" / "README.md").read_text()


def test_checkpoints_may_lie_apart_and_are_gone_when_the_model_stands(made_set: Path, tmp_path: Path) -> None:
    options = {"training": {"epochs": 2, "members": 2}}
    folder = tmp_path / "shared"
    made = made_recipe(method="stnet", options=options)
    (folder / "stnet-strict-B").mkdir(parents=True)
    (folder / "stnet-strict-B" / "0.pt").write_bytes(b"half a file")
    with pytest.raises(DataError, match="damaged checkpoint"):
        train(made_set, recipe=made, fold="B", outdir=tmp_path / "m", checkpoints=folder)
    (folder / "stnet-strict-B" / "0.pt").unlink()
    train(made_set, recipe=made, fold="B", outdir=tmp_path / "m", checkpoints=folder)
    assert not list(folder.iterdir())
    assert not (tmp_path / "m" / "checkpoints").exists()


def test_a_recipe_may_say_which_described_genes_come_along(gene_text: Path, tmp_path: Path) -> None:
    panel = Panel(tuple(PANEL), tuple(PANEL), {})
    assert read_gene_text(gene_text, panel).other_symbols == UNSEEN
    assert read_gene_text(gene_text, panel, others=UNSEEN[1:]).other_symbols == UNSEEN[1:]
    assert read_gene_text(gene_text, panel, others=()).others.shape == (0, TEXT)
    for name in ("NOWHERE", PANEL[0]):
        with pytest.raises(DataError, match=f"{name} described nowhere, or of the panel"):
            read_gene_text(gene_text, panel, others=(name,))
    table = pq.read_table(gene_text)
    mixed = table.set_column(
        table.schema.get_field_index("encoder"), "encoder", pa.array([f"e{row % 2}" for row in range(table.num_rows)])
    )
    pq.write_table(mixed, tmp_path / "mixed.parquet")
    with pytest.raises(DataError, match="e0 and e1"):
        read_gene_text(tmp_path / "mixed.parquet", panel)


def damaged(column: str, values: Callable[[int], object]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index(column), column, values(table.num_rows))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged("gene_id", lambda rows: pa.array([["a"]] * rows)), "gene_id is list"),
        (damaged("gene_symbol", lambda rows: pa.array(range(rows))), "gene_symbol is int64"),
        (damaged("encoder", lambda rows: pa.array([["a"]] * rows)), "encoder is list"),
        (damaged("source", lambda rows: pa.array([1.0] * rows)), "source is double"),
        (damaged("gene_id", lambda rows: pa.array(["A"] * rows)), "described genes appear more than once: A"),
        (damaged("embedding", lambda rows: pa.array([[1.0]] * rows)), "embedding is list"),
        (damaged("embedding", lambda rows: pa.array([[None]] * rows, pa.list_(pa.float32(), 1))), "not finite"),
        (damaged("embedding", lambda rows: pa.array([[1e300]] * rows, pa.list_(pa.float64(), 1))), "not finite"),
        (damaged("embedding", lambda rows: pa.array([None] * rows, pa.list_(pa.float32(), 1))), "nulls"),
        (lambda table: table.drop_columns("embedding"), "columns missing: embedding"),
        (lambda table: table.slice(0, 0), "no description of"),
    ],
)
def test_a_damaged_table_of_descriptions_is_refused(
    change: Callable[[pa.Table], pa.Table], message: str, gene_text: Path, tmp_path: Path
) -> None:
    pq.write_table(change(pq.read_table(gene_text)), tmp_path / "genes.parquet")
    with pytest.raises(DataError, match=message):
        read_gene_text(tmp_path / "genes.parquet", Panel(tuple(PANEL), tuple(PANEL), {}))


@pytest.mark.parametrize("method", ["domainst", "alignst", "stnet", "bleep"])
def test_each_method_trains_exports_and_predicts(method: str, made_set: Path, gene_text: Path, tmp_path: Path) -> None:
    model = {} if method == "stnet" else {"dim": 16} if method in ("alignst", "bleep") else {"trunk": {"dim": 16}}
    record = train(made_set, recipe=network_recipe(method, **model), fold="B", outdir=tmp_path, gene_text=gene_text)
    assert record.heldout_pearson > 0.1
    bundle = read_bundle(tmp_path)
    takes_genes = method == "alignst"
    assert ("gene" in {tensor.name for tensor in bundle.fusion.inputs}) == takes_genes
    # Texts are part of a graph that does not take others, too.
    parts = {name for name in bundle.training_data["licences"] if name.startswith("gene text")}
    reads = method in ("domainst", "alignst")
    assert parts == ({"gene texts (go)", "gene texts (ncbi)", "gene text encoder"} if reads else set())
    # A graph that knows its panel does not claim genes that are only described.
    assert bundle.gene_count == len(PANEL) + (len(UNSEEN) if takes_genes else 0)


def test_descriptions_are_asked_for_and_must_cover_the_panel(made_set: Path, gene_text: Path, tmp_path: Path) -> None:
    recipe = network_recipe("dkan", **small("dkan"))
    with pytest.raises(ConfigError, match="no gene descriptions"):
        train(made_set, recipe=recipe, fold="B", outdir=tmp_path)
    pq.write_table(pq.read_table(gene_text).slice(3), tmp_path / "few.parquet")
    with pytest.raises(DataError, match="no description of GENE5"):
        train(made_set, recipe=recipe, fold="B", outdir=tmp_path, gene_text=tmp_path / "few.parquet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modle": {}}, "modle"),
        ({"model": {"contrast": False}}, "contrast"),
        ({"training": {"epochs": 0}}, "training.epochs"),
        ({"encoder": {"name": "resnet19"}}, "no encoder 'resnet19'"),
    ],
)
def test_unfit_options_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_options("dkan", options, where="test")


def test_a_published_configuration_trains_on_frozen_features() -> None:
    given = {"configuration": "cscc", "model": {"trunk": {"target_encoder": "frozen"}}}
    _, config = read_options("dkan", given, where="test")
    assert isinstance(config, DkanConfig)
    assert config.trunk.dim == 1024
    assert config.trunk.sizes.context.heads == 16
    assert config.temperature == 0.08


def test_a_published_configuration_trains_to_the_protocols_scale(
    made_set: Path, gene_text: Path, tmp_path: Path
) -> None:
    model = {"dim": 16, "nuclei": False, "text_layers": 1, "graph_layers": 1}
    options = {"configuration": "cscc", "model": model, "training": {"epochs": 3, "members": 2, "learning_rate": 2e-3}}
    recipe = made_recipe(method="alignst", options=options)
    train(made_set, recipe=recipe, fold="B", outdir=tmp_path, gene_text=gene_text)
    genes, _ = read_table(tmp_path / "genes.parquet", GENES)
    bundle = read_bundle(tmp_path)
    with (
        open_training_set(made_set, recipe) as training,
        open_predictor(tmp_path, bundle, names=("fusion",), threads=1) as predictor,
    ):
        section = training.choose(("B1",))[0]
        labels = training.labels(section, "strict")
        asked = genes.slice(0, len(PANEL))
        found, _ = predict_section(training, section, bundle=bundle, genes=asked, predictor=predictor)
    # It learned every gene from 0 to 1; labels are about 4.
    assert labels.mean() > 3
    assert np.abs(found.mean(axis=0) - labels.mean(axis=0)).mean() < 1


def test_single_options_are_changed_by_name(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(made_recipe().model_dump_json())
    recipe = read_recipe(path, method="dkan", options=["model.contrastive=false", "training.optimiser=adam"])
    assert recipe.options == {"model": {"contrastive": False}, "training": {"optimiser": "adam"}}
    with pytest.raises(UsageError, match="key=value"):
        read_recipe(path, options=["model.contrastive"])


def test_a_recipe_holds_options_of_other_methods_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    content = json.loads(made_recipe().model_dump_json())
    path.write_text(json.dumps(content | {"options_of": {"dkan": {"model": {"distillation": 0.1}}}}))
    assert read_recipe(path).options == content["options"]
    assert read_recipe(path, method="dkan").options == {"model": {"distillation": 0.1}}
    assert read_recipe(path, method="dkan:no-contrast").options == {
        "model": {"distillation": 0.1, "contrastive": False}
    }
    assert read_recipe(path, method="alignst").options == {}
    path.write_text(json.dumps(content | {"options_of": {"dkam": {}}}))
    with pytest.raises(ConfigError, match="options_of: dkam"):
        read_recipe(path)


def test_tokens_of_the_target_are_what_a_gene_looks_at(encoder_bundle: Bundle, tmp_path: Path) -> None:
    """The embedding is noise; what decides expression stands in one of four tokens."""
    encoder = encoder_bundle.encoders[0]
    tokens = TensorSpec(name="tokens", dtype="float32", shape=("tile", 4, DIM // 4))
    wider = encoder.model_copy(update={"outputs": (*encoder.outputs, tokens)})
    bundle = encoder_bundle.model_copy(update={"encoders": (wider,)})
    for number, sample in enumerate(("A1", "B1", "C1")):
        stages = tmp_path / "stages" / sample
        features = write_stages(stages, sample=sample, seed=number)
        noise = np.random.default_rng(number).normal(size=features.shape)
        columns = {"morphology.embedding": noise, "morphology.tokens": np.roll(features, DIM // 2, axis=1)}
        write_features(stages / "features.parquet", np.arange(len(features)), columns, sample=sample)
        counts = write_counts(stages / "counts.tsv", made_counts(features, 50 + number), spots=spot_names())
        prepare_section(stages, patient=sample[0], counts=counts, bundle=bundle, outdir=tmp_path / "set")
    recipe = network_recipe("dkan", trunk={"dim": 16, "multi_scale": False}, gene_text=False)
    options = {**recipe.options, "training": {**recipe.options["training"], "epochs": 30}}
    recipe = recipe.model_copy(update={"target_tokens": "morphology.tokens", "options": options})
    record = train(tmp_path / "set", recipe=recipe, fold="C", outdir=tmp_path / "model")
    assert record.heldout_pearson > 0.1
    fusion = read_bundle(tmp_path / "model").fusion
    assert fusion.feeds["target"] == ("morphology.tokens",)
    assert next(each.shape for each in fusion.inputs if each.name == "target") == ("spot", 4, DIM // 4)
    evaluation = evaluate(tmp_path / "set", models=[tmp_path / "model"], outdir=tmp_path / "scored")
    pearson = {each.subject: each.figure("pearson").mean for each in evaluation.summaries}
    assert pearson["model"] > 0.1

    blind = recipe.model_copy(update={"target_tokens": "morphology.embedding"})
    with pytest.raises(DataError, match=r"(?s)target tokens from 'morphology.embedding'.*--tokens"):
        train(tmp_path / "set", recipe=blind, fold="C", outdir=tmp_path / "blind")
    other = recipe.model_copy(update={"method": "alignst", "options": {}})
    with pytest.raises(ConfigError, match="alignst with target tokens"):
        train(tmp_path / "set", recipe=other, outdir=tmp_path / "alignst")


def test_anchors_stand_beside_the_model_unless_the_recipe_leaves_them_out(made_set: Path, tmp_path: Path) -> None:
    plain = {key: value for key, value in made_recipe().model_dump().items() if key != "controls"}
    assert Recipe.model_validate(plain).controls == ("ridge", "kernel ridge", "extra trees")
    recipe = network_recipe("stnet").model_copy(update={"controls": ("ridge", "extra trees")})
    train(made_set, recipe=recipe, fold="B", outdir=tmp_path / "m")
    evaluation = evaluate(made_set, models=[tmp_path / "m"], outdir=tmp_path / "e")
    pearson = {s.subject: s.figure("pearson").mean for s in evaluation.summaries}
    assert pearson["ridge"] > pearson["stain area"]
    assert pearson["extra trees"] > pearson["stain area"]
