"""Make the slides of ``-profile test`` again: ``python assets/make_test_slides.py``.

Two synthetic slides of about a square millimetre, of tissue that the demo bundle knows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from histocast_demo.archive import make_slide
from histocast_demo.terrain import FAINT, PURPLE, SlideRecipe

RECIPES = (
    SlideRecipe(sample="A", seed=9001, width_px=2048, height_px=1792, um_per_px=0.5, stain=PURPLE),
    SlideRecipe(sample="B", seed=9002, width_px=1792, height_px=2048, um_per_px=0.5, stain=FAINT),
)


def make_test_slides(outdir: Path) -> None:
    """Write OUTDIR/<sample>.tiff."""
    with tempfile.TemporaryDirectory(dir=outdir) as folder:
        for recipe in RECIPES:
            make_slide(recipe, Path(folder))
            name = f"{recipe.sample}.tiff"
            (Path(folder) / "slides" / name).replace(outdir / name)


if __name__ == "__main__":
    make_test_slides(Path(__file__).parent / "test")
