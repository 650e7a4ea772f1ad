"""What is to be trained is validated and named before anything is encoded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from histocast.artifacts import write_json
from histocast.errors import ConfigError, DataError, MissingInputError, UsageError
from histocast.stages.evaluate import Evaluate
from histocast.stages.plan import Plan as PlanStage
from histocast.stages.stage import Stage
from histocast.stages.train import Train
from histocast.training.plan_models import Plan, plan_models
from histocast.training.read_recipe import read_preparation, read_recipe
from histocast.training.registry import DESIGNS, read_options
from histocast.training.variants import VARIANTS
from several_files import write_mirax


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
        ("residual", "A", ""),
        ("residual", "B", ""),
        ("strict", "all", "ridge"),
    ]
    assert plan.split == "leave one patient out (2 patients)"
    assert len({model.id for model in plan.models}) == len(plan.models)


def test_a_model_says_what_its_task_has_to_ask_for(sheet: Path, recipe: Path) -> None:
    content = {
        **json.loads(recipe.read_text()),
        "method": "dkan",
        "options": {"training": {"device": "cuda", "threads": 3}},
    }
    recipe.write_text(json.dumps(content))

    plan = plan_models(sheet, recipe=recipe, gene_text=sheet)

    assert {(model.device, model.threads) for model in plan.models} == {("cuda", 3)}
    ridge = plan_models(sheet, recipe=recipe, methods=["ridge"])
    assert {(model.device, model.threads) for model in ridge.models} == {("cpu", 1)}


def test_a_variant_is_scored_and_becomes_no_bundle(sheet: Path, recipe: Path) -> None:
    plan = plan_models(sheet, recipe=recipe, methods=["alignst:nuclei"], gene_text=sheet)

    assert folds_of(plan, "alignst:nuclei") == [("strict", "A", ""), ("strict", "B", "")]
    assert plan.encoders == ("morphology", "nuclei")
    assert all(":" not in model.id for model in plan.models)


def test_a_plan_is_all_that_later_stages_need_of_the_choices(sheet: Path, recipe: Path, tmp_path: Path) -> None:
    for name, genes in (("panel.txt", "KRT8\nVIM\n"), ("unseen.txt", "VIM\n"), ("texts.parquet", "texts")):
        (tmp_path / name).write_text(genes)
    files = {"panel": tmp_path / "panel.txt", "gene_text": tmp_path / "texts.parquet"}
    options = ("training.epochs=3",)
    asked = {**files, "unseen_genes": tmp_path / "unseen.txt", "options": options}

    plan = plan_models(sheet, recipe=recipe, methods=["dkan", "alignst:nuclei"], **asked)

    write_json(tmp_path / "plan.json", plan)
    for method in ("dkan", "alignst:nuclei"):
        found = read_recipe(tmp_path / "plan.json", method=method, gene_text=files["gene_text"])
        assert found == plan.recipes[method] == read_recipe(recipe, method=method, **asked)
        assert (found.panel, found.unseen_genes) == (("KRT8",), ("VIM",))
        assert set(found.given) == {"recipe", "genes", "gene_text", "unseen_genes"}
    prepared, encoders, pixels = read_preparation(tmp_path / "plan.json")
    assert (prepared.panel, prepared.method, prepared.given) == (("KRT8", "VIM"), "ridge", {})
    assert (encoders, pixels) == (("morphology", "nuclei"), False)
    assert read_preparation(recipe)[1:] == (("morphology",), False)


def test_a_plan_is_not_followed_with_other_files_or_methods(sheet: Path, recipe: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    write_json(plan, plan_models(sheet, recipe=recipe, methods=["dkan", "ridge"], gene_text=sheet))

    with pytest.raises(ConfigError, match=r"(?s)gene_text with sha256 .*with which it was planned"):
        read_recipe(plan, method="dkan", gene_text=recipe)
    with pytest.raises(UsageError, match="one of those that were planned: dkan, ridge"):
        read_recipe(plan)
    with pytest.raises(UsageError, match="the method 'bleep'"):
        read_recipe(plan, method="bleep")


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
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"folds": 2, "protocols": ["paper"]}))

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


WEIGHTS = {"options": {"encoder": {"name": "resnet18"}}}


@pytest.mark.parametrize(
    ("given", "method", "changes", "used"),
    [
        ("gene_text", "ridge", {}, False),
        ("gene_text", "stnet", {}, False),
        ("gene_text", "dkan:no-gene-text", {}, False),
        ("gene_text", "dkan", {}, True),
        ("encoder_weights", "ridge", {}, False),
        ("encoder_weights", "bleep", {}, False),
        ("encoder_weights", "bleep", WEIGHTS, True),
        ("checkpoints", "ridge", {}, False),
        ("checkpoints", "bleep", {}, True),
    ],
)
def test_what_no_method_uses_is_refused_by_every_verb_and_may_stand_next_to_one_that_does(
    given: str, method: str, changes: dict[str, object], used: bool, sheet: Path, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"method": method.partition(":")[0]} | changes))
    asked = {given: tmp_path / "given"}
    asked[given].write_bytes(b"not looked at")
    # It ends at the set, which is empty, where the choices are in order.
    verbs: list[Stage] = [Train(set=tmp_path / "set", recipe=str(recipe), method=method, outdir=tmp_path, **asked)]
    if given != "checkpoints":
        verbs.append(Evaluate(set=tmp_path / "set", recipe=str(recipe), method=method, outdir=tmp_path, **asked))
    if used:
        for methods in (("ridge", method), (method, "ridge")):
            assert PlanStage(input=sheet, recipe=str(recipe), method=methods, outdir=tmp_path, **asked).run().models
    else:
        with pytest.raises(UsageError, match=f"--{given.replace('_', '-')} would change nothing for {method}"):
            PlanStage(input=sheet, recipe=str(recipe), method=(method,), outdir=tmp_path, **asked).run()
    for verb in verbs:
        with pytest.raises(MissingInputError if used else UsageError):
            verb.run()


def test_choices_next_to_trained_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--method, --option would change nothing"):
        Evaluate(set=tmp_path, model=(tmp_path,), method="ridge", option=("alphas=[1]",)).run()


def test_options_of_every_method_are_validated_in_a_plan(sheet: Path, recipe: Path) -> None:
    for method in ("ridge", *DESIGNS):
        with pytest.raises(ConfigError, match="nosuch"):
            plan_models(sheet, recipe=recipe, methods=[method], options=["nosuch=1"], gene_text=sheet)


def test_one_patient_with_one_section_cannot_be_scored(tmp_path: Path, recipe: Path) -> None:
    sheet = tmp_path / "training.csv"
    sheet.write_text("sample,slide,counts,patient\nA1,a.tiff,a.tsv,A\n")

    with pytest.raises(DataError, match="1 section"):
        plan_models(sheet, recipe=recipe)


def write_sections(folder: Path, **genes: tuple[str, ...]) -> Path:
    """A training sheet of sections with the same spots, each with counts of its own genes."""
    spots = [f"s{at}" for at in range(4)]
    places = "".join(f"{spot},{at % 2 * 100},{at // 2 * 100}\n" for at, spot in enumerate([*spots, "s4"]))
    (folder / "spots.csv").write_text(f"spot,x,y\n{places.replace('s4,0,200', 's4,0,300')}")
    for sample, names in genes.items():
        rows = [[spot, *("1" for _ in names)] for spot in [*spots, "elsewhere"]]
        (folder / f"{sample}.csv").write_text("\n".join(",".join(row) for row in [["", *names], *rows]) + "\n")
    rows = [f"{sample},{sample}.tiff,{sample}.csv,P{sample},spots.csv" for sample in genes]
    (folder / "sections.csv").write_text("\n".join(["sample,slide,counts,patient,spots", *rows]) + "\n")
    return folder / "sections.csv"


PANEL = ("KRT8", "H3-3A", "SEPTIN2", "CD3E")


@pytest.fixture
def panel(tmp_path: Path) -> Path:
    path = tmp_path / "panel.txt"
    path.write_text("\n".join(PANEL) + "\n")
    return path


def test_a_plan_says_what_every_section_measured_of_the_panel(
    recipe: Path, panel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = ("__ambiguous[KRT8+KRT18]", "ERCC-00002", "2-Sep", "in_tissue")
    sections = write_sections(tmp_path, A=PANEL, B=("KRT8", "H3F3A", "SEPT2", *odd))

    plan = plan_models(sections, recipe=recipe, panel=panel)

    first, second = (section.measured for section in plan.sections)
    assert first is not None
    assert second is not None
    assert (first.found, first.absent, first.other_name, first.resolved_by_alias, first.left_out) == (4, (), 0, 0, {})
    assert (second.found, second.absent, second.other_name, second.resolved_by_alias) == (3, ("CD3E",), 2, 2)
    assert second.left_out == {
        "counts of reads that no one gene has": 1,
        "spike-ins": 1,
        "names that a spreadsheet has changed": 1,
        "columns about spots": 1,
    }
    for found in (first, second):
        assert (found.spots, found.spots_without_tile, found.tiles_without_counts) == (4, 1, 1)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    said = capsys.readouterr().err
    assert "plan B: 3 of 4 panel genes measured; 1 masked: CD3E; 3 genes, 2 resolved by an old symbol or alias" in said
    assert "left out: 1 spike-ins" in said
    assert "4 spots matched, 1 counted without a tile, 1 tiles without counts" in said


def test_a_plan_refuses_all_sections_that_cannot_be_used_at_once(recipe: Path, panel: Path, tmp_path: Path) -> None:
    sections = write_sections(tmp_path, A=PANEL, B=("Krt8", "Cd3e", "Vim"), C=("ERCC-00002", "x"), D=PANEL)
    text = (tmp_path / "D.csv").read_text()
    (tmp_path / "D.csv").write_text(text.replace("\ns", "\nother"))

    with pytest.raises(DataError) as caught:
        plan_models(sections, recipe=recipe, panel=panel)

    said = caught.value.message
    assert "3 errors found" in said
    assert "section B cannot be used" in said
    assert "the counts are of another species" in said
    assert "no gene among 2 names (1 spike-ins, 1 columns about spots)" in said
    assert "section D cannot be used" in said
    assert "none of which has a tile" in said


def test_counts_that_a_plan_does_not_see_are_left_to_prepare(
    sheet: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert all(section.measured is None for section in plan_models(sheet, recipe=recipe).sections)
    assert "plan A1: its counts are read in prepare" in capsys.readouterr().err


def test_a_table_of_genes_counts_in_a_plan(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"panel": ["ENSG00000170421"]}))
    sections = write_sections(tmp_path, A=("mine",), B=("KRT8",))
    (tmp_path / "genes.csv").write_text("gene_id,gene_symbol\nENSG00000170421,mine\n")

    with pytest.raises(DataError, match="section A cannot be used"):
        plan_models(sections, recipe=recipe)

    plan = plan_models(sections, recipe=recipe, genes=tmp_path / "genes.csv")
    assert [section.measured.found for section in plan.sections if section.measured] == [1, 1]


def test_the_files_of_each_slide_are_named_and_one_that_lacks_some_is_refused(
    sheet: Path, recipe: Path, tmp_path: Path
) -> None:
    slide = write_mirax(tmp_path / "a.mrxs", np.full((256, 256, 3), 200, np.uint8))
    (tmp_path / "b.tiff").write_bytes(b"II*\0")
    sheet.write_text(sheet.read_text().replace("a.tiff", "a.mrxs").replace("c.tiff", "s3://archive/c.tiff"))

    several, single, stored = plan_models(sheet, recipe=recipe).sections

    assert several.files == (str(slide), str(tmp_path / "a"))
    assert (single.files, single.companions_version) == ((str(tmp_path / "b.tiff"),), None)
    assert (stored.files, stored.companions_version) == ((), None)
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"another")
    assert plan_models(sheet, recipe=recipe).sections[0].companions_version != several.companions_version

    (tmp_path / "a").rename(tmp_path / "elsewhere")
    sheet.write_text(sheet.read_text().replace("c.tiff", "c.mrxs"))
    with pytest.raises(DataError) as caught:
        plan_models(sheet, recipe=recipe)
    assert "slide of sample A1: a MIRAX index file without the folder" in caught.value.message
    assert "slide of sample B1: a slide of several files in a store" in caught.value.message
