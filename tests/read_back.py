"""Every tile of a slide in the order it was asked for."""

from __future__ import annotations

import numpy as np

from histocast.slide import Slide
from made_slides import Pixels


def read_all(slide: Slide, centres: object, **options: object) -> tuple[Pixels, np.ndarray, dict[int, str]]:
    """Return all tiles in the order asked for, which of them are readable, and why not."""
    tiles: dict[int, Pixels] = {}
    readable: dict[int, bool] = {}
    reasons: dict[int, str] = {}
    for batch in slide.read_tiles(np.asarray(centres, float), threads=2, **options):
        for index, pixels, good in zip(batch.index.tolist(), batch.pixels, batch.readable.tolist(), strict=True):
            assert index not in tiles
            tiles[index], readable[index] = pixels, good
        reasons.update(batch.reasons)
    order = sorted(tiles)
    assert order == list(range(len(order)))
    return np.stack([tiles[index] for index in order]), np.array([readable[index] for index in order]), reasons
