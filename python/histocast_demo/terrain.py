"""What a slide is made of, and its hidden landscape: which compartment lies where, and how its fibres run.

Fields live on a coarse grid (8 um a cell). `Terrain` holds what the painter needs; `Latents` is what truth
needs, small enough to store beside the slide: the share of each compartment in every cell.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import write_atomically
from histocast.errors import DataError, MissingInputError
from histocast.records import Record

COMPARTMENTS = ("tumour", "stroma", "immune", "adipose", "necrosis")

CELL_UM = 8.0
"""About a lymphocyte; a 112 um tile spans 14 cells."""

SHARPNESS = 22.0
"""Logits per standard deviation of a field: borders between compartments are then about one cell wide."""

EDGE_UM = 3.0
"""Width of the border between tissue and glass."""

Colour = tuple[float, float, float]
Field = NDArray[np.float32]


class Stain(Record):
    """Optical density of one unit of each dye in red, green and blue, and RGB of the empty slide."""

    haematoxylin: Colour = (0.62, 0.70, 0.36)
    eosin: Colour = (0.13, 0.86, 0.46)
    haematoxylin_strength: float = 1.0
    eosin_strength: float = 1.0
    glass: Colour = (244.0, 243.0, 245.0)


class Mix(Record):
    """How readily each compartment wins against stroma; one unit is a standard deviation of its field."""

    tumour: float = 0.0
    immune: float = 0.0
    adipose: float = -0.6
    necrosis: float = -0.3


class SlideRecipe(Record):
    """Everything that decides a synthetic slide."""

    sample: str
    seed: int
    """Of the terrain, the nuclei and the expression noise."""
    width_px: int
    height_px: int
    um_per_px: float
    stain: Stain = Stain()
    mix: Mix = Mix()
    island: tuple[float, float] = (0.43, 0.42)
    """Half-axes of the tissue as shares of the slide's width and height; above 0.5 it is cut by the edge."""
    pen: Literal["blue", "green", "black"] | None = None
    out_of_focus: tuple[float, float, float] | None = None
    """Centre and radius of a round blurred patch: x and radius as shares of the width, y of the height."""


PURPLE = Stain(haematoxylin=(0.58, 0.73, 0.37), eosin=(0.12, 0.88, 0.42))
PINK = Stain(haematoxylin=(0.66, 0.66, 0.34), eosin=(0.10, 0.84, 0.52), haematoxylin_strength=0.92)
FAINT = Stain(haematoxylin_strength=0.5, eosin_strength=0.34, glass=(246.0, 245.0, 243.0))
DEEP = Stain(eosin=(0.15, 0.90, 0.40), haematoxylin_strength=1.12, eosin_strength=1.18)
WARM = Stain(haematoxylin=(0.64, 0.69, 0.33), eosin=(0.11, 0.80, 0.56), glass=(245.0, 241.0, 238.0))


def list_demo_recipes(seed: int) -> tuple[SlideRecipe, ...]:
    """The three slides of the demo archive: fat; a pen mark and a blurred patch; a faint stain cut by the edge."""
    looks = (
        (7000, 6200, 0.5, {"stain": PURPLE, "mix": Mix(adipose=0.1, necrosis=-0.5)}),
        (
            7400,
            6900,
            0.4536,
            {"stain": PINK, "mix": Mix(immune=0.35), "pen": "blue", "out_of_focus": (0.27, 0.33, 0.12)},
        ),
        (6100, 6600, 0.5, {"stain": FAINT, "mix": Mix(tumour=0.1, necrosis=-0.2), "island": (0.43, 0.54)}),
    )
    return tuple(
        SlideRecipe(sample=f"D{n}", seed=1000 * seed + n, width_px=width, height_px=height, um_per_px=um_per_px, **look)
        for n, (width, height, um_per_px, look) in enumerate(looks, start=1)
    )


def list_training_recipes(seed: int) -> tuple[SlideRecipe, ...]:
    """Five slides to train on: other seeds, other stains, every compartment on several of them."""
    looks = (
        (Stain(), Mix(adipose=0.2)),
        (PURPLE, Mix(tumour=0.2, necrosis=0.3)),
        (WARM, Mix(immune=0.5, adipose=-0.2)),
        (DEEP, Mix(tumour=-0.3, immune=0.2, adipose=0.4)),
        (FAINT, Mix(tumour=0.1, necrosis=0.2, adipose=0.1)),
    )
    size = {"width_px": 5200, "height_px": 5000, "um_per_px": 0.5, "island": (0.46, 0.46)}
    return tuple(
        SlideRecipe(sample=f"T{n}", seed=1000 * seed + 500 + n, stain=stain, mix=mix, **size)
        for n, (stain, mix) in enumerate(looks, start=1)
    )


@dataclass(frozen=True)
class Terrain:
    """Fields of one slide, float32 [row, column] on cells of `CELL_UM`."""

    logits: Field
    """[compartment, row, column]; the largest wins."""
    glass: Field
    """Logit of seeing glass (outside, lumens, clefts) rather than tissue."""
    grade: Field
    """0 to 1: how large and dark tumour nuclei are."""
    along_um: Field
    """Coordinate along the fibres; ``across_um``: across them."""
    across_um: Field

    @property
    def shares(self) -> Field:
        """[compartment, row, column] share of each compartment; what is missing to 1 is glass."""
        return softmax(self.logits) * (1 - glass_share(self.glass))


@dataclass(frozen=True)
class Latents:
    """What lies where, as expression sees it."""

    shares: NDArray[np.uint8]
    """[compartment, row, column], 255 for a whole cell of it; what is missing to 255 is glass."""
    grade: NDArray[np.uint8]
    """[row, column], 255 for the highest grade."""
    um_per_px: float
    """Of the slide's level 0, so that its pixels can be placed on the grid."""


def make_rng(seed: int, *names: str) -> np.random.Generator:
    """A generator for one purpose: the same whatever else was drawn before."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def smooth_field(shape: tuple[int, int], lengths: tuple[float, float], rng: np.random.Generator) -> Field:
    """Gaussian noise of mean 0 and sd 1, periodic; ``lengths``: sd of the smoothing kernel in cells down and across."""
    rows = np.fft.fftfreq(shape[0])[:, None] * lengths[0]
    columns = np.fft.rfftfreq(shape[1])[None] * lengths[1]
    kernel = np.exp(-2 * np.pi**2 * (rows**2 + columns**2))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * kernel, s=shape)
    field -= field.mean()
    return (field / max(float(field.std()), 1e-12)).astype(np.float32)


def grow_terrain(recipe: SlideRecipe) -> Terrain:
    """The landscape of a slide, decided by its recipe alone."""
    rows, columns = (int(np.ceil(px * recipe.um_per_px / CELL_UM)) + 1 for px in (recipe.height_px, recipe.width_px))
    shape = (rows, columns)

    def field(name: str, length_um: float, rng: np.random.Generator | None = None) -> Field:
        return smooth_field(shape, (length_um / CELL_UM,) * 2, rng or make_rng(recipe.seed, name))

    mix = recipe.mix
    nest = 0.55 * field("region", 520) + 0.8 * field("nest", 110)
    tumour = nest + 0.35 * field("nest detail", 36) - 0.2 + mix.tumour
    core = nest - 1.15 + mix.tumour
    immune = 0.9 * field("immune", 95) + 0.5 * field("immune detail", 28) - 0.95 + mix.immune
    immune -= 0.8 * np.maximum(core, 0)
    adipose = 1.5 * (field("adipose", 210) + 0.35 * field("adipose detail", 70) - 0.9 + mix.adipose)
    necrosis = tumour + 1.6 * (core + 0.3 * field("necrosis detail", 40) - 0.1 + mix.necrosis)
    logits = np.stack([tumour, np.zeros(shape, np.float32), immune, adipose, necrosis])

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

    rng = make_rng(recipe.seed, "fibres")
    angle = rng.uniform(0, np.pi)
    # Collagen wraps around nests: the coordinate across the fibres follows the nest field.
    along = np.cos(angle) * x_um + np.sin(angle) * y_um + 60 * field("", 150, rng)
    across = np.cos(angle) * y_um - np.sin(angle) * x_um + 120 * nest
    return Terrain(
        logits=(SHARPNESS * logits).astype(np.float32),
        glass=np.asarray(np.maximum(outside_um, np.maximum(lumen, vessel)) / EDGE_UM, np.float32),
        grade=(1 / (1 + np.exp(-1.6 * field("grade", 240)))).astype(np.float32),
        along_um=along.astype(np.float32),
        across_um=across.astype(np.float32),
    )


def softmax(logits: Field) -> Field:
    """Shares along the first axis that sum to 1."""
    powers = np.exp(logits - logits.max(axis=0, keepdims=True))
    return np.asarray(powers / powers.sum(axis=0, keepdims=True), np.float32)


def glass_share(logit: Field) -> Field:
    """Share of glass for its logit."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logit, -30, 30))), np.float32)


def make_latents(terrain: Terrain, *, um_per_px: float) -> Latents:
    """The shares of each compartment that truth is computed from."""
    shares, grade = (np.rint(255 * field).astype(np.uint8) for field in (terrain.shares, terrain.grade))
    return Latents(shares, grade, um_per_px)


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
    MissingInputError, DataError
        There is no such file; it is not a truth file of a demo archive.
    """
    meant = {"expected": "truth/<sample>.npz of 'python -m histocast_demo data'", "where": str(path)}
    try:
        with np.load(path) as stored:
            latents = Latents(stored["shares"], stored["grade"], float(stored["um_per_px"]))
            seed = int(stored["seed"])
    except FileNotFoundError as error:
        raise MissingInputError("no such file", **meant) from error
    # zipfile raises the last two for flags that it does not know, and AttributeError is an array without an archive.
    except (
        *(ValueError, KeyError, TypeError, AttributeError, OSError, EOFError),
        *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
    ) as error:
        raise DataError("not the truth of a demo slide", **meant, advice="make the archive again") from error
    if latents.shares.shape != (len(COMPARTMENTS), *latents.grade.shape) or not 0 < latents.um_per_px < np.inf:
        raise DataError("not the truth of a demo slide", **meant, advice="make the archive again")
    return latents, seed
