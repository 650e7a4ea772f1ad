"""Thumbnails painted dye by dye, so that a test states what lies where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
UM_PER_PX = 8.0


@dataclass
class Painting:
    """A thumbnail of 8 um/px, built by adding absorbance to glass of a colour."""

    glass: tuple[int, int, int] = (243, 241, 242)
    rows: int = 500
    columns: int = 700
    um_per_px: float = UM_PER_PX
    seed: int = 5
    absorbance: NDArray[np.float64] = field(init=False)
    section: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.absorbance = np.zeros((self.rows, self.columns, 3))
        self.section = np.zeros((self.rows, self.columns), bool)
        self.random = np.random.default_rng(self.seed)

    def noise(self, grain_px: float) -> NDArray[np.float64]:
        """Noise in 0 to 1 of a grain size."""
        grain = cv2.GaussianBlur(self.random.normal(size=(self.rows, self.columns)), (0, 0), grain_px)
        return np.clip(0.5 + grain / grain.std() / 4, 0, 1)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float) -> NDArray[np.bool_]:
        """A filled ellipse; all as shares of the picture's width and height."""
        row, column = np.mgrid[: self.rows, : self.columns]
        across = (column / self.columns - x) / radius_x
        return across**2 + ((row / self.rows - y) / radius_y) ** 2 <= 1

    def add_section(self, where: NDArray[np.bool_], *, strength: float = 1.0) -> Painting:
        """Add nuclei and stroma; ``strength`` 1 is an ordinary stain."""
        nuclei = 0.65 * self.noise(1.0) ** 2 + 0.05
        stroma = 0.30 * self.noise(2.5)
        dyes = nuclei[..., None] * HAEMATOXYLIN + stroma[..., None] * EOSIN
        self.absorbance += np.where(where[..., None], strength * dyes, 0)
        self.section |= where
        return self

    def add_ink(self, where: NDArray[np.bool_], colour: tuple[int, int, int]) -> Painting:
        """Add ink that looks like ``colour`` on white."""
        ink = -np.log10(np.array(colour) / 255)
        self.absorbance += where[..., None] * ink
        return self

    def line(self, points: list[tuple[float, float]], width_um: float) -> NDArray[np.bool_]:
        """A line through points in shares of the picture's size."""
        canvas = np.zeros((self.rows, self.columns), np.uint8)
        places = np.array([(x * self.columns, y * self.rows) for x, y in points], np.int32)
        cv2.polylines(canvas, [places], False, 1, max(1, round(width_um / self.um_per_px)))
        return canvas > 0

    def picture(self, *, quality: int | None = 90) -> NDArray[np.uint8]:
        """The uint8 RGB picture as a scanner's JPEG gives it: soft by half a pixel, with compression noise."""
        light = (np.array(self.glass) + 1) * 10**-self.absorbance - 1
        light = cv2.GaussianBlur(light, (0, 0), 0.5) + self.random.normal(0, 1.2, light.shape)
        return compress(np.clip(np.round(light), 0, 255).astype(np.uint8), quality)


def compress(picture: NDArray[np.uint8], quality: int | None) -> NDArray[np.uint8]:
    """The picture after JPEG, or as it is."""
    if quality is None:
        return picture
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


@pytest.fixture
def compress_jpeg() -> Callable[..., NDArray[np.uint8]]:
    """Send a picture through JPEG."""
    return compress


@pytest.fixture
def paint() -> Callable[..., Painting]:
    """Start a painting."""
    return Painting
