"""A demo slide is what a scanner would write: it opens elsewhere, is the same every time, and costs little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest

from histocast_demo.archive import make_archive
from histocast_demo.paint import STRIP_PX, Painter
from histocast_demo.terrain import (
    CELL_UM,
    COMPARTMENTS,
    SlideRecipe,
    grow_terrain,
    list_demo_recipes,
    list_training_recipes,
    read_latents,
)


@pytest.mark.parametrize("index", [0, 1])
def test_openslide_reads_size_levels_and_resolution(archive: Path, recipes: tuple[SlideRecipe, ...], index: int):
    recipe = recipes[index]
    with openslide.OpenSlide(archive / "slides" / f"{recipe.sample}.tiff") as slide:
        assert slide.dimensions == (recipe.width_px, recipe.height_px)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(recipe.um_per_px, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(recipe.um_per_px, rel=1e-6)
        assert slide.level_count == 3
        assert slide.level_downsamples == pytest.approx((1, 4, 16), rel=0.01)


def test_levels_show_the_same_picture(archive: Path):
    with openslide.OpenSlide(archive / "slides" / "S1.tiff") as slide:
        fine = np.asarray(slide.read_region((400, 400), 0, (1024, 1024)).convert("L"), np.float64)
        coarse = {
            shift: np.asarray(slide.read_region((400 + 4 * shift, 400), 1, (256, 256)).convert("L"), np.float64)
            for shift in (-1, 0, 1)
        }
    reduced = fine.reshape(256, 4, 256, 4).mean(axis=(1, 3))
    distance = {shift: np.abs(reduced - picture).mean() for shift, picture in coarse.items()}
    assert distance[0] < 5
    assert distance[0] < 0.6 * min(distance[-1], distance[1])


def test_a_recipe_decides_every_byte(archive: Path, recipes: tuple[SlideRecipe, ...], tmp_path: Path):
    make_archive(tmp_path, recipes=recipes)
    for name in ("samplesheet.csv", "slides/S1.tiff", "slides/S2.tiff", "truth/S1.npz", "truth/S2.npz"):
        assert (tmp_path / name).read_bytes() == (archive / name).read_bytes(), name


def test_another_seed_is_another_tissue(recipes: tuple[SlideRecipe, ...]):
    first, second = (grow_terrain(recipe).logits for recipe in (recipes[0], recipes[0].model_copy(update={"seed": 99})))
    assert abs(np.corrcoef(first[0].ravel(), second[0].ravel())[0, 1]) < 0.5


def test_no_two_slides_share_a_seed():
    seeds = [recipe.seed for seed in (0, 1, 2) for recipe in (*list_demo_recipes(seed), *list_training_recipes(seed))]
    assert len(set(seeds)) == len(seeds)


def test_strips_join_without_seams(recipes: tuple[SlideRecipe, ...]):
    painter = Painter(recipes[1], grow_terrain(recipes[1]))
    strips = list(painter.paint_strips())
    joined = np.concatenate(strips[2:4])
    at_once = painter._paint(2 * STRIP_PX, 2 * STRIP_PX)
    assert np.abs(joined.astype(int) - at_once.astype(int)).max() <= 2


def test_pixels_follow_the_latents(archive: Path):
    latents, _ = read_latents(archive / "truth" / "S1.npz")
    with openslide.OpenSlide(archive / "slides" / "S1.tiff") as slide:
        image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"), np.float64)
    cell_px = round(CELL_UM / latents.um_per_px)
    rows, columns = image.shape[0] // cell_px, image.shape[1] // cell_px
    cells = image[: rows * cell_px, : columns * cell_px].reshape(rows, cell_px, columns, cell_px, 3).mean(axis=(1, 3))
    shares = latents.shares[:, :rows, :columns] / 255
    seen = {name: cells[share > 0.97].mean(axis=0) for name, share in zip(COMPARTMENTS, shares, strict=True)} | {
        "glass": cells[shares.sum(axis=0) < 0.02].mean(axis=0)
    }
    assert seen["glass"].min() > 235
    assert seen["adipose"].min() > 215
    # Nuclei absorb red, collagen does not; both absorb green.
    assert seen["tumour"][0] < seen["stroma"][0] - 25
    assert seen["immune"][0] < seen["stroma"][0] - 25
    assert seen["stroma"][1] < 200
    assert seen["necrosis"][0] > seen["tumour"][0] + 15


PAINT = """
import resource, sys
from pathlib import Path
from histocast_demo.paint import Painter
from histocast_demo.paint import write_pyramid
from histocast_demo.terrain import SlideRecipe
from histocast_demo.terrain import grow_terrain
recipe = SlideRecipe(sample="M", seed=5, width_px=1536, height_px=int(sys.argv[1]), um_per_px=0.5)
write_pyramid(Path(sys.argv[2]) / "m.tiff", Painter(recipe, grow_terrain(recipe)).paint_strips(), recipe)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_memory_does_not_grow_with_the_pixels(root: Path, tmp_path: Path):
    peak_bytes = {}
    for height_px in (2048, 20480):
        command = [sys.executable, "-c", PAINT, str(height_px), str(tmp_path)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root / "python")}
        )
        peak_bytes[height_px] = int(done.stdout)
    # Ten times the image (94 MB of pixels) may cost its coarse fields and its quarter-size level, no more.
    assert peak_bytes[20480] - peak_bytes[2048] < 50e6


def test_the_slides_of_the_test_profile_are_those_of_their_script(root: Path, tmp_path: Path):
    sys.path.insert(0, str(root / "assets"))
    from make_test_slides import make_test_slides

    make_test_slides(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (root / "assets" / "test" / path.name).read_bytes()
    committed = sum(path.stat().st_size for path in (root / "assets" / "test").iterdir())
    assert committed < 2_000_000
