"""Whatever lies in a published data set or the settings of a server, a user reads histocast's own error."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_layouts import WRITERS

from broken_inputs import MEANT, break_in_place, run, write_broken
from histocast.inference.triton import server_command


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_broken(tmp_path_factory.mktemp("broken"))


class Wrong(dict[str, tuple[int, str]]):
    """Calls that ended otherwise than histocast means, and how."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__()
        self.capsys = capsys

    def call(self, case: str, verb: str, options: dict[str, object]) -> None:
        line = [part for option, value in options.items() for part in (option, str(value))]
        code, said = run([verb, *line], self.capsys)
        if code not in MEANT or "Traceback" in said or (code and "error" not in said.lower()):
            self[case] = (code, said[-300:])


@pytest.fixture
def wrong(capsys: pytest.CaptureFixture[str]) -> Wrong:
    return Wrong(capsys)


def one_of_each(folder: Path) -> list[Path]:
    """The files of a folder, one of those that have their ending and their place in common."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return list({(path.relative_to(folder).parts[:2][:-1], *path.suffixes[-2:]): path for path in files}.values())


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_no_foreign_exception_comes_from_a_published_folder(
    layout: str, broken: dict[str, Path], wrong: Wrong, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    WRITERS[layout](folder)
    options = {"--layout": layout, "--folder": folder, "--outdir": tmp_path / "out"}
    if layout == "visium":
        options |= {"--patients": folder / "patients.csv"}
    for option in {"hest1k": ["--metadata"], "visium": ["--patients", "--slides"]}.get(layout, []):
        for kind, path in broken.items():
            wrong.call(f"{option} {kind}", "training-sheet", {**options, option: path})
    for kind, path in broken.items():
        wrong.call(f"--folder {kind}", "training-sheet", {**options, "--folder": path})
    for file in one_of_each(folder):
        for kind in break_in_place(file, broken):
            wrong.call(f"{file.relative_to(folder)} {kind}", "training-sheet", options)
    assert wrong == {}


@pytest.mark.parametrize("variable", [server_command.COMMAND, "HISTOCAST_TRITON_TOKEN_FILE"])
def test_no_foreign_exception_comes_from_the_setting_of_a_server(
    variable: str, broken: dict[str, Path], wrong: Wrong, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken["text"].chmod(0o755)
    for kind, value in {**broken, "blank": " ", "open quote": "a 'b"}.items():
        monkeypatch.setenv(variable, str(value))
        wrong.call(kind, "serve", {"--models": tmp_path})
    assert wrong == {}
