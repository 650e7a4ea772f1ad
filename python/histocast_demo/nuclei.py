"""Periodic textures, where nuclei lie, and what each looks like.

Every compartment sows nuclei on its own jittered lattice, so that none overlaps its sisters by much, and keeps
those that fall where the compartment is. Each nucleus is one of a few hundred stamps drawn once per slide.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from histocast_demo.terrain import CELL_UM, COMPARTMENTS, Field, Terrain, make_rng, smooth_field

TEXTURE_PX = 1024
"""Textures have 1 um per pixel and repeat after about a millimetre, further than the eye compares."""

H_MAX = 1.6
"""Haematoxylin that 255 stands for; unit: the stain vector's optical density."""

VARIANTS = 40
DIRECTIONS = 16
GRADES = 4
ADIPOCYTE_UM = 68.0
ADIPOCYTE_WALL_UM = 1.6

Points = NDArray[np.float64]
Stamp = NDArray[np.uint8]
Texture = NDArray[np.uint8]


def _ranks_to_uint8(field: Field) -> Texture:
    # A uniform histogram makes "the palest tenth" mean a tenth of the area.
    order = np.argsort(field, axis=None, kind="stable")
    ranks = np.empty(field.size, np.int64)
    ranks[order] = np.arange(field.size)
    return (ranks * 256 // field.size).astype(np.uint8).reshape(field.shape)


@lru_cache(maxsize=2)
def texture(name: str) -> Texture:
    """uint8 [row, column], uniform, periodic: ``fibre``, collagen along the columns, or ``grain``, cytoplasm."""
    rng = make_rng(0, f"{name} texture")
    weights = {
        "fibre": {(1.3, 26.0): 1.0, (4.0, 60.0): 0.7, (14.0, 90.0): 0.35},
        "grain": {(0.8, 0.8): 0.6, (2.0, 2.0): 0.8, (5.0, 5.0): 0.7},
    }[name]
    first, *rest = (smooth_field((TEXTURE_PX,) * 2, lengths, rng) * weight for lengths, weight in weights.items())
    return _ranks_to_uint8(sum(rest, first))


@lru_cache(maxsize=1)
def cell_walls() -> Texture:
    """Walls between packed round fat cells: uint8 [row, column], 255 on a wall, periodic."""
    rng = make_rng(0, "cell walls", f"{ADIPOCYTE_UM:g}")
    count = round(TEXTURE_PX / ADIPOCYTE_UM)
    grid = np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1).reshape(-1, 2).astype(np.float64)
    grid[:, 0] += 0.5 * (grid[:, 1] % 2)
    centres = (grid + rng.uniform(-0.33, 0.33, grid.shape)) * (TEXTURE_PX / count) % TEXTURE_PX
    pixels = np.stack(np.meshgrid(np.arange(TEXTURE_PX), np.arange(TEXTURE_PX)), axis=-1) + 0.5
    # Cells press on one another: walls bend over about half a cell.
    bends = [smooth_field((TEXTURE_PX,) * 2, (ADIPOCYTE_UM / 3,) * 2, rng) for _ in range(2)]
    pixels = (pixels + 0.05 * ADIPOCYTE_UM * np.stack(bends, axis=-1)) % TEXTURE_PX
    distance, _ = cKDTree(centres, boxsize=TEXTURE_PX).query(pixels, k=2, workers=-1)
    to_wall = (distance[..., 1] - distance[..., 0]) / 2
    return np.asarray(255 * np.exp(-((to_wall / ADIPOCYTE_WALL_UM) ** 2)), np.uint8)


def wall_angles() -> Field:
    """Direction of the walls of `cell_walls`: radians [row, column], 0 along the columns."""
    down, across = (np.asarray(slope, np.float32) for slope in np.gradient(cell_walls().astype(np.float32)))
    xx, yy, xy = (cv2.blur(product, (9, 9)) for product in (across * across, down * down, across * down))
    return np.asarray(0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2, np.float32)


class Look(NamedTuple):
    """One kind of nucleus; lengths are diameters in micrometres."""

    long_um: float
    short_um: float
    irregularity: float
    haematoxylin: float
    chromatin: float
    """Amplitude of clumps as a share of the haematoxylin."""
    rim: float
    """How much darker the envelope is, as a share."""
    nucleolus: float = 0.0


class Nuclei(NamedTuple):
    """Every nucleus of a slide, by rising y."""

    x_px: NDArray[np.int32]
    y_px: NDArray[np.int32]
    stamp: NDArray[np.int32]


TUMOUR_LOOKS = [
    Look(9.4 + 1.5 * g, 7.4 + 1.25 * g, 0.07 + 0.02 * g, 0.40 + 0.075 * g, 0.34 + 0.05 * g, 0.45, 0.22 + 0.08 * g)
    for g in range(GRADES)
]
LYMPHOCYTE = Look(6.8, 6.3, 0.04, 0.82, 0.28, 0.10)
FIBROBLAST = Look(17.0, 3.1, 0.08, 0.58, 0.20, 0.10)
DEBRIS = Look(2.8, 2.3, 0.15, 0.66, 0.10, 0.0)
GHOST = Look(8.5, 7.0, 0.08, 0.16, 0.20, 0.15)


def _draw(look: Look, *, angle: float, um_per_px: float, rng: np.random.Generator) -> Stamp:
    size = rng.lognormal(0, 0.10)
    half_long_um, half_short_um = look.long_um * size / 2, look.short_um * size / 2
    half_px = int(np.ceil((1.24 * half_long_um + 1.5) / um_per_px))
    y, x = np.mgrid[-half_px : half_px + 1, -half_px : half_px + 1] * um_per_px
    u_um, v_um = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    u, v = u_um / half_long_um, v_um / half_short_um
    theta = np.arctan2(v, u)
    outline = np.ones_like(theta)
    for wave in (2, 3, 4, 5):
        outline += look.irregularity * rng.normal(0, 1 / wave) * np.cos(wave * theta + rng.uniform(0, 2 * np.pi))
    # Distance to the outline, near enough for an edge of a quarter of a micrometre.
    inside_um = (1 - np.hypot(u, v) / outline) * half_short_um
    edge = 1 / (1 + np.exp(-np.clip(inside_um / 0.28, -60, 60)))
    clumps = np.zeros_like(u)
    for _ in range(9):
        clump_u, clump_v = rng.uniform(-0.75, 0.75, 2)
        clumps += rng.choice([-1.0, 1.0]) * np.exp(-((u - clump_u) ** 2 + (v - clump_v) ** 2) / 0.06)
    depth = look.haematoxylin * rng.lognormal(0, 0.13) * (1 + look.chromatin * clumps)
    depth *= 1 + look.rim * np.exp(-((inside_um / 0.7) ** 2))
    if look.nucleolus:
        for _ in range(rng.integers(1, 3)):
            spot_u_um, spot_v_um = rng.uniform(-0.4, 0.4, 2) * (half_long_um, half_short_um)
            depth += look.nucleolus * np.exp(-((np.hypot(u_um - spot_u_um, v_um - spot_v_um) / 0.95) ** 4))
    return np.asarray(np.clip(255 / H_MAX * edge * depth, 0, 255), np.uint8)


def draw_stamps(*, um_per_px: float, seed: int) -> tuple[list[Stamp], dict[str, int]]:
    """The stamps of one slide, and where each kind starts in their list.

    Kinds: ``tumour`` (`GRADES` runs of `VARIANTS`), ``lymphocyte``, ``debris``, ``ghost`` (`VARIANTS` each) and
    ``fibroblast`` (`DIRECTIONS` runs of 4, direction k at ``k * pi / DIRECTIONS``).
    """
    rng = make_rng(seed, "stamps")
    anywhere = rng.uniform(0, np.pi, VARIANTS)
    along = np.repeat(np.arange(DIRECTIONS), 4) * np.pi / DIRECTIONS
    kinds = {
        "tumour": (TUMOUR_LOOKS, anywhere),
        "lymphocyte": ([LYMPHOCYTE], anywhere),
        "debris": ([DEBRIS], anywhere),
        "ghost": ([GHOST], anywhere),
        "fibroblast": ([FIBROBLAST], along),
    }
    stamps: list[Stamp] = []
    starts: dict[str, int] = {}
    for kind, (looks, angles) in kinds.items():
        starts[kind] = len(stamps)
        stamps += [_draw(look, angle=float(a), um_per_px=um_per_px, rng=rng) for look in looks for a in angles]
    return stamps, starts


def _sow(shape: tuple[int, ...], *, spacing_um: float, jitter: float, rng: np.random.Generator) -> Points:
    """Points (x, y) in micrometres on a jittered staggered lattice over the whole grid."""
    rows = int(shape[0] * CELL_UM / (spacing_um * 0.87)) + 1
    columns = int(shape[1] * CELL_UM / spacing_um) + 1
    row, column = np.indices((rows, columns)).reshape(2, -1).astype(np.float64)
    points = np.stack([(column + 0.5 * (row % 2)) * spacing_um, row * spacing_um * 0.87], axis=1)
    return points + rng.uniform(-jitter, jitter, points.shape) * spacing_um


def _look_up(grid: Field, points_um: Points) -> Field:
    column, row = np.floor(points_um / CELL_UM).astype(np.int64).T
    return np.asarray(grid[np.clip(row, 0, grid.shape[0] - 1), np.clip(column, 0, grid.shape[1] - 1)])


def _along(angle: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int64]:
    """Offsets within the fibroblast stamps that lie at these angles."""
    direction = np.rint(angle / np.pi * DIRECTIONS).astype(np.int64) % DIRECTIONS
    return np.asarray(direction * 4 + rng.integers(0, 4, len(angle)))


def place_nuclei(terrain: Terrain, *, starts: dict[str, int], um_per_px: float, seed: int) -> Nuclei:
    """Sow every kind of nucleus where its compartment lies."""
    where = dict(zip(COMPARTMENTS, terrain.shares, strict=True))
    slope_y, slope_x = np.gradient(terrain.across_um, CELL_UM)
    placed: list[tuple[Points, NDArray[np.int64]]] = []

    def sow(kind: str, density: Field, spacing_um: float, jitter: float = 0.33) -> None:
        rng = make_rng(seed, "nuclei", kind, f"{spacing_um:g}")
        points = _sow(density.shape, spacing_um=spacing_um, jitter=jitter, rng=rng)
        points = points[_look_up(density, points) > rng.uniform(0, 1, len(points))]
        pick = rng.integers(0, VARIANTS, len(points))
        if kind == "tumour":
            grade = _look_up(terrain.grade, points) * GRADES + rng.normal(0, 0.5, len(points))
            pick += VARIANTS * np.clip(grade, 0, GRADES - 1).astype(np.int64)
        elif kind == "fibroblast":
            angle = np.arctan2(_look_up(np.negative(slope_x), points), _look_up(np.asarray(slope_y), points))
            pick = _along(angle + rng.normal(0, 0.15, len(points)), rng)
        placed.append((points, starts[kind] + pick))

    sow("tumour", where["tumour"] * (0.78 + 0.2 * terrain.grade), 12.0)
    sow("lymphocyte", where["immune"] * 0.9, 8.2)
    sow("lymphocyte", where["stroma"] * 0.22 + where["tumour"] * 0.12, 30.0)
    sow("fibroblast", where["stroma"] * 0.62 + where["immune"] * 0.1, 21.0, 0.45)
    sow("debris", where["necrosis"] * 0.5, 8.5, 0.48)
    sow("ghost", where["necrosis"] * 0.4, 17.0, 0.4)
    # The flat nuclei of fat cells lie in the walls: sow finely and keep a few of those that hit one.
    rng = make_rng(seed, "nuclei", "adipocyte")
    fat = _sow(where["adipose"].shape, spacing_um=7.0, jitter=0.4, rng=rng)
    column, row = np.floor(fat).astype(np.int64).T % TEXTURE_PX
    on_wall = (cell_walls()[row, column] > 200) & (_look_up(where["adipose"], fat) > 0.8)
    keep = on_wall & (rng.uniform(0, 1, len(fat)) < 0.10)
    placed.append((fat[keep], starts["fibroblast"] + _along(wall_angles()[row[keep], column[keep]], rng)))

    points, stamp = (np.concatenate(parts) for parts in zip(*placed, strict=True))
    order = np.argsort(points[:, 1], kind="stable")
    x_px, y_px = np.floor(points[order] / um_per_px).astype(np.int32).T
    return Nuclei(x_px=x_px, y_px=y_px, stamp=stamp[order].astype(np.int32))
