"""Tiles with known nuclei, and tiles at the limits of what a pixel can be."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29]) / np.linalg.norm([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11]) / np.linalg.norm([0.07, 0.99, 0.11])

Tile = NDArray[np.uint8]


def stain(haematoxylin: NDArray[np.float64], eosin: NDArray[np.float64]) -> Tile:
    """RGB of amounts of dye [row, column]."""
    density = haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN
    return np.clip(np.rint(256 * 10**-density - 1), 0, 255).astype(np.uint8)


def nuclei_tile(
    count: int, *, radius_um: float = 4.0, tile_px: int = 224, um_per_px: float = 0.5, seed: int = 0
) -> tuple[Tile, NDArray[np.bool_]]:
    """Round nuclei on a jittered lattice over pale eosin, and where they are; the same places at any resolution."""
    random = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(count)))
    cells = np.stack(np.meshgrid(range(side), range(side)), axis=-1).reshape(-1, 2)[random.permutation(side**2)[:count]]
    places = (cells + 0.5 + random.uniform(-0.15, 0.15, cells.shape)) / side * tile_px
    mask = np.zeros((tile_px * 4, tile_px * 4), np.uint8)
    for x, y in places:
        cv2.circle(mask, (int(x * 4), int(y * 4)), int(radius_um / um_per_px * 4), 1, -1)
    share = cv2.resize(mask.astype(np.float64), (tile_px, tile_px), interpolation=cv2.INTER_AREA)
    return stain(0.1 + 0.9 * share, np.full_like(share, 0.15)), share > 0.5


def limit_tiles(tile_px: int) -> NDArray[np.uint8]:
    """Black, white, each primary colour, noise, checkerboards of one pixel and of sixteen, one black pixel."""
    random = np.random.default_rng(1)
    flat = [np.full((tile_px, tile_px, 3), value) for value in (0, 255)]
    flat += [np.broadcast_to(np.eye(3)[channel] * 255, (tile_px, tile_px, 3)) for channel in range(3)]
    rows, columns = np.indices((tile_px, tile_px))
    boards = [np.repeat((((rows // step) + (columns // step)) % 2)[..., None] * 255, 3, axis=-1) for step in (1, 16)]
    point = np.full((tile_px, tile_px, 3), 255)
    point[tile_px // 2, tile_px // 2] = 0
    noise = random.integers(0, 256, (tile_px, tile_px, 3))
    return np.stack([*flat, *boards, point, noise]).astype(np.uint8)


def tissue_like_tiles(tile_px: int, count: int, *, um_per_px: float) -> NDArray[np.uint8]:
    """Nuclei over uneven, grainy stroma."""
    tiles = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        tile, _ = nuclei_tile(9 + 12 * seed, radius_um=3 + seed, tile_px=tile_px, um_per_px=um_per_px, seed=seed)
        shade = cv2.GaussianBlur(random.normal(size=(tile_px, tile_px)), (0, 0), tile_px / 16)
        grain = random.normal(scale=6, size=tile.shape)
        tiles.append(np.clip(tile * (1 + 4 * shade[..., None]) + grain, 0, 255).astype(np.uint8))
    return np.stack(tiles)
