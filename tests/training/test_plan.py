"""What is to be trained is judged and named before anything is encoded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histocast.errors import ConfigError, DataError, UsageError
from histocast.training import read_recipe
from histocast.training.designs import DESIGNS, read_options
from histocast.training.plan import Plan, plan_models
from histocast.training.variants import VARIANTS


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "training.csv"
    path.write_text("sample,slide,counts,patient\nA1,a.tiff,a.tsv,A\nA2,b.tiff,b.tsv,A\nB1,c.tiff,c.tsv,B\n")
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    geometry = {"tile_px": 112, "um_per_px": 0.5, "pitch_um": 56.0}
    path.write_text(json.dumps({"name": "tiny", "geometry": geometry, "panel": ["KRT8"], "method": "ridge"}))
    return path


def folds_of(plan: Plan, method: str) -> list[tuple[str, str, str]]:
    return [(model.protocol, model.fold, model.bundle) for model in plan.models if model.method == method]


def test_a_method_is_trained_on_every_fold_and_on_all_sections(sheet: Path, recipe: Path) -> None:
    plan = plan_models(sheet, recipe=recipe)

    assert folds_of(plan, "ridge") == [
        ("strict", "A", ""),
        ("strict", "B", ""),
        ("paper", "A", ""),
        ("paper", "B", ""),
        ("strict", "all", "ridge"),
    ]
    assert plan.split == "leave one patient out (2 patients)"
    assert len({model.id for model in plan.models}) == len(plan.models)


def test_a_model_says_what_its_task_has_to_ask_for(sheet: Path, recipe: Path, tmp_path: Path) -> None:
    content = {
        **json.loads(recipe.read_text()),
        "method": "dkan",
        "options": {"training": {"device": "cuda", "threads": 3}},
    }
    recipe.write_text(json.dumps(content))

    plan = plan_models(sheet, recipe=recipe, gene_text=tmp_path / "genes.parquet")

    assert {(model.device, model.threads) for model in plan.models} == {("cuda", 3)}
    ridge = plan_models(sheet, recipe=recipe, methods=["ridge"])
    assert {(model.device, model.threads) for model in ridge.models} == {("cpu", 1)}


def test_a_variant_is_judged_and_becomes_no_bundle(sheet: Path, recipe: Path, tmp_path: Path) -> None:
    plan = plan_models(sheet, recipe=recipe, methods=["alignst:nuclei"], gene_text=tmp_path / "genes.parquet")

    assert folds_of(plan, "alignst:nuclei") == [("strict", "A", ""), ("strict", "B", "")]
    assert plan.encoders == ("morphology", "nuclei")
    assert all(":" not in model.id for model in plan.models)


@pytest.mark.parametrize(("method", "name"), [(method, name) for method in VARIANTS for name in VARIANTS[method]])
def test_every_variant_changes_its_methods_configuration(recipe: Path, method: str, name: str) -> None:
    plain, changed = read_recipe(recipe, method=method), read_recipe(recipe, method=f"{method}:{name}")

    assert changed.label == f"{method}:{name}"
    assert read_options(method, changed.options, where="")[1] != read_options(method, plain.options, where="")[1]


def test_morphology_is_encoded_for_a_control_whatever_the_features(sheet: Path, recipe: Path) -> None:
    content = json.loads(recipe.read_text()) | {"features": ["uni.embedding"], "exported": {"uni": "uni"}}
    recipe.write_text(json.dumps(content))

    assert plan_models(sheet, recipe=recipe).encoders == ("uni", "morphology")


def test_a_published_configuration_brings_the_map_of_nuclei_it_looks_at(sheet: Path, recipe: Path) -> None:
    plain = json.loads(recipe.read_text()) | {"method": "alignst"}

    def encoders(**options: object) -> tuple[str, ...]:
        recipe.write_text(json.dumps(plain | {"options": options}))
        return plan_models(sheet, recipe=recipe, gene_text=sheet).encoders

    assert encoders(configuration="cscc") == encoders(model={"nuclei": True}) == ("morphology", "nuclei")
    assert encoders() == encoders(configuration="cscc", model={"nuclei": False}) == ("morphology",)


def test_a_variant_keeps_the_recipes_other_options(recipe: Path) -> None:
    options = {"model": {"trunk": {"dim": 32}, "distillation": 0.1}, "training": {"epochs": 3}}
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"method": "dkan", "options": options}))

    found = read_recipe(recipe, method="dkan:no-multi-scale").options

    assert found["training"] == {"epochs": 3}
    assert found["model"] == {"trunk": {"dim": 32, "multi_scale": False}, "distillation": 0.1}


def test_sections_keep_their_pixels_where_a_method_trains_its_encoder(sheet: Path, recipe: Path) -> None:
    content = json.loads(recipe.read_text()) | {"method": "stnet", "options": {"encoder": {"name": "resnet18"}}}
    recipe.write_text(json.dumps(content))

    assert plan_models(sheet, recipe=recipe).pixels
    assert plan_models(sheet, recipe=recipe, methods=["ridge", "stnet"]).pixels
    assert not plan_models(sheet, recipe=recipe, methods=["ridge", "bleep"]).pixels

    recipe.write_text(json.dumps(content | {"method": "alignst"}))
    with pytest.raises(ConfigError, match="alignst with the encoder resnet18 trained from pixels"):
        plan_models(sheet, recipe=recipe)


def test_folds_by_number_are_named_by_number(sheet: Path, recipe: Path) -> None:
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"folds": 2}))

    plan = plan_models(sheet, recipe=recipe)

    assert [fold for _, fold, _ in folds_of(plan, "ridge")] == ["1", "2", "1", "2", "all"]
    assert plan.split == "leave one of 2 groups of patients out (2 patients)"


def test_every_method_with_gene_text_has_a_variant_without() -> None:
    reading = {name for name, design in DESIGNS.items() if "gene_text" in design.config.model_fields}

    assert reading == {method for method, variants in VARIANTS.items() if "no-gene-text" in variants}


@pytest.mark.parametrize(
    ("methods", "error", "part"),
    [
        (["dkan:no-text"], ConfigError, "did you mean dkan:no-gene-text?"),
        (["ridge:no-gene-text"], ConfigError, "ridge alone, which has no variants"),
        (["forest"], ConfigError, "method"),
        (["dkan"], ConfigError, "no gene descriptions"),
        (["ridge", "ridge"], UsageError, "each once"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    sheet: Path, recipe: Path, methods: list[str], error: type[Exception], part: str
) -> None:
    with pytest.raises(error, match=part.replace("?", r"\?")):
        plan_models(sheet, recipe=recipe, methods=methods)


def test_one_patient_with_one_section_cannot_be_judged(tmp_path: Path, recipe: Path) -> None:
    sheet = tmp_path / "training.csv"
    sheet.write_text("sample,slide,counts,patient\nA1,a.tiff,a.tsv,A\n")

    with pytest.raises(DataError, match="1 section"):
        plan_models(sheet, recipe=recipe)
