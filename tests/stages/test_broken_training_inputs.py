"""Whatever is given for any input of these verbs of the train workflow, a user reads histocast's own error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from broken_inputs import MEANT, break_in_place, run, write_broken
from histocast.artifacts import write_json
from histocast.bundle import Bundle
from histocast.errors import DataError
from histocast.evaluation.evaluate_models import evaluate
from histocast.records import RunRecord
from histocast.release.export_bundle import export_bundle
from histocast.training.checkpoint import load_checkpoint
from histocast.training.train_fold import train
from made_sections import made_recipe, make_training_set
from stained_sections import GENES, write_ridge_recipe, write_stained_slide

RUN = RunRecord(
    pipeline="histocast",
    pipeline_version="0.1.0",
    nextflow_version="24.10.0",
    run_name="calm_curie",
    session_id="7d6b",
    started="2026-03-01T11:00:00Z",
    profile="standard",
    parameters={},
)


@dataclass(frozen=True)
class Call:
    """A command line that is right but for one input at a time."""

    options: dict[str, object]
    given: tuple[str, ...] = ()
    """Options that are given each broken file."""
    files: tuple[Path, ...] = ()
    """Files behind the options, in the place of which each broken file is put."""

    def cases(self, broken: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
        """What is broken, and the arguments."""
        for option in self.given:
            for kind, path in broken.items():
                yield f"{option} {kind}", _line({**self.options, option: path})
        for file in self.files:
            for kind in break_in_place(file, broken):
                yield f"{file.parent.name}/{file.name} {kind}", _line(self.options)


def _line(options: dict[str, object]) -> list[str]:
    return [part for option, value in options.items() for part in (option, str(value))]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_broken(tmp_path_factory.mktemp("broken"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, encoders: Path, encoder_bundle: Bundle) -> Path:
    """What a run of the train workflow leaves, of two small sections."""
    folder = tmp_path_factory.mktemp("good")
    made = make_training_set(folder, encoder_bundle, patients={"A1": "A", "B1": "B"})
    recipe = made_recipe()
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    train(made, recipe=recipe, outdir=folder / "model", fold="A")
    evaluate(made, models=[folder / "model"], outdir=folder / "evaluation")
    shutil.copytree(encoders, folder / "encoders")
    export_bundle(folder / "model", encoders=encoders, outdir=folder / "bundle")
    (folder / "parts" / "B1").mkdir(parents=True)
    shutil.copyfile(made / "B1" / "section.json", folder / "parts" / "B1" / "section.json")
    for name in ("train.json", "bundle.json"):
        shutil.copyfile(folder / "model" / name, folder / "parts" / name)
    write_json(folder / "run.json", RUN)
    _write_slides(folder / "slides")
    return folder


def _write_slides(folder: Path) -> None:
    folder.mkdir()
    write_stained_slide(folder / "T0.tiff", seed=0, side_px=500)
    spots = [f"s{number},{x},{y}" for number, (x, y) in enumerate((x, y) for y in (150, 262) for x in (150, 262, 374))]
    (folder / "spots.csv").write_text("\n".join(["spot,x,y", *spots]) + "\n")
    counts = np.random.default_rng(0).poisson(20, (len(spots), len(GENES)))
    lines = ["\t".join(["", *GENES]), *("\t".join([f"s{at}", *map(str, row)]) for at, row in enumerate(counts))]
    (folder / "counts.tsv").write_text("\n".join(lines) + "\n")
    rows = ["sample,slide,counts,patient,spots", *(f"T{at},T0.tiff,counts.tsv,P{at},spots.csv" for at in range(2))]
    (folder / "training.csv").write_text("\n".join(rows) + "\n")
    write_ridge_recipe(folder / "recipe.json")


def _call(verb: str, good: Path) -> Call:
    slides = good / "slides"
    sheet = {"--input": slides / "training.csv", "--recipe": slides / "recipe.json"}
    made, model, bundle = good / "set" / "A1", good / "model", good / "bundle"
    run_of = {"--run": good / "run.json", "--parts": good / "parts", "--evaluation": good / "evaluation"}
    calls = {
        "plan": Call(sheet, ("--input", "--recipe", "--panel", "--unseen-genes")),
        "evaluate": Call(
            {"--set": good / "set", "--model": model}, ("--set", "--model"), (*_files(model), made / "counts.h5ad")
        ),
        "lineage": Call(
            {**run_of, "--recipe": good / "recipe.json"},
            ("--run", "--parts", "--evaluation", "--recipe", "--panel", "--gene-text", "--unseen-genes"),
            _files(good / "parts"),
        ),
        "repository": Call({"--bundle": bundle}, ("--bundle",), _files(bundle)),
        "prepare": Call(
            {**sheet, "--sample": "T0"},
            ("--input", "--recipe", "--panel", "--genes", "--exported"),
            (slides / "counts.tsv", slides / "spots.csv", slides / "T0.tiff"),
        ),
        "train": Call(
            {"--set": good / "set", "--recipe": good / "recipe.json"},
            ("--set", "--recipe", "--panel", "--unseen-genes"),
            (*_files(made), made / "counts.h5ad"),
        ),
        "export": Call(
            {"--model": model, "--encoders": good / "encoders", "--evaluation": good / "evaluation"},
            ("--model", "--encoders", "--evaluation"),
            (*_files(good / "encoders"), good / "evaluation" / "evaluation.json"),
        ),
    }
    return calls[verb]


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.rglob("*") if path.suffix in {".json", ".parquet", ".onnx"}))


VERBS = ("plan", "prepare", "train", "evaluate", "export", "lineage", "repository")


@pytest.mark.parametrize("verb", VERBS)
def test_no_foreign_exception_reaches_a_user(
    verb: str,
    good: Path,
    broken: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {}
    for case, arguments in _call(verb, good).cases(broken):
        code, said = run([verb, *arguments, "--outdir", str(tmp_path / "out")], capsys)
        if code not in MEANT or "Traceback" in said:
            wrong[case] = (code, said[-300:])
    assert wrong == {}


def test_a_broken_checkpoint_is_refused(broken: dict[str, Path]) -> None:
    for kind, path in broken.items():
        if path.is_file():
            with pytest.raises(DataError, match="damaged checkpoint"):
                load_checkpoint(path, identity=kind)


def test_weights_that_are_none_are_refused(
    broken: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin1").write_bytes("sp\xe9,a\n1,2\n".encode("latin-1"))
    (tmp_path / "wide").write_bytes(b"a," * 200_000)
    for kind, path in {**broken, "latin1": tmp_path / "latin1", "wide": tmp_path / "wide"}.items():
        for ending in (".pt", ".safetensors"):
            weights = path
            if path.is_file():
                weights = tmp_path / f"weights{ending}"
                shutil.copyfile(path, weights)
            line = ["--name", "resnet50", "--weights", str(weights), "--outdir", str(tmp_path / "out")]
            code, said = run(["export-encoder", *line], capsys)
            assert (code in MEANT - {0}, "Traceback" in said) == (True, False), (kind, ending, code, said)


def test_a_link_to_itself_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("loop", "A1.tsv"):
        (tmp_path / name).symlink_to(name)
    (tmp_path / "training.csv").write_text("sample,slide,counts,patient\nS1,a.tiff,A1.tsv,P\nS2,a.tiff,b.tsv,Q\n")
    write_ridge_recipe(tmp_path / "recipe.json")
    for line in (
        ["plan", "--input", "loop", "--recipe", "recipe.json"],
        ["plan", "--input", "training.csv", "--recipe", "recipe.json"],
        ["training-sheet", "--layout", "her2st", "--folder", "loop"],
    ):
        code, said = run([*line, "--outdir", "out"], capsys)
        assert code == 66, (line, code, said)
