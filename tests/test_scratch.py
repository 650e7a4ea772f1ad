"""Scratch folders: where they are made, and that they go."""

from __future__ import annotations

from pathlib import Path

import pytest

from histocast.errors import OutputError
from histocast.resources import scratch_folder


@pytest.fixture(autouse=True)
def system_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the system keeps temporary files, and no scratch disk."""
    folder = tmp_path / "system"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.delenv("HISTOCAST_SCRATCH", raising=False)
    return folder


def test_the_scratch_disk_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOCAST_SCRATCH", str(tmp_path / "disk" / "new"))
    with scratch_folder(tmp_path / "out") as folder:
        assert folder.parent == tmp_path / "disk" / "new"
        (folder / "large.bin").write_bytes(b"x")
    assert not folder.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("said", [None, ""])
def test_without_a_scratch_disk_it_lies_beside_the_outputs(
    said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if said is not None:
        monkeypatch.setenv("HISTOCAST_SCRATCH", said)
    with scratch_folder(tmp_path / "out") as folder:
        assert folder.parent == tmp_path / "out"


def test_where_nothing_is_said_it_lies_with_the_systems_temporary_files(system_folder: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == system_folder


def test_a_place_that_is_no_folder_is_an_error_of_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HISTOCAST_SCRATCH", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="HISTOCAST_SCRATCH"), scratch_folder(tmp_path):
        pass
