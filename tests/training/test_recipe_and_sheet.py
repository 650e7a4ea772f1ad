"""Recipes and training sheets are validated before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histocast.errors import ConfigError, DataError, MissingInputError, UsageError
from histocast.sections.read_training_sheet import read_training_sheet
from histocast.training.read_recipe import read_recipe, shipped_recipes

RECIPE = {"name": "r", "geometry": {"tile_px": 224, "um_per_px": 0.5, "pitch_um": 100}, "panel": ["A", "B"]}
HEADER = "sample,slide,counts,patient,spots,mpp\n"


def write_recipe(folder: Path, **changes: object) -> Path:
    path = folder / "r.json"
    path.write_text(json.dumps({**RECIPE, **changes}))
    return path


def test_a_recipe_takes_its_panel_from_itself_a_file_beside_it_or_the_caller(tmp_path: Path) -> None:
    (tmp_path / "panel.txt").write_text("C\nD\nE\n")
    assert read_recipe(write_recipe(tmp_path)).panel == ("A", "B")
    assert read_recipe(write_recipe(tmp_path, panel="panel.txt")).panel == ("C", "D", "E")
    assert read_recipe(write_recipe(tmp_path), panel=tmp_path / "panel.txt").panel == ("C", "D", "E")


def test_shipped_recipes_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "panel.txt").write_text("ERBB2\n")
    for name in shipped_recipes():
        assert read_recipe(name, panel=tmp_path / "panel.txt").panel == ("ERBB2",)
    assert "her2st" in shipped_recipes()


def test_a_recipe_without_a_panel_asks_for_one() -> None:
    with pytest.raises(UsageError, match="--panel"):
        read_recipe("her2st")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1}, "alpha: Extra inputs"),
        ({"panel": []}, "panel: "),
        ({"panel": ["A", "A"]}, "a gene appears twice"),
        ({"method": "magic"}, "method: "),
        ({"geometry": {"tile_px": 0, "um_per_px": 0.5, "pitch_um": 100}}, "geometry.tile_px"),
    ],
)
def test_a_wrong_recipe_names_the_field(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(write_recipe(tmp_path, **changes))


def test_what_is_no_recipe_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"one of .*her2st"):
        read_recipe("nothing")
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_recipe(tmp_path / "r.json")


def test_a_sheet_is_read_with_paths_from_its_own_folder(tmp_path: Path) -> None:
    sheet = tmp_path / "t.csv"
    sheet.write_bytes(
        b"\xef\xbb\xbf"
        + (HEADER + "C2,img/C2.jpg,/data/C2.tsv,C,spots.tsv,0.69\r\nC3,s3://b/k.svs,c.h5ad,D,,\r\n").encode()
    )
    first, second = read_training_sheet(sheet)
    assert (first.slide, first.counts, first.mpp) == (str(tmp_path / "img/C2.jpg"), "/data/C2.tsv", 0.69)
    assert first.spots == str(tmp_path / "spots.tsv")
    assert (second.slide, second.spots, second.mpp, second.patient) == ("s3://b/k.svs", None, None, "D")


def test_every_fault_of_a_sheet_is_listed_at_once(tmp_path: Path) -> None:
    sheet = tmp_path / "t.csv"
    sheet.write_text(
        HEADER
        + "A,a.svs,a.tsv,P,,zero\nB,,b.tsv,P,,\nA,c.svs,c.tsv,P,,25\n../D,d.svs,d.tsv,P,,\nA,e.svs,e.tsv,P,,\nA,f.svs,f.tsv,P,,\n"
    )
    with pytest.raises(DataError) as caught:
        read_training_sheet(sheet)
    message = str(caught.value)
    for part in ("7 errors", "line 2, column 'mpp'", "line 3, column 'slide'", "line 4, column 'mpp'", "line 5, column 'sample'", "line 7, column 'sample': duplicate sample 'A', first on line 2"):  # fmt: skip
        assert part in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (HEADER, "a header and no rows"),
        ("sample,slide,counts\nA,a,b\n", "column 'patient': the column is missing"),
        ("sample;slide;counts;patient\nA;a;b;P\n", "columns are separated by semicolons"),
        ("sample,slide,counts,patient,age\nA,a,b,P,70\n", "column 'age': an unknown column"),
        ("sample,slide,counts,patient\nA,a,b,P,x\n", "line 2: 5 cells"),
        ("sample,slide,counts,patient\nA,gs://lab/a,b,P\n", "column 'slide': a gs:// address"),
        ("sample,slide,counts,patient\nA,a,az://lab/b,P\n", "column 'counts': a az:// address"),
    ],
)
def test_a_wrong_sheet_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_training_sheet(tmp_path / "t.csv")
