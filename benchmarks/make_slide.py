"""Make a pyramidal slide of any size, as ``make_slide.py --width-px 24000 --height-px 24000 OUT.svs`` does.

Pixels are those of CMU-1-Small-Region.svs, repeated, where the shared data lies; else a generated stain-like
texture. Those pixels were compressed hard once (quality 30), which took the sensor's grain; grain is put back
until blocks have the sizes of a 40x scanner's (23 kB at quality 91), because that is what speed depends on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests")]

from histocast.slide import open_slide  # noqa: E402
from histocast.storage import open_source  # noqa: E402
from made_slides import Paint, Pixels, Recipe, halved, write_slide  # noqa: E402

GRAIN_SD = 4.0
"""Grey levels of 255."""


def pattern() -> tuple[Pixels, str]:
    """Return pixels to repeat, RGB uint8 [row, column, 3], and where they come from."""
    data = Path(os.environ.get("HISTOCAST_DATA", ROOT.parent / "shared" / "data"))
    path = data / "slides" / "CMU-1-Small-Region.svs"
    if not path.is_file():
        noise = np.random.default_rng(0).normal(size=(750, 560, 1)).astype(np.float32)
        density = cv2.resize(noise, (2240, 3000), interpolation=cv2.INTER_CUBIC)[..., None]
        return np.clip(235 - 60 * np.abs(density) * [0.6, 1.2, 0.5], 0, 255).astype(np.uint8), "generated"
    with (
        open_source(str(path)) as source,
        open_slide(source, sample="CMU-1", mpp=None, scratch=Path(tempfile.gettempdir())) as slide,
    ):
        side = 1000
        centres = [(500 + x, 500 + y) for y in range(0, 2000, side) for x in range(0, 2000, side)]
        picture = np.empty((2000, 2000, 3), np.uint8)
        for batch in slide.read_tiles(np.array(centres, float), tile_px=side, um_per_px=0.499, threads=1):
            for index, pixels in zip(batch.index, batch.pixels, strict=True):
                left, top = (int(value) - 500 for value in centres[index])
                picture[top : top + side, left : left + side] = pixels
        return picture, "CMU-1-Small-Region.svs"


def repeat(pixels: Pixels, recipe: Recipe) -> Paint:
    """Return a painter that repeats ``pixels`` over the slide, a whole number of blocks a period."""
    width, height = recipe.tile_px
    period = pixels[: pixels.shape[0] // height * height, : pixels.shape[1] // width * width]
    levels = [
        cv2.resize(
            period,
            (
                max(1, round(period.shape[1] * level_width / recipe.width_px)),
                max(1, round(period.shape[0] * level_height / recipe.height_px)),
            ),
            interpolation=cv2.INTER_AREA,
        )
        for level_width, level_height in recipe.level_sizes()
    ]

    def paint(level: int, top: int, left: int, height: int, width: int) -> Pixels:
        array = levels[level]
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        return array[(rows % array.shape[0])[:, None], columns % array.shape[1]]

    return paint


def make_slide(path: Path, recipe: Recipe) -> dict[str, object]:
    """Write the slide and return what it is made of."""
    path.unlink(missing_ok=True)
    pixels, origin = pattern()
    grain = np.random.default_rng(0).normal(scale=GRAIN_SD, size=(*pixels.shape[:2], 1))
    write_slide(path, recipe, repeat(np.clip(pixels + grain, 0, 255).astype(np.uint8), recipe))
    return {"path": str(path), "size_bytes": path.stat().st_size, "pixels_from": origin}


def main() -> None:
    """Read the command line, write the slide, print its facts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--width-px", type=int, default=24_000)
    parser.add_argument("--height-px", type=int, default=24_000)
    parser.add_argument("--tile-px", type=int, default=240)
    parser.add_argument("--quality", type=int, default=70)
    parser.add_argument("--subsampling", choices=["444", "422", "420"], default="422")
    parser.add_argument("--colour", choices=["rgb", "ycbcr"], default="ycbcr")
    parser.add_argument("--compression", choices=["jpeg", "jpeg2000-rgb"], default="jpeg")
    parser.add_argument("--um-per-px", type=float, default=0.25)
    options = parser.parse_args()
    recipe = Recipe(
        options.width_px,
        options.height_px,
        (options.tile_px, options.tile_px),
        sizes=halved(options.width_px, options.height_px, 4, 16),
        compression=options.compression,
        quality=options.quality,
        subsampling=options.subsampling,
        colour=options.colour,
        um_per_px=options.um_per_px,
        bigtiff=options.width_px * options.height_px > 4e9,
    )
    print(json.dumps(make_slide(options.path, recipe), indent=2))


if __name__ == "__main__":
    main()
