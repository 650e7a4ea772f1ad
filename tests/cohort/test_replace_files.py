"""Whatever interrupts the writing of a cohort, its folder holds the old files, or the next call finishes the new ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histocast.cohort import replace_files as module
from histocast.cohort.find_results import COHORT_FILES, EarlierCohort, find_results
from histocast.cohort.replace_files import finish_replacing, replace_files
from histocast.errors import OutputError

NAMES = ("matrix", "scores", "table")
OLD = {name: f"old {name}" for name in NAMES}
NEW = {name: f"new {name}" for name in NAMES if name != "scores"}
STEPS = 12
"""At least as many changes of the file system as replacing takes."""


def write_new(outdir: Path) -> None:
    with replace_files(outdir, NAMES) as folder:
        for name, text in NEW.items():
            (folder / name).write_text(text)


def content(outdir: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in outdir.iterdir() if path.is_file()}


class Killed(BaseException):
    """The process is gone: nothing after it runs, clean-up included."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From this change of the file system on nothing is done any more. Return the changes that are asked for."""
    asked: list[str] = []

    def guard(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*given: Any, **options: Any) -> Any:
            asked.append(name)
            if len(asked) > step:
                raise Killed
            return real(*given, **options)

        return changed

    for name in ("replace", "rename", "unlink", "mkdir", "rmdir", "write_text"):
        monkeypatch.setattr(Path, name, guard(name, getattr(Path, name)))
    monkeypatch.setattr(module.os, "fsync", guard("fsync", os.fsync))
    monkeypatch.setattr(module.shutil, "rmtree", guard("rmtree", module.shutil.rmtree))
    return asked


@pytest.mark.parametrize("step", range(STEPS + 6))
def test_an_interruption_leaves_the_old_files_or_the_new(tmp_path, monkeypatch, step):
    for name, text in OLD.items():
        (tmp_path / name).write_text(text)
    with monkeypatch.context() as patch:
        asked = killed_at(step, patch)
        try:
            write_new(tmp_path)
        except Killed:
            assert len(asked) > step
    finish_replacing(tmp_path, NAMES)

    found = content(tmp_path)
    assert found in (OLD, NEW)
    if step == 0:
        assert found == OLD
    if len(asked) <= step:
        assert found == NEW
        assert list(tmp_path.glob(".cohort*")) == []

    write_new(tmp_path)
    assert content(tmp_path) == NEW
    assert list(tmp_path.glob(".cohort*")) == []


def test_the_steps_above_reach_beyond_the_last_change(tmp_path, monkeypatch):
    asked = killed_at(10**6, monkeypatch)
    write_new(tmp_path)
    assert {"replace", "rename", "unlink", "rmdir"} <= set(asked)
    assert len(asked) < STEPS + 6


def test_a_failure_leaves_the_old_files(tmp_path):
    (tmp_path / "table").write_text("old")
    with pytest.raises(FileNotFoundError), replace_files(tmp_path, NAMES) as folder:
        folder.joinpath("table").write_bytes((tmp_path / "absent").read_bytes())
    assert content(tmp_path) == {"table": "old"}
    assert list(tmp_path.glob(".cohort*")) == []


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="files of a cohort"), replace_files(tmp_path / "file" / "cohort", NAMES):
        pass


def test_whoever_reads_a_cohort_finishes_it_first(tmp_path):
    whole = tmp_path / module.WHOLE
    whole.mkdir()
    kept = [name for name in COHORT_FILES if name != "signatures.parquet"]
    for name in kept:
        (tmp_path / name).write_text("old")
        (whole / name).write_text("new")
    (tmp_path / "signatures.parquet").write_text("old")
    (whole / "files").write_text("\n".join(kept))
    assert isinstance(find_results(str(tmp_path)), EarlierCohort)
    assert content(tmp_path) == dict.fromkeys(kept, "new")
