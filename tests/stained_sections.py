"""Small stained slides, and sections of them with spots and counts, for whole runs of the pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from made_slides import Pixels, Recipe, paint_arrays, write_slide

GENES = ("KRT8", "COL1A1", "CD3E", "EPCAM", "VIM")
GEOMETRY = {"tile_px": 112, "um_per_px": 0.5, "pitch_um": 56.0}


def write_training_sheet(folder: Path, *, sections: int) -> Path:
    """Write sections of as many patients, and the sheet that names them."""
    rows = ["sample,slide,counts,patient,spots"]
    for number in range(sections):
        name = f"T{number}"
        write_stained_slide(folder / f"{name}.tiff", seed=number)
        write_spots_and_counts(folder, name, seed=number)
        rows.append(f"{name},{name}.tiff,{name}_counts.tsv,P{number},{name}_spots.csv")
    sheet = folder / "training.csv"
    sheet.write_text("\n".join(rows) + "\n")
    return sheet


def write_ridge_recipe(path: Path) -> Path:
    """Write a recipe for ridge on the morphology encoder."""
    content = {"name": "tiny", "geometry": GEOMETRY, "panel": GENES, "method": "ridge", "protocols": ["strict"]}
    path.write_text(json.dumps(content))
    return path


def write_spots_and_counts(folder: Path, name: str, *, seed: int) -> None:
    """Write a table of spots on the tissue, and one of their counts."""
    random = np.random.default_rng(seed)
    centres_px = [(x, y) for y in range(400, 1150, 112) for x in range(400, 1150, 112)]
    spots = ["spot,x,y", *(f"{name}-{index},{x},{y}" for index, (x, y) in enumerate(centres_px))]
    (folder / f"{name}_spots.csv").write_text("\n".join(spots) + "\n")
    counts = random.poisson(lam=(40, 25, 6, 15, 20), size=(len(centres_px), len(GENES)))
    table = ["\t".join(["", *GENES])]
    table += ["\t".join([f"{name}-{index}", *map(str, row)]) for index, row in enumerate(counts)]
    (folder / f"{name}_counts.tsv").write_text("\n".join(table) + "\n")


def write_stained_slide(path: Path, *, seed: int, side_px: int = 1500) -> Path:
    """Write a slide with a disc of pink tissue and dark nuclei on it, 0.5 um/px."""
    recipe = Recipe(side_px, side_px, layout="generic", um_per_px=0.5, tile_px=(256, 256))
    return write_slide(path, recipe, paint_arrays(paint_stained(seed=seed, side_px=side_px)))


def paint_stained(*, seed: int, side_px: int) -> Pixels:
    """Pixels [row, column, 3] of a disc of pink tissue with dark nuclei."""
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
    return pixels
