"""The hidden landscape of a slide: which compartment lies where, and how its fibres run.

Fields live on a coarse grid (8 um a cell). `Terrain` holds what the painter needs; `Latents` is what truth
needs, small enough to store beside the slide: the share of each compartment in every cell.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import write_atomically
from histocast.demo.fields import Field, make_rng, smooth_field
from histocast.demo.recipes import SlideRecipe
from histocast.errors import DataError, MissingInputError

COMPARTMENTS = ("tumour", "stroma", "immune", "adipose", "necrosis")

CELL_UM = 8.0
"""About a lymphocyte; a 112 um tile spans 14 cells."""

SHARPNESS = 22.0
"""Logits a standard deviation of field: borders between compartments are then about one cell wide."""

EDGE_UM = 3.0
"""Width of the border between tissue and glass."""


@dataclass(frozen=True)
class Terrain:
    """Fields of one slide, float32 [row, column] on cells of `CELL_UM`."""

    logits: NDArray[np.float32]
    """[compartment, row, column]; the largest wins."""
    glass: Field
    """Logit of seeing glass (outside, lumens, clefts) rather than tissue."""
    grade: Field
    """0 to 1: how large and dark tumour nuclei are."""
    along_um: Field
    """Coordinate along the fibres, micrometres."""
    across_um: Field
    """Coordinate across the fibres, micrometres."""


@dataclass(frozen=True)
class Latents:
    """What lies where, as expression sees it."""

    shares: NDArray[np.uint8]
    """[compartment, row, column], 255 for a whole cell of it; what is missing to 255 is glass."""
    grade: NDArray[np.uint8]
    """[row, column], 255 for the highest grade."""
    um_per_px: float
    """Of the slide's level 0, so that its pixels can be placed on the grid."""


def _grow_logits(recipe: SlideRecipe, shape: tuple[int, int]) -> tuple[NDArray[np.float32], Field, Field]:
    def field(name: str, length_um: float) -> Field:
        return smooth_field(shape, length=length_um / CELL_UM, rng=make_rng(recipe.seed, name))

    mix = recipe.mix
    region = field("region", 520)
    nest = 0.55 * region + 0.8 * field("nest", 110)
    tumour = nest + 0.35 * field("nest detail", 36) - 0.2 + mix.tumour
    core = nest - 1.15 + mix.tumour
    immune = 0.9 * field("immune", 95) + 0.5 * field("immune detail", 28) - 0.95 + mix.immune
    immune -= 0.8 * np.maximum(core, 0)
    adipose = 1.5 * (field("adipose", 210) + 0.35 * field("adipose detail", 70) - 0.9 + mix.adipose)
    necrosis = tumour + 1.6 * (core + 0.3 * field("necrosis detail", 40) - 0.1 + mix.necrosis)
    logits = np.stack([tumour, np.zeros(shape, np.float32), immune, adipose, necrosis])
    return (SHARPNESS * logits).astype(np.float32), nest, tumour


def _find_glass(recipe: SlideRecipe, shape: tuple[int, int], tumour: Field) -> Field:
    def field(name: str, length_um: float) -> Field:
        return smooth_field(shape, length=length_um / CELL_UM, rng=make_rng(recipe.seed, name))

    height_um, width_um = recipe.height_px * recipe.um_per_px, recipe.width_px * recipe.um_per_px
    y_um, x_um = (np.indices(shape, np.float32) + 0.5) * CELL_UM
    half_x_um, half_y_um = recipe.island[0] * width_um, recipe.island[1] * height_um
    squareness = 2.6
    radius = (np.abs(x_um - width_um / 2) / half_x_um) ** squareness
    radius = (radius + (np.abs(y_um - height_um / 2) / half_y_um) ** squareness) ** (1 / squareness)
    outside_um = (radius - 0.93) * min(half_x_um, half_y_um)
    outside_um += 85 * field("outline", 260) + 26 * field("outline detail", 60)
    # Lumens open inside tumour nests, round and a few tens of micrometres wide; vessels and clefts elsewhere.
    lumen = 42 * (0.9 * field("lumen", 30) + 0.5 * np.clip(tumour, -0.5, 1.2) - 1.75)
    vessel = 45 * (field("vessel", 26) - 2.75)
    return np.asarray(np.maximum(outside_um, np.maximum(lumen, vessel)) / EDGE_UM, np.float32)


def grow_terrain(recipe: SlideRecipe) -> Terrain:
    """The landscape of a slide, decided by its recipe alone."""
    shape = tuple(int(np.ceil(side * recipe.um_per_px / CELL_UM)) + 1 for side in (recipe.height_px, recipe.width_px))
    rows_columns = (shape[0], shape[1])
    logits, nest, tumour = _grow_logits(recipe, rows_columns)
    rng = make_rng(recipe.seed, "fibres")
    angle = rng.uniform(0, np.pi)
    y_um, x_um = (np.indices(rows_columns, np.float32) + 0.5) * CELL_UM
    sway = smooth_field(rows_columns, length=150 / CELL_UM, rng=rng)
    # Collagen wraps around nests: the coordinate across the fibres follows the nest field.
    along = np.cos(angle) * x_um + np.sin(angle) * y_um + 60 * sway
    across = np.cos(angle) * y_um - np.sin(angle) * x_um + 120 * nest
    grade = smooth_field(rows_columns, length=240 / CELL_UM, rng=make_rng(recipe.seed, "grade"))
    return Terrain(
        logits=logits,
        glass=_find_glass(recipe, rows_columns, tumour),
        grade=(1 / (1 + np.exp(-1.6 * grade))).astype(np.float32),
        along_um=along.astype(np.float32),
        across_um=across.astype(np.float32),
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shares along the first axis that sum to 1."""
    powers = np.exp(logits - logits.max(axis=0, keepdims=True))
    return np.asarray(powers / powers.sum(axis=0, keepdims=True), np.float32)


def glass_share(logit: Field) -> Field:
    """Share of glass for its logit."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))), np.float32)


def make_latents(terrain: Terrain, *, um_per_px: float) -> Latents:
    """The shares of each compartment that truth is computed from."""
    shares = softmax(terrain.logits) * (1 - glass_share(terrain.glass))
    return Latents(
        shares=np.rint(255 * shares).astype(np.uint8),
        grade=np.rint(255 * terrain.grade).astype(np.uint8),
        um_per_px=um_per_px,
    )


def write_latents(path: Path, latents: Latents, *, seed: int) -> None:
    """Store latents and the seed of the expression noise as ``.npz``, atomically."""
    with write_atomically(path) as temporary:
        np.savez_compressed(
            temporary, shares=latents.shares, grade=latents.grade, um_per_px=latents.um_per_px, seed=np.int64(seed)
        )


def read_latents(path: Path) -> tuple[Latents, int]:
    """Latents and the seed of the expression noise.

    Raises
    ------
    MissingInputError
        There is no such file.
    DataError
        It is not a truth file of a demo archive.
    """
    try:
        with np.load(path) as stored:
            latents = Latents(stored["shares"], stored["grade"], float(stored["um_per_px"]))
            seed = int(stored["seed"])
    except FileNotFoundError as error:
        raise MissingInputError(
            "no such file", expected="the truth of a demo slide", where=str(path), advice="run 'histocast demo-data'"
        ) from error
    # zipfile raises the last two for flags that it does not know, and AttributeError is an array without an archive.
    except (
        *(ValueError, KeyError, TypeError, AttributeError, OSError, EOFError),
        *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
    ) as error:
        raise _no_truth(path) from error
    if latents.shares.shape != (len(COMPARTMENTS), *latents.grade.shape) or not 0 < latents.um_per_px < np.inf:
        raise _no_truth(path)
    return latents, seed


def _no_truth(path: Path) -> DataError:
    return DataError(
        "not the truth of a demo slide",
        expected="truth/<sample>.npz of 'histocast demo-data'",
        where=str(path),
        advice="make the archive again",
    )
