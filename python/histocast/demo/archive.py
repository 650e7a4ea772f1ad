"""Makes the demo archive, and slides with measured spots to train on.

OUTDIR/samplesheet.csv  slides/<sample>.tiff  truth/<sample>.npz          make_archive
OUTDIR/training.csv     slides/  spots/<sample>.csv  counts/<sample>.h5ad  truth/    make_training_set
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import write_atomically
from histocast.demo.expression import average_tissue, draw_counts, list_genes
from histocast.demo.paint import STRIP_PX, Painter
from histocast.demo.pyramid import write_pyramid
from histocast.demo.recipes import SlideRecipe, list_demo_recipes, list_training_recipes
from histocast.demo.terrain import Latents, grow_terrain, make_latents, write_latents
from histocast.progress import Meter
from histocast.resources import available_threads

SPOT_PITCH_UM = 112.0
"""Distance of measured spots: that of the demo bundle's grid."""

MIN_TISSUE = 0.5
"""Share of a spot's disc that must be tissue for it to be measured."""


def _count(strips: Iterator[NDArray[np.uint8]], meter: Meter) -> Iterator[NDArray[np.uint8]]:
    # Counted before it is taken, because the writer never asks for a strip after the last.
    for strip in strips:
        meter.advance()
        yield strip


def make_slide(recipe: SlideRecipe, outdir: Path) -> Latents:
    """Paint one slide to ``slides/`` and store its truth in ``truth/``; return the truth."""
    terrain = grow_terrain(recipe)
    latents = make_latents(terrain, um_per_px=recipe.um_per_px)
    with Meter(f"paint {recipe.sample}", total=-(-recipe.height_px // STRIP_PX), unit="strips") as meter:
        write_pyramid(
            outdir / "slides" / f"{recipe.sample}.tiff",
            _count(Painter(recipe, terrain).paint_strips(), meter),
            width_px=recipe.width_px,
            height_px=recipe.height_px,
            um_per_px=recipe.um_per_px,
            threads=available_threads(),
        )
    write_latents(outdir / "truth" / f"{recipe.sample}.npz", latents, seed=recipe.seed)
    return latents


def lay_spots(recipe: SlideRecipe, latents: Latents) -> NDArray[np.float64]:
    """Centres [spot, 2] (x, y) in level-0 pixels of a square array of spots, where tissue lies under them."""
    pitch_px = SPOT_PITCH_UM / recipe.um_per_px
    x = np.arange(pitch_px, recipe.width_px - pitch_px / 2, pitch_px)
    y = np.arange(pitch_px, recipe.height_px - pitch_px / 2, pitch_px)
    points = np.round(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), 1)
    return points[average_tissue(latents, points) >= MIN_TISSUE]


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_counts(path: Path, names: Sequence[str], counts: NDArray[np.int64]) -> None:
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    genes = list_genes()
    data = anndata.AnnData(
        X=csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(index=list(names)),
        var=pd.DataFrame({"gene_symbol": [g.symbol for g in genes]}, index=[g.gene_id for g in genes]),
    )
    with write_atomically(path) as temporary:
        data.write_h5ad(temporary, compression="gzip")


def make_archive(outdir: Path, *, seed: int = 0, recipes: Sequence[SlideRecipe] | None = None) -> Path:
    """Make slides, their samplesheet and their hidden truth; return the samplesheet.

    Parameters
    ----------
    outdir:
        Folder to fill.
    seed:
        Decides everything random.
    recipes:
        Slides to make; the three of `list_demo_recipes` where none are given.

    Raises
    ------
    OutputError
        The folder cannot be written or the disk is full.
    """
    recipes = list_demo_recipes(seed) if recipes is None else recipes
    for recipe in recipes:
        make_slide(recipe, outdir)
    sheet = outdir / "samplesheet.csv"
    _write_rows(sheet, ("sample", "slide"), [(r.sample, f"slides/{r.sample}.tiff") for r in recipes])
    return sheet


def make_training_set(outdir: Path, *, seed: int = 0, recipes: Sequence[SlideRecipe] | None = None) -> Path:
    """Make slides with measured spots and counts; return the training sheet.

    Every slide is a patient of its own, so that folds by patient are folds by slide.

    Parameters
    ----------
    outdir:
        Folder to fill.
    seed:
        Decides everything random.
    recipes:
        Slides to make; the five of `list_training_recipes` where none are given.

    Raises
    ------
    OutputError
        The folder cannot be written or the disk is full.
    """
    recipes = list_training_recipes(seed) if recipes is None else recipes
    for recipe in recipes:
        latents = make_slide(recipe, outdir)
        points = lay_spots(recipe, latents)
        names = [f"{recipe.sample}-{number}" for number in range(len(points))]
        spots = [(f"{x:.1f}", f"{y:.1f}", name) for (x, y), name in zip(points, names, strict=True)]
        _write_rows(outdir / "spots" / f"{recipe.sample}.csv", ("x", "y", "spot"), spots)
        _write_counts(
            outdir / "counts" / f"{recipe.sample}.h5ad", names, draw_counts(latents, points, seed=recipe.seed)
        )
    sheet = outdir / "training.csv"
    rows = [
        (r.sample, f"slides/{r.sample}.tiff", f"counts/{r.sample}.h5ad", r.sample, f"spots/{r.sample}.csv")
        for r in recipes
    ]
    _write_rows(sheet, ("sample", "slide", "counts", "patient", "spots"), rows)
    return sheet
