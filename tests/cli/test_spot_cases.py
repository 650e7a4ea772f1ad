"""What arrays of measured spots come to through the verb ``prepare``: places of their own, or a refusal with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from histocast.cli import read_stage
from histocast.errors import DataError
from histocast.fusion.lattice import grid_coordinates
from histocast.sections.section import open_section
from stained_sections import GENES, write_ridge_recipe, write_stained_slide

Points = Sequence[tuple[float, float]]
PITCH_PX = 112.0


def square(pitch_px: float) -> Points:
    return [(750 + pitch_px * x, 750 + pitch_px * y) for x in range(-3, 4) for y in range(-3, 4)]


def hexagonal() -> Points:
    rows = [(x, y) for x in range(-3, 4) for y in range(-3, 4)]
    return [(750 + PITCH_PX * (x + y % 2 / 2), 750 + PITCH_PX * y * np.sqrt(0.75)) for x, y in rows]


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Path]:
    """Run the verb on spots of which the first ``counted`` have counts; return the section's folder."""

    def run(points: Points, counted: int | None = None) -> Path:
        write_stained_slide(tmp_path / "T.tiff", seed=0)
        names = [f"T-{number}" for number in range(len(points))]
        spots = ["spot,x,y", *(f"{name},{x:.2f},{y:.2f}" for name, (x, y) in zip(names, points, strict=True))]
        (tmp_path / "spots.csv").write_text("\n".join(spots) + "\n")
        rows = [[name, *("3" for _ in GENES)] for name in names[:counted]]
        (tmp_path / "counts.csv").write_text("\n".join(",".join(row) for row in [["", *GENES], *rows]) + "\n")
        (tmp_path / "sheet.csv").write_text("sample,slide,counts,patient,spots\nT,T.tiff,counts.csv,P,spots.csv\n")
        recipe = write_ridge_recipe(tmp_path / "recipe.json")
        given = ("--input", str(tmp_path / "sheet.csv"), "--recipe", str(recipe), "--outdir", str(tmp_path / "set"))
        read_stage(["prepare", *given]).run()
        return tmp_path / "set" / "T"

    return run


@pytest.mark.parametrize("points", [square(PITCH_PX), hexagonal()], ids=["square", "hexagonal"])
def test_no_two_spots_share_a_place(points: Points, prepare: Callable[..., Path]) -> None:
    with open_section(prepare(points)) as section:
        places = grid_coordinates(section.store.array_row, section.store.array_col)
        assert len(section.measured) == len(points)
    assert len(np.unique(places, axis=0)) == len(points)


@pytest.mark.parametrize(
    ("points", "counted", "reason"),
    [
        (square(PITCH_PX * 0.15), None, r"0\.15 times the recipe's"),
        (square(PITCH_PX * 2), None, r"times the recipe's"),
        (square(PITCH_PX), 10, r"20% of the tiles in tissue have counts"),
    ],
    ids=["too near", "too far", "hardly matched"],
)
def test_spots_that_do_not_fit_are_refused(
    points: Points, counted: int | None, reason: str, prepare: Callable[..., Path]
) -> None:
    with pytest.raises(DataError) as refusal:
        prepare(points, counted)
    assert re.search(reason, refusal.value.message), refusal.value.message
