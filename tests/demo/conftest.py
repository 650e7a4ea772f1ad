"""Small synthetic slides, quick to paint."""

from __future__ import annotations

from pathlib import Path

import pytest

from histocast_demo.archive import make_archive
from histocast_demo.terrain import Mix, SlideRecipe

SMALL = (
    SlideRecipe(sample="S1", seed=11, width_px=2203, height_px=1801, um_per_px=0.5, mix=Mix(adipose=0.4)),
    SlideRecipe(
        sample="S2",
        seed=12,
        width_px=1700,
        height_px=2050,
        um_per_px=0.4536,
        pen="green",
        out_of_focus=(0.4, 0.4, 0.15),
    ),
)


@pytest.fixture(scope="session")
def recipes() -> tuple[SlideRecipe, ...]:
    return SMALL


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, recipes: tuple[SlideRecipe, ...]) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    make_archive(folder, recipes=recipes)
    return folder
