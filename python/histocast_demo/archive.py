"""Makes the demo archive, and slides with measured spots to train on.

OUTDIR/samplesheet.csv  slides/<sample>.tiff  truth/<sample>.npz          make_archive
OUTDIR/training.csv     slides/  spots/<sample>.csv  counts/<sample>.h5ad  truth/    make_training_set

Both raise `OutputError` where the folder cannot be written or the disk is full. ``seed`` decides everything random.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from histocast.artifacts import write_atomically
from histocast_demo.expression import average_tissue, draw_counts, list_genes
from histocast_demo.paint import Painter, write_pyramid
from histocast_demo.terrain import (
    Latents,
    SlideRecipe,
    grow_terrain,
    list_demo_recipes,
    list_training_recipes,
    make_latents,
    write_latents,
)

SPOT_PITCH_UM = 112.0
"""Distance of measured spots: that of the demo bundle's grid."""

MIN_TISSUE = 0.5
"""Share of a spot's disc that must be tissue for it to be measured."""


def make_slide(recipe: SlideRecipe, outdir: Path) -> Latents:
    """Paint one slide to ``slides/`` and store its truth in ``truth/``; return the truth."""
    terrain = grow_terrain(recipe)
    write_pyramid(outdir / "slides" / f"{recipe.sample}.tiff", Painter(recipe, terrain).paint_strips(), recipe)
    latents = make_latents(terrain, um_per_px=recipe.um_per_px)
    write_latents(outdir / "truth" / f"{recipe.sample}.npz", latents, seed=recipe.seed)
    return latents


def _write_csv(path: Path, table: pd.DataFrame) -> Path:
    with write_atomically(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    return path


def make_archive(outdir: Path, *, seed: int = 0, recipes: Sequence[SlideRecipe] | None = None) -> Path:
    """Make slides (three where no recipes are given), their samplesheet and their hidden truth; return the samplesheet."""
    recipes = list_demo_recipes(seed) if recipes is None else recipes
    for recipe in recipes:
        make_slide(recipe, outdir)
    names = [recipe.sample for recipe in recipes]
    slides = [f"slides/{name}.tiff" for name in names]
    return _write_csv(outdir / "samplesheet.csv", pd.DataFrame({"sample": names, "slide": slides}))


def _measure(recipe: SlideRecipe, latents: Latents, outdir: Path) -> None:
    """Write the spots of a square array under which tissue lies, in level-0 pixels, and their counts."""
    pitch_px = SPOT_PITCH_UM / recipe.um_per_px
    x, y = (np.arange(pitch_px, side - pitch_px / 2, pitch_px) for side in (recipe.width_px, recipe.height_px))
    points = np.round(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), 1)
    points = points[average_tissue(latents, points) >= MIN_TISSUE]
    names = [f"{recipe.sample}-{number}" for number in range(len(points))]
    spots = pd.DataFrame({"x": points[:, 0], "y": points[:, 1], "spot": names})
    _write_csv(outdir / "spots" / f"{recipe.sample}.csv", spots)
    genes = list_genes()
    data = anndata.AnnData(
        X=csr_matrix(draw_counts(latents, points, seed=recipe.seed).astype(np.float32)),
        obs=pd.DataFrame(index=names),
        var=pd.DataFrame({"gene_symbol": list(genes.index)}, index=list(genes.gene_id)),
    )
    with write_atomically(outdir / "counts" / f"{recipe.sample}.h5ad") as temporary:
        data.write_h5ad(temporary, compression="gzip")


def make_training_set(outdir: Path, *, seed: int = 0, recipes: Sequence[SlideRecipe] | None = None) -> Path:
    """Make slides (five where no recipes are given) with measured spots and counts; return the training sheet.

    Every slide is a patient of its own, so that folds by patient are folds by slide.
    """
    recipes = list_training_recipes(seed) if recipes is None else recipes
    for recipe in recipes:
        _measure(recipe, make_slide(recipe, outdir), outdir)
    rows = [
        (r.sample, f"slides/{r.sample}.tiff", f"counts/{r.sample}.h5ad", r.sample, f"spots/{r.sample}.csv")
        for r in recipes
    ]
    return _write_csv(
        outdir / "training.csv", pd.DataFrame(rows, columns=["sample", "slide", "counts", "patient", "spots"])
    )
