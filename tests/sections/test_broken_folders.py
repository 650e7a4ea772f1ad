"""Whatever lies in a published data set, an archive of the demo or the settings of a server, a user reads histocast's own error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_layouts import WRITERS

from broken_inputs import MEANT, break_in_place, run, write_broken
from histocast import cli
from histocast.artifacts import EXPRESSION, write_table
from histocast.inference.triton import server_command
from histocast.records import Provenance
from histocast_demo.__main__ import main as demo
from histocast_demo.expression import list_genes
from histocast_demo.terrain import COMPARTMENTS, Latents, write_latents


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_broken(tmp_path_factory.mktemp("broken"))


class Wrong(dict[str, tuple[int, str]]):
    """Calls that ended otherwise than histocast means, and how."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__()
        self.capsys = capsys

    def call(self, case: str, verb: str, options: dict[str, object], main: Callable[[], None] = cli.main) -> None:
        line = [part for option, value in options.items() for part in (option, str(value))]
        code, said = run([verb, *line], self.capsys, main)
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


def write_scored(folder: Path) -> None:
    """An archive of the demo with one slide, and what was predicted of it."""
    random = np.random.default_rng(0)
    (folder / "truth").mkdir(parents=True)
    (folder / "samplesheet.csv").write_text("sample,slide\nS1,S1.tiff\n")
    write_latents(
        folder / "truth" / "S1.npz",
        Latents(
            random.integers(0, 40, (len(COMPARTMENTS), 64, 64)).astype(np.uint8),
            random.integers(0, 255, (64, 64)).astype(np.uint8),
            0.5,
        ),
        seed=1,
    )
    columns = {"sample": ["S1"] * 4, "tile_id": pa.array(range(4), pa.int32())}
    columns |= {name: random.random(4) * 60 for name in ("x_level0_px", "y_level0_px", list_genes().gene_id.iloc[0])}
    (folder / "results" / "S1").mkdir(parents=True)
    made = Provenance(artifact=EXPRESSION.artifact, schema_version=EXPRESSION.version, sample="S1")
    write_table(folder / "results" / "S1" / "S1.parquet", pa.table(columns), made)


def test_no_foreign_exception_comes_from_an_archive_of_the_demo(
    broken: dict[str, Path], wrong: Wrong, tmp_path: Path
) -> None:
    write_scored(tmp_path / "demo")
    options = {"--archive": tmp_path / "demo", "--results": tmp_path / "demo" / "results"}
    wrong.call("good", "score", options, demo)
    for option in options:
        for kind, path in broken.items():
            wrong.call(f"{option} {kind}", "score", {**options, option: path}, demo)
    for file in one_of_each(tmp_path / "demo"):
        for kind in break_in_place(file, broken):
            wrong.call(f"{file.name} {kind}", "score", options, demo)
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
