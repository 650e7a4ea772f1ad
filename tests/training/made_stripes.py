"""Sections whose expression follows the texture of the tiles, which the mean colour does not show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from known_encoders import write_exported_encoder

SIDE, PITCH_PX, TILE_PX = 8, 40, 32
GENES = ("UP", "DOWN", "FLAT")
SAMPLES = ("S1", "S2", "S3")


def make_stripes(folder: Path) -> Path:
    """Slides, spots, counts, an encoder of mean colours, and a recipe that names it; returns the recipe."""
    write_exported_encoder(folder / "uni", tile_px=TILE_PX)
    rows = ["sample,slide,counts,patient,spots,mpp"]
    for number, sample in enumerate(SAMPLES):
        random = np.random.default_rng(number)
        # Never so faint that a tile would count as out of focus, and enter no statistic of its slide.
        contrast = random.uniform(15, 90, (SIDE, SIDE))
        # One pixel light, one dark: every tile has the same mean colour.
        sign = np.where((np.indices((SIDE * PITCH_PX,) * 2).sum(axis=0) // 4) % 2, 1, -1)
        grey = 140 + sign * np.kron(contrast, np.ones((PITCH_PX, PITCH_PX)))
        # A stain of one strength everywhere: a slide without any colour would be refused.
        pixels = grey[..., None] + np.array([8, -8, 4]) + random.normal(scale=3, size=(*grey.shape, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{sample}.png")
        grid = [(x, y) for y in range(SIDE) for x in range(SIDE)]
        centres = [f"{x}\t{y}\t{(x + 0.5) * PITCH_PX}\t{(y + 0.5) * PITCH_PX}" for x, y in grid]
        (folder / f"{sample}_spots.tsv").write_text("x\ty\tpixel_x\tpixel_y\n" + "\n".join(centres) + "\n")
        seen = np.array([contrast[y, x] for x, y in grid])[:, None]
        counts = random.poisson(np.concatenate([20 + 2 * seen, 200 - 2 * seen, 60 + 0 * seen], axis=1))
        lines = ["\t".join(["", *GENES])]
        lines += [f"{x}x{y}\t" + "\t".join(map(str, row)) for (x, y), row in zip(grid, counts, strict=True)]
        (folder / f"{sample}.tsv").write_text("\n".join(lines) + "\n")
        rows.append(f"{sample},{sample}.png,{sample}.tsv,{sample},{sample}_spots.tsv,0.5")
    (folder / "training.csv").write_text("\n".join(rows) + "\n")
    recipe = {
        "name": "stripes",
        "geometry": {"tile_px": TILE_PX, "um_per_px": 0.5, "pitch_um": 20.0},
        "features": ["uni.embedding"],
        "exported": {"uni": "uni"},
        "panel": GENES,
        "method": "dkan",
        "options": {
            "model": {"trunk": {"dim": 16}, "gene_text": False},
            "training": {"epochs": 6, "patience": 6, "average": 0.8, "steps_per_region": 6, "spots_per_step": 32},
            "encoder": {"name": "resnet50_layer2", "learning_rate": 1e-3},
        },
    }
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe))
    return path
