"""Whatever is given for any input of a verb of the predict workflow, a user reads histocast's own error: no exception of a library."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import typer

from broken_inputs import MEANT, run, write_broken
from histocast import cli

PREDICT_VERBS = ("check", "tile", "encode", "predict", "report", "summarise", "provenance")
# What is given for the inputs that are not broken.
GOOD = {
    "sample": "S1",
    "mpp": 0.5,
}


COMMANDS = typer.main.get_command(cli.app).commands


# Those of them that are text, since they may be objects.
TEXT_INPUTS = {"slide", "spots", "bundle", "genes", "input"}


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
            code, said = run([verb, *given, "--outdir", str(tmp_path / "out")], capsys)
            if code not in MEANT or "Traceback" in said:
                wrong[kind, changed.name] = (code, said[-300:])
    assert wrong == {}
