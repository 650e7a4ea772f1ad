"""Paints a slide strip by strip: dyes as concentrations, light by Beer and Lambert.

A strip is `STRIP_PX` rows of the whole width, so memory grows with the width and not with the area. What is
coarse (compartments, edges) is computed at a quarter of the resolution; what the eye needs sharp (fibres, fat
cells, nuclei) at all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.demo.fields import TEXTURE_PX, cell_walls, fibre_texture, grain_texture, make_rng
from histocast.demo.nuclei import ADIPOCYTE_UM, ADIPOCYTE_WALL_UM, H_MAX, draw_stamps, place_nuclei
from histocast.demo.recipes import SlideRecipe, Stain
from histocast.demo.terrain import CELL_UM, Terrain, glass_share, softmax

STRIP_PX = 256
COARSE = 4
"""Level-0 pixels per pixel of the coarse canvas."""

E_MAX = 1.2
"""Eosin that 255 stands for."""

# Dye in tumour, stroma, immune, adipose and necrosis before texture (order of `terrain.COMPARTMENTS`).
BASE_HAEMATOXYLIN = np.array([0.12, 0.01, 0.09, 0.0, 0.04], np.float32)
BASE_EOSIN = np.array([0.27, 0.0, 0.20, 0.0, 0.21], np.float32)
FIBRE_EOSIN = (0.07, 0.44)
WALL_EOSIN = 0.30

Canvas = NDArray[np.uint8]
Plane = NDArray[np.float32]


class Painter:
    """Paints the strips of one slide."""

    def __init__(self, recipe: SlideRecipe, terrain: Terrain) -> None:
        self._recipe = recipe
        self._terrain = terrain
        self._stamps, starts = draw_stamps(um_per_px=recipe.um_per_px, seed=recipe.seed)
        self._nuclei = place_nuclei(terrain, starts=starts, um_per_px=recipe.um_per_px, seed=recipe.seed)
        self._reach_px = max(stamp.shape[0] for stamp in self._stamps)
        self._light = _light_tables(recipe.stain)
        self._walls = cell_walls(ADIPOCYTE_UM, wall_um=ADIPOCYTE_WALL_UM)

    def paint_strips(self) -> Iterator[Canvas]:
        """Yield uint8 RGB [row, column, 3] strips from the top; all but the last are `STRIP_PX` high."""
        for top_px in range(0, self._recipe.height_px, STRIP_PX):
            yield self._paint(top_px, min(STRIP_PX, self._recipe.height_px - top_px))

    def _paint(self, top_px: int, rows: int) -> Canvas:
        # Rows above and below, so that blurring meets no seam between strips.
        margin = COARSE if self._recipe.out_of_focus is None else BLUR_MARGIN_PX
        top, height = top_px - margin, rows + 2 * margin
        shares, tissue = self._coarse_shares(top, height)
        haematoxylin, eosin = self._dye_background(shares, tissue, top=top, height=height)
        self._stamp_nuclei(haematoxylin, top)
        light = cv2.multiply(_expand(haematoxylin, self._light[0]), _expand(eosin, self._light[1]), scale=1 / 255)
        rgb = np.asarray(cv2.GaussianBlur(light, (3, 3), 0.55), np.uint8)
        blur_patch(rgb, self._recipe, top_px=top)
        paint_pen(rgb, self._recipe, top_px=top)
        noise = self._grain(top, (height, self._recipe.width_px), step=1) // 64
        return np.asarray(cv2.add(rgb, cv2.merge([noise, noise, noise])), np.uint8)[margin : margin + rows]

    def _from_grid(self, grid: Plane, *, top: int, shape: tuple[int, int], step: int) -> Plane:
        """A coarse field at the pixels of a canvas whose pixels are ``step`` level-0 pixels."""
        scale = step * self._recipe.um_per_px / CELL_UM
        shift_x = 0.5 * scale - 0.5
        shift_y = (top + 0.5 * step) * self._recipe.um_per_px / CELL_UM - 0.5
        mapping = np.array([[scale, 0, shift_x], [0, scale, shift_y]], np.float64)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(
            cv2.warpAffine(grid, mapping, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32
        )

    def _grain(self, top: int, shape: tuple[int, int], *, step: int, shift: int = 0) -> Canvas:
        # Nearest texels suffice: grain carries no geometry.
        rows = (np.arange(shape[0]) + top // step + 131 * shift) % TEXTURE_PX
        columns = (np.arange(shape[1]) + 197 * shift) % TEXTURE_PX
        return np.ascontiguousarray(grain_texture()[rows[:, None], columns])

    def _coarse_shares(self, top: int, height: int) -> tuple[Plane, Plane]:
        """Compartment shares [compartment, row, column] within tissue, and the share of tissue, coarse."""
        shape = (-(-height // COARSE), -(-self._recipe.width_px // COARSE))
        logits = np.stack([self._from_grid(g, top=top, shape=shape, step=COARSE) for g in self._terrain.logits])
        for index in range(len(logits)):
            # A little noise frays the borders between compartments.
            logits[index] += 4.0 * (self._grain(top, shape, step=COARSE, shift=index + 1) / np.float32(255) - 0.5)
        glass = self._from_grid(self._terrain.glass, top=top, shape=shape, step=COARSE)
        glass += 1.2 * (self._grain(top, shape, step=COARSE, shift=7) / np.float32(255) - 0.5)
        return softmax(logits), 1 - glass_share(2 * glass)

    def _dye_background(self, shares: Plane, tissue: Plane, *, top: int, height: int) -> tuple[Canvas, Canvas]:
        """Haematoxylin and eosin without nuclei, uint8 in units of `H_MAX` and `E_MAX`."""
        shape = (height, self._recipe.width_px)

        def enlarge(plane: Plane) -> Plane:
            # The coarse canvas may reach past the slide by up to three pixels.
            size = (plane.shape[1] * COARSE, plane.shape[0] * COARSE)
            full = cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
            return np.asarray(full[: shape[0], : shape[1]], np.float32)

        _, stroma, _, adipose, _ = shares
        grain = self._grain(top, shape, step=1) / np.float32(255)
        eosin = enlarge(np.tensordot(BASE_EOSIN, shares, axes=1)) * (0.62 + 0.76 * grain)
        fibre = self._follow_fibres(fibre_texture(), top=top, shape=shape) / np.float32(255)
        eosin += enlarge(stroma) * (FIBRE_EOSIN[0] + FIBRE_EOSIN[1] * fibre)
        eosin += enlarge(adipose) * self._repeat(self._walls, top=top, shape=shape) * np.float32(WALL_EOSIN / 255)
        haematoxylin = enlarge(np.tensordot(BASE_HAEMATOXYLIN, shares, axes=1)) * (0.55 + 0.9 * grain)
        whole = enlarge(tissue)
        return _quantise(np.multiply(haematoxylin, whole), H_MAX), _quantise(np.multiply(eosin, whole), E_MAX)

    def _follow_fibres(self, texture: Canvas, *, top: int, shape: tuple[int, int]) -> Canvas:
        """A periodic texture laid along the fibres."""
        along = self._from_grid(self._terrain.along_um, top=top, shape=shape, step=1)
        across = self._from_grid(self._terrain.across_um, top=top, shape=shape, step=1)
        return np.asarray(cv2.remap(texture, along, across, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.uint8)

    def _repeat(self, texture: Canvas, *, top: int, shape: tuple[int, int]) -> Canvas:
        """A periodic texture laid straight; nuclei of fat cells are sown by the same coordinates."""
        x_um = (np.arange(shape[1], dtype=np.float32) + 0.5) * self._recipe.um_per_px
        y_um = (np.arange(top, top + shape[0], dtype=np.float32) + 0.5) * self._recipe.um_per_px
        across, down = (np.ascontiguousarray(np.broadcast_to(axis, shape)) for axis in (x_um, y_um[:, None]))
        return np.asarray(cv2.remap(texture, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.uint8)

    def _stamp_nuclei(self, haematoxylin: Canvas, top: int) -> None:
        height = haematoxylin.shape[0]
        y_px = self._nuclei.y_px
        first, last = np.searchsorted(y_px, [top - self._reach_px, top + height + self._reach_px])
        for x, y, which in zip(
            self._nuclei.x_px[first:last].tolist(),
            (y_px[first:last] - top).tolist(),
            self._nuclei.stamp[first:last].tolist(),
            strict=True,
        ):
            stamp = self._stamps[which]
            half = stamp.shape[0] // 2
            y0, x0 = max(y - half, 0), max(x - half, 0)
            target = haematoxylin[y0 : max(y + half + 1, 0), x0 : max(x + half + 1, 0)]
            if target.size:
                dy, dx = y0 - (y - half), x0 - (x - half)
                np.maximum(target, stamp[dy : dy + target.shape[0], dx : dx + target.shape[1]], out=target)


def _quantise(dye: Plane, maximum: float) -> Canvas:
    return np.asarray(cv2.convertScaleAbs(dye, alpha=255 / maximum), np.uint8)


def _light_tables(stain: Stain) -> tuple[Canvas, Canvas]:
    """Transmitted light for every amount of each dye: uint8 [256, 1, 3]; the first carries the glass colour."""
    amount = np.arange(256, dtype=np.float64)[:, None, None] / 255
    haematoxylin = 10 ** (-amount * H_MAX * stain.haematoxylin_strength * np.array(stain.haematoxylin))
    eosin = 10 ** (-amount * E_MAX * stain.eosin_strength * np.array(stain.eosin))
    return np.rint(np.array(stain.glass) * haematoxylin).astype(np.uint8), np.rint(255 * eosin).astype(np.uint8)


def _expand(dye: Canvas, table: Canvas) -> Canvas:
    return np.asarray(cv2.LUT(cv2.merge([dye, dye, dye]), table), np.uint8)


INK = {"blue": (1.00, 0.62, 0.21), "green": (1.00, 0.40, 0.56), "black": (1.05, 1.01, 0.98)}
"""Absorbance of red, green and blue by a full layer of ink."""

LINE_UM = 190.0

BLUR_SIGMA_UM = 6.5
"""A defocus that still shows on a thumbnail of 4 um/px."""

BLUR_MARGIN_PX = 48
"""Rows beyond a strip that the blur looks at: three sigma at 0.41 um/px."""


def outline_pen(recipe: SlideRecipe) -> NDArray[np.float64]:
    """Points [point, 2] (x, y) of the line in level-0 pixels: an arc round a corner of the tissue."""
    rng = make_rng(recipe.seed, "pen")
    angle = np.linspace(0.05, 1.55, 40) + rng.uniform(-0.1, 0.1)
    wobble = 1 + 0.012 * np.cumsum(rng.normal(0, 0.5, len(angle)))
    x = recipe.width_px * (0.5 + 0.40 * wobble * np.cos(angle))
    y = recipe.height_px * (0.5 + 0.41 * wobble * np.sin(angle))
    return np.stack([x, y], axis=1)


def paint_pen(rgb: NDArray[np.uint8], recipe: SlideRecipe, *, top_px: int) -> None:
    """Lay the recipe's pen line over a strip that starts at row ``top_px``, in place."""
    if recipe.pen is None:
        return
    points = (outline_pen(recipe) - [0, top_px]) / COARSE
    width = max(1, round(LINE_UM / recipe.um_per_px / COARSE))
    mask = np.zeros((-(-rgb.shape[0] // COARSE), -(-rgb.shape[1] // COARSE)), np.uint8)
    cv2.polylines(mask, [np.rint(points * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, 4)
    if not mask.any():
        return
    # Ink pools at the border of a stroke.
    core = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=max(1, width // 14))
    mask = cv2.addWeighted(mask, 0.80, cv2.subtract(mask, core), 0.20, 0)
    size = (mask.shape[1] * COARSE, mask.shape[0] * COARSE)
    cover = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)[: rgb.shape[0], : rgb.shape[1]]
    for channel, ink in enumerate(INK[recipe.pen]):
        light = np.rint(255 * 10 ** (-ink * np.arange(256) / 255)).astype(np.uint8)
        rgb[..., channel] = cv2.multiply(rgb[..., channel], cv2.LUT(cover, light), scale=1 / 255)


def blur_patch(rgb: NDArray[np.uint8], recipe: SlideRecipe, *, top_px: int) -> None:
    """Blur the recipe's round patch where a strip that starts at row ``top_px`` crosses it, in place."""
    if recipe.out_of_focus is None:
        return
    x, y, radius = np.multiply(recipe.out_of_focus, (recipe.width_px, recipe.height_px, recipe.width_px))
    left, right = max(0, int(x - radius)), min(recipe.width_px, int(x + radius))
    if top_px >= y + radius or top_px + rgb.shape[0] <= y - radius:
        return
    part = rgb[:, left:right]
    rows, columns = np.ogrid[: part.shape[0], : part.shape[1]]
    distance = np.hypot(columns + left - x, rows + top_px - y) / radius
    weight = np.clip(2.5 * (1 - distance), 0, 1).astype(np.float32)
    blurred = np.asarray(cv2.GaussianBlur(part, (0, 0), BLUR_SIGMA_UM / recipe.um_per_px), np.uint8)
    part[:] = np.asarray(cv2.blendLinear(blurred, part, weight, 1 - weight), np.uint8)
