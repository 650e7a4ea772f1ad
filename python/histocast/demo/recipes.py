"""What each synthetic slide is made of: size, stain, tissue mix and the marks people leave on glass."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from histocast.records import Record

Colour = tuple[float, float, float]


class Stain(Record):
    """How dyes and glass look on one slide."""

    haematoxylin: Colour = (0.62, 0.70, 0.36)
    """Optical density of one unit of haematoxylin in red, green and blue."""
    eosin: Colour = (0.13, 0.86, 0.46)
    """Optical density of one unit of eosin in red, green and blue."""
    haematoxylin_strength: float = Field(default=1.0, gt=0)
    eosin_strength: float = Field(default=1.0, gt=0)
    glass: Colour = (244.0, 243.0, 245.0)
    """RGB of the empty slide."""


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
    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    um_per_px: float = Field(gt=0)
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
    base = 1000 * seed
    return (
        SlideRecipe(
            sample="D1",
            seed=base + 1,
            width_px=7000,
            height_px=6200,
            um_per_px=0.5,
            stain=PURPLE,
            mix=Mix(adipose=0.1, necrosis=-0.5),
        ),
        SlideRecipe(
            sample="D2",
            seed=base + 2,
            width_px=7400,
            height_px=6900,
            um_per_px=0.4536,
            stain=PINK,
            mix=Mix(immune=0.35),
            pen="blue",
            out_of_focus=(0.27, 0.33, 0.12),
        ),
        SlideRecipe(
            sample="D3",
            seed=base + 3,
            width_px=6100,
            height_px=6600,
            um_per_px=0.5,
            stain=FAINT,
            mix=Mix(tumour=0.1, necrosis=-0.2),
            island=(0.43, 0.54),
        ),
    )


def list_training_recipes(seed: int) -> tuple[SlideRecipe, ...]:
    """Five slides to train on: other seeds, other stains, every compartment on several of them."""
    base = 1000 * seed + 500
    stains = (Stain(), PURPLE, WARM, DEEP, FAINT)
    mixes = (
        Mix(adipose=0.2),
        Mix(tumour=0.2, necrosis=0.3),
        Mix(immune=0.5, adipose=-0.2),
        Mix(tumour=-0.3, immune=0.2, adipose=0.4),
        Mix(tumour=0.1, necrosis=0.2, adipose=0.1),
    )
    return tuple(
        SlideRecipe(
            sample=f"T{number}",
            seed=base + number,
            width_px=5200,
            height_px=5000,
            um_per_px=0.5,
            stain=stain,
            mix=mix,
            island=(0.46, 0.46),
        )
        for number, (stain, mix) in enumerate(zip(stains, mixes, strict=True), start=1)
    )
