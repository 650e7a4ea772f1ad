"""Smooth random fields and periodic textures, each decided by its seed alone."""

from __future__ import annotations

import zlib
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

TEXTURE_UM_PER_PX = 1.0
TEXTURE_PX = 1024
"""Textures repeat after about a millimetre, further than the eye compares."""


def make_rng(seed: int, *names: str) -> np.random.Generator:
    """A generator for one purpose: the same whatever else was drawn before."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def smooth_field(shape: tuple[int, int], *, length: float, rng: np.random.Generator) -> Field:
    """Gaussian noise of mean 0 and sd 1, smooth over ``length`` cells, periodic at the borders.

    Parameters
    ----------
    shape:
        Rows and columns.
    length:
        Standard deviation of the smoothing kernel in cells.
    rng:
        Source of the noise.
    """
    return _filtered(shape, lengths=(length, length), rng=rng)


def _filtered(shape: tuple[int, int], *, lengths: tuple[float, float], rng: np.random.Generator) -> Field:
    rows = np.fft.fftfreq(shape[0])[:, None] * lengths[0]
    columns = np.fft.rfftfreq(shape[1])[None] * lengths[1]
    kernel = np.exp(-2 * np.pi**2 * (rows**2 + columns**2))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * kernel, s=shape)
    field -= field.mean()
    return (field / max(float(field.std()), 1e-12)).astype(np.float32)


def _ranks_to_uint8(field: Field) -> NDArray[np.uint8]:
    # A uniform histogram makes "the palest tenth" mean a tenth of the area.
    order = np.argsort(field, axis=None, kind="stable")
    ranks = np.empty(field.size, np.int64)
    ranks[order] = np.arange(field.size)
    return (ranks * 256 // field.size).astype(np.uint8).reshape(field.shape)


@lru_cache(maxsize=1)
def fibre_texture() -> NDArray[np.uint8]:
    """Collagen seen along its fibres: uint8 [row, column], uniform, periodic; fibres run along the columns."""
    rng = make_rng(0, "fibre texture")
    shape = (TEXTURE_PX, TEXTURE_PX)
    fine = _filtered(shape, lengths=(1.3, 26.0), rng=rng)
    bundles = _filtered(shape, lengths=(4.0, 60.0), rng=rng)
    broad = _filtered(shape, lengths=(14.0, 90.0), rng=rng)
    return _ranks_to_uint8(fine + 0.7 * bundles + 0.35 * broad)


@lru_cache(maxsize=1)
def grain_texture() -> NDArray[np.uint8]:
    """Granular cytoplasm: uint8 [row, column], uniform, periodic."""
    rng = make_rng(0, "grain texture")
    shape = (TEXTURE_PX, TEXTURE_PX)
    octaves = [smooth_field(shape, length=length, rng=rng) for length in (0.8, 2.0, 5.0)]
    return _ranks_to_uint8(octaves[0] * 0.6 + octaves[1] * 0.8 + octaves[2] * 0.7)


@lru_cache(maxsize=4)
def cell_walls(cell_um: float, *, wall_um: float) -> NDArray[np.uint8]:
    """Walls between packed round cells: uint8 [row, column], 255 on a wall, periodic.

    Parameters
    ----------
    cell_um:
        Distance between neighbouring cells.
    wall_um:
        Width over which a wall fades.
    """
    from scipy.spatial import cKDTree

    rng = make_rng(0, "cell walls", f"{cell_um:g}")
    period_um = TEXTURE_PX * TEXTURE_UM_PER_PX
    count = round(period_um / cell_um)
    step_um = period_um / count
    grid = np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1).reshape(-1, 2).astype(np.float64)
    grid[:, 0] += 0.5 * (grid[:, 1] % 2)
    centres = (grid + rng.uniform(-0.33, 0.33, grid.shape)) * step_um % period_um
    pixels = (np.stack(np.meshgrid(np.arange(TEXTURE_PX), np.arange(TEXTURE_PX)), axis=-1) + 0.5) * TEXTURE_UM_PER_PX
    # Cells press on one another: walls bend over about half a cell.
    bends = [smooth_field(pixels.shape[:2], length=cell_um / 3, rng=rng) for _ in range(2)]
    pixels = (pixels + 0.05 * cell_um * np.stack(bends, axis=-1)) % period_um
    distance, _ = cKDTree(centres, boxsize=period_um).query(pixels, k=2, workers=-1)
    to_wall = (distance[..., 1] - distance[..., 0]) / 2
    return np.asarray(255 * np.exp(-((to_wall / wall_um) ** 2)), np.uint8)


@lru_cache(maxsize=4)
def wall_angles(cell_um: float, *, wall_um: float) -> Field:
    """Direction of the walls of `cell_walls`: radians [row, column], 0 along the columns."""
    walls = cell_walls(cell_um, wall_um=wall_um).astype(np.float32)
    down, across = (np.asarray(slope, np.float32) for slope in np.gradient(walls))
    size = (9, 9)
    xx, yy, xy = (cv2.blur(product, size) for product in (across * across, down * down, across * down))
    return np.asarray(0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2, np.float32)
