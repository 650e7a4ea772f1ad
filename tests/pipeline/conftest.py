"""Real runs of the pipeline: Nextflow, the command line and small slides, in folders of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from made_slides import Recipe, paint_arrays, write_slide
from pipeline_runs import Launcher


@pytest.fixture(scope="session")
def nextflow(root: Path) -> str:
    """The launcher of Nextflow: that of PATH, else the one `make setup` brought."""
    found = shutil.which("nextflow", path=f"{os.environ['PATH']}:{root / '.tools' / 'bin'}")
    if found is None:
        pytest.skip("nextflow is absent: make setup")
    return found


@pytest.fixture
def launch(root: Path, nextflow: str, tmp_path: Path) -> Launcher:
    """A launcher in an empty folder."""
    return Launcher(root, tmp_path, nextflow)


@pytest.fixture(scope="session")
def bundle(root: Path) -> Path:
    """The bundle that comes with the pipeline."""
    return root / "assets" / "demo-bundle"


@pytest.fixture(scope="session")
def make_slide() -> Callable[..., Path]:
    """Writer of small stained slides: ``make_slide(path, seed=1)``."""
    return write_stained_slide


def write_stained_slide(path: Path, *, seed: int, side_px: int = 1500) -> Path:
    """Write a slide with a disc of pink tissue and dark nuclei on it, 0.5 um/px."""
    random = np.random.default_rng(seed)
    pixels = np.full((side_px, side_px, 3), 242, np.uint8)
    tissue = np.zeros((side_px, side_px), np.uint8)
    cv2.circle(tissue, (side_px // 2, side_px // 2), int(side_px * 0.42), 1, thickness=-1)
    texture = random.normal(0, 9, (side_px, side_px, 1))
    pink = np.clip(np.array([214, 140, 178]) + texture, 0, 255).astype(np.uint8)
    pixels[tissue == 1] = pink[tissue == 1]
    for x_px, y_px in random.integers(0, side_px, (side_px * 2, 2)):
        if tissue[y_px, x_px]:
            cv2.circle(pixels, (int(x_px), int(y_px)), int(random.integers(4, 9)), (84, 52, 128), thickness=-1)
    recipe = Recipe(side_px, side_px, layout="generic", um_per_px=0.5, tile_px=(256, 256))
    return write_slide(path, recipe, paint_arrays(pixels))
