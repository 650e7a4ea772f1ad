"""Whatever is given for any input of a verb of the predict workflow, a user reads histocast's own error: no exception of a library."""

from __future__ import annotations

import gzip
import json
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from histocast import cli

# Exits that histocast means: done, a wrong call, data, absence, output, configuration.
MEANT = {0, 64, 65, 66, 73, 78}
PREDICT_VERBS = ("check", "tile", "encode", "predict", "report", "summarise", "provenance")
# What is given for the inputs that are not broken.
GOOD = {
    "sample": "S1",
    "mpp": 0.5,
}


def write_broken(folder: Path) -> dict[str, Path]:
    """Files of every kind that no verb can use, by kind."""
    kinds = {
        "absent": None,
        "empty": b"",
        "random": np.random.default_rng(0).bytes(3000),
        "text": b"neither,nor\n1,2\n",
        "empty_object": b"{}",
        "other_json": json.dumps({"schema_version": 99, "samples": [{"sample": None}], "encoders": 7}).encode(),
        "deep_json": b"[" * 100_000,
        "nul": b"sample,slide,counts,patient\nS1,a\0b,c,d\n",
        "cut_gzip": gzip.compress(b"a\tb\n" * 1000)[:40],
        "utf16": "sample,slide\n".encode("utf-16"),
    }
    for name, content in kinds.items():
        if content is not None:
            (folder / name).write_bytes(content)
    pq.write_table(pa.table({"gene_id": [None, "ENSG1"], "n": [1.5, float("nan")]}), folder / "parquet")
    (folder / "cut_parquet").write_bytes((folder / "parquet").read_bytes()[:-20])
    with h5py.File(folder / "hdf5.h5ad", "w") as file:
        file["X"] = np.zeros((2, 2))
        file["obs"] = 7
    (folder / "folder").mkdir()
    nested = folder / "full_folder"
    for name in ("bundle.json", "section.json", "train.json", "evaluation.json", "encoder.json", "genes.parquet"):
        (nested / "S1").mkdir(parents=True, exist_ok=True)
        (nested / name).write_bytes(b"{}")
        (nested / "S1" / name).write_bytes(b"\xff\xfe")
    return {path.name: path for path in [*folder.iterdir(), folder / "absent"]}


COMMANDS = typer.main.get_command(cli.app).commands


# Those of them that are text, since they may be objects.
TEXT_INPUTS = {"slide", "spots", "bundle", "genes", "samplesheet"}


def inputs_of(command: Any) -> list[Any]:
    """Options that take a file or folder, or the name of one."""
    return [
        option
        for option in command.params
        if option.name != "outdir" and ("Path" in str(option.type_descriptor.annotation) or option.name in TEXT_INPUTS)
    ]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_broken(tmp_path_factory.mktemp("broken"))


@pytest.fixture
def good(demo_bundle: Path) -> dict[str, object]:
    return {**GOOD, "bundle": demo_bundle}


def value_of(option: Any, good: dict[str, object], path: Path) -> str:
    if option.name in good:
        return str(good[option.name])
    kind = option.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return str(next(iter(kind)).value)
    return "1" if kind in (int, float) else str(path)


@pytest.mark.parametrize("verb", PREDICT_VERBS)
def test_no_foreign_exception_reaches_a_user(
    verb: str,
    broken: dict[str, Path],
    good: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {}
    command = COMMANDS[verb]
    required = [option for option in command.params if option.required and option.name != "outdir"]
    for kind, path in broken.items():
        for changed in inputs_of(command):
            options = [*required, *([] if changed in required else [changed])]
            given = [
                part
                for option in options
                for part in (option.opts[0], str(path) if option is changed else value_of(option, good, path))
            ]
            code, said = run([verb, *given, "--outdir", str(tmp_path / "out")], monkeypatch, capsys)
            if code not in MEANT or "Traceback" in said:
                wrong[kind, changed.name] = (code, said[-300:])
    assert wrong == {}


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["histocast", *arguments])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    return int(ending.value.code or 0), capsys.readouterr().err
