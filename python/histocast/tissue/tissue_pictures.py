"""The two pictures TILE leaves for the report: the thumbnail, and what was found on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import write_atomically
from histocast.tissue import TissueMap

BACKGROUND, TISSUE, PEN, UNREADABLE = 0, 1, 2, 3
"""Values of ``tissue.png``."""

_PALETTE = (255, 255, 255, 92, 158, 110, 230, 140, 40, 128, 128, 128)


def write_thumbnail(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write RGB [row, column, 3] as PNG, without any metadata."""
    from PIL import Image

    with write_atomically(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, compress_level=3)


def write_tissue(path: Path, found: TissueMap) -> None:
    """Write the masks as a palette PNG whose values are `BACKGROUND`, `TISSUE`, `PEN` and `UNREADABLE`."""
    from PIL import Image

    kinds = (found.unreadable, UNREADABLE), (found.pen, PEN), (found.tissue, TISSUE)
    values = np.select([mask for mask, _ in kinds], [value for _, value in kinds], BACKGROUND).astype(np.uint8)
    image = Image.fromarray(values)
    image.putpalette(_PALETTE)
    with write_atomically(path) as temporary:
        image.save(temporary, bits=2)
