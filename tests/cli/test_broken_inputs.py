"""Whatever is given for any input of a verb of the predict workflow, a user reads histocast's own error: no exception of a library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo

from broken_inputs import MEANT, run, write_broken
from histocast import cli

PREDICT_VERBS = ("check", "tile", "encode", "predict", "report", "summarise", "provenance")
# What is given for the inputs that are not broken.
GOOD = {
    "sample": "S1",
    "mpp": 0.5,
}

# Those of them that are text, since they may be objects.
TEXT_INPUTS = {"slide", "spots", "bundle", "genes", "input"}


def inputs_of(fields: Mapping[str, FieldInfo]) -> list[str]:
    """Options that take a file or folder, or the name of one."""
    return [
        name
        for name, field in fields.items()
        if name != "outdir" and ("Path" in str(field.annotation) or name in TEXT_INPUTS)
    ]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_broken(tmp_path_factory.mktemp("broken"))


@pytest.fixture
def good(demo_bundle: Path) -> dict[str, object]:
    return {**GOOD, "bundle": demo_bundle}


def value_of(name: str, field: FieldInfo, good: dict[str, object], path: Path) -> str:
    if name in good:
        return str(good[name])
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return str(choices[0]) if choices else "1" if field.annotation in (int, float) else str(path)


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
    fields = cli.find_stage(verb).model_fields
    required = [name for name, field in fields.items() if field.is_required() and name != "outdir"]
    for kind, path in broken.items():
        for changed in inputs_of(fields):
            options = [*required, *([] if changed in required else [changed])]
            given = [
                part
                for name in options
                for part in (
                    cli.option_of(name, fields[name]),
                    str(path) if name == changed else value_of(name, fields[name], good, path),
                )
            ]
            code, said = run([verb, *given, "--outdir", str(tmp_path / "out")], capsys)
            if code not in MEANT or "Traceback" in said:
                wrong[kind, changed] = (code, said[-300:])
    assert wrong == {}
