"""Paints a slide strip by strip: dyes as concentrations, light by Beer and Lambert; and writes it as a pyramid.

A strip is `STRIP_PX` rows of the whole width, so memory grows with the width and not with the area. What is
coarse (compartments, edges) is computed at a quarter of the resolution; what the eye needs sharp (fibres, fat
cells, nuclei) at all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from histocast.artifacts import write_atomically
from histocast.progress import Meter
from histocast.resources import available_threads
from histocast_demo.nuclei import H_MAX, TEXTURE_PX, cell_walls, draw_stamps, place_nuclei, texture
from histocast_demo.terrain import CELL_UM, Field, SlideRecipe, Terrain, glass_share, make_rng, softmax

STRIP_PX = 256
"""Also the side of a tile of the pyramid."""

COARSE = 4
"""Level-0 pixels per pixel of the coarse canvas, and the ratio of pyramid levels."""

E_MAX = 1.2
"""Eosin that 255 stands for."""

# Dye in tumour, stroma, immune, adipose and necrosis before texture (order of `terrain.COMPARTMENTS`).
BASE_HAEMATOXYLIN = np.array([0.12, 0.01, 0.09, 0.0, 0.04], np.float32)
BASE_EOSIN = np.array([0.27, 0.0, 0.20, 0.0, 0.21], np.float32)
FIBRE_EOSIN = (0.07, 0.44)
WALL_EOSIN = 0.30

INK = {"blue": (1.00, 0.62, 0.21), "green": (1.00, 0.40, 0.56), "black": (1.05, 1.01, 0.98)}
"""Absorbance of red, green and blue by a full layer of ink."""

LINE_UM = 190.0

BLUR_SIGMA_UM = 6.5
"""A defocus that still shows on a thumbnail of 4 um/px."""

BLUR_MARGIN_PX = 48
"""Rows beyond a strip that the blur looks at: three sigma at 0.41 um/px."""

LEVELS = 3
JPEG_QUALITY = 82
UM_PER_CM = 10_000.0

Canvas = NDArray[np.uint8]


class Painter:
    """Paints the strips of one slide."""

    def __init__(self, recipe: SlideRecipe, terrain: Terrain) -> None:
        self._recipe = recipe
        self._terrain = terrain
        self._stamps, starts = draw_stamps(um_per_px=recipe.um_per_px, seed=recipe.seed)
        self._nuclei = place_nuclei(terrain, starts=starts, um_per_px=recipe.um_per_px, seed=recipe.seed)
        self._reach_px = max(stamp.shape[0] for stamp in self._stamps)
        # Transmitted light for every amount of each dye: uint8 [256, 1, 3]; the first carries the glass colour.
        amount, stain = np.arange(256, dtype=np.float64)[:, None, None] / 255, recipe.stain
        haematoxylin = 10 ** (-amount * H_MAX * stain.haematoxylin_strength * np.array(stain.haematoxylin))
        eosin = 10 ** (-amount * E_MAX * stain.eosin_strength * np.array(stain.eosin))
        self._light = [np.rint(each).astype(np.uint8) for each in (np.array(stain.glass) * haematoxylin, 255 * eosin)]

    def paint_strips(self) -> Iterator[Canvas]:
        """Yield uint8 RGB [row, column, 3] strips from the top; all but the last are `STRIP_PX` high."""
        tops = range(0, self._recipe.height_px, STRIP_PX)
        with Meter(f"paint {self._recipe.sample}", total=len(tops), unit="strips") as meter:
            for top_px in tops:
                # Counted before it is taken, because the writer never asks for a strip after the last.
                meter.advance()
                yield self._paint(top_px, min(STRIP_PX, self._recipe.height_px - top_px))

    def _paint(self, top_px: int, rows: int) -> Canvas:
        # Rows above and below, so that blurring meets no seam between strips.
        margin = COARSE if self._recipe.out_of_focus is None else BLUR_MARGIN_PX
        top, height = top_px - margin, rows + 2 * margin
        dyes = self._dye_background(top, (height, self._recipe.width_px))
        self._stamp_nuclei(dyes[0], top)
        haematoxylin, eosin = (
            cv2.LUT(cv2.merge([dye, dye, dye]), table) for dye, table in zip(dyes, self._light, strict=True)
        )
        rgb = np.asarray(cv2.GaussianBlur(cv2.multiply(haematoxylin, eosin, scale=1 / 255), (3, 3), 0.55), np.uint8)
        blur_patch(rgb, self._recipe, top_px=top)
        paint_pen(rgb, self._recipe, top_px=top)
        noise = self._grain(top, rgb.shape[:2], step=1) // 64
        return np.asarray(cv2.add(rgb, cv2.merge([noise, noise, noise])), np.uint8)[margin : margin + rows]

    def _from_grid(self, grid: Field, *, top: int, shape: tuple[int, ...], step: int) -> Field:
        """A field of the terrain at the pixels of a canvas whose pixels are ``step`` level-0 pixels."""
        scale = step * self._recipe.um_per_px / CELL_UM
        shift_x = 0.5 * scale - 0.5
        shift_y = (top + 0.5 * step) * self._recipe.um_per_px / CELL_UM - 0.5
        mapping = np.array([[scale, 0, shift_x], [0, scale, shift_y]], np.float64)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(
            cv2.warpAffine(grid, mapping, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32
        )

    def _grain(self, top: int, shape: tuple[int, ...], *, step: int, shift: int = 0) -> Canvas:
        # Nearest texels suffice: grain carries no geometry.
        rows = (np.arange(shape[0]) + top // step + 131 * shift) % TEXTURE_PX
        columns = (np.arange(shape[1]) + 197 * shift) % TEXTURE_PX
        return np.ascontiguousarray(texture("grain")[rows[:, None], columns])

    def _coarse_shares(self, top: int, height: int) -> tuple[Field, Field]:
        """Compartment shares [compartment, row, column] within tissue, and the share of tissue, coarse."""
        shape = (-(-height // COARSE), -(-self._recipe.width_px // COARSE))
        logits = np.stack([self._from_grid(g, top=top, shape=shape, step=COARSE) for g in self._terrain.logits])
        for index in range(len(logits)):
            # A little noise frays the borders between compartments.
            logits[index] += 4.0 * (self._grain(top, shape, step=COARSE, shift=index + 1) / np.float32(255) - 0.5)
        glass = self._from_grid(self._terrain.glass, top=top, shape=shape, step=COARSE)
        glass += 1.2 * (self._grain(top, shape, step=COARSE, shift=7) / np.float32(255) - 0.5)
        return softmax(logits), 1 - glass_share(2 * glass)

    def _dye_background(self, top: int, shape: tuple[int, int]) -> tuple[Canvas, Canvas]:
        """Haematoxylin and eosin without nuclei, uint8 in units of `H_MAX` and `E_MAX`."""
        shares, tissue = self._coarse_shares(top, shape[0])
        _, stroma, _, adipose, _ = shares
        grain = self._grain(top, shape, step=1) / np.float32(255)
        eosin = _enlarge(np.tensordot(BASE_EOSIN, shares, axes=1), shape) * (0.62 + 0.76 * grain)
        # Collagen runs along the fibres, walls of fat cells straight: nuclei are sown by the same coordinates.
        fibres = (
            self._from_grid(g, top=top, shape=shape, step=1) for g in (self._terrain.along_um, self._terrain.across_um)
        )
        fibre = _lay(texture("fibre"), *fibres) / np.float32(255)
        eosin += _enlarge(stroma, shape) * (FIBRE_EOSIN[0] + FIBRE_EOSIN[1] * fibre)
        x_um = (np.arange(shape[1], dtype=np.float32) + 0.5) * self._recipe.um_per_px
        y_um = (np.arange(top, top + shape[0], dtype=np.float32) + 0.5) * self._recipe.um_per_px
        walls = _lay(cell_walls(), *np.broadcast_arrays(x_um, y_um[:, None]))
        eosin += _enlarge(adipose, shape) * walls * np.float32(WALL_EOSIN / 255)
        haematoxylin = _enlarge(np.tensordot(BASE_HAEMATOXYLIN, shares, axes=1), shape) * (0.55 + 0.9 * grain)
        whole = _enlarge(tissue, shape)
        return tuple(
            np.asarray(cv2.convertScaleAbs(np.multiply(dye, whole), alpha=255 / maximum), np.uint8)
            for dye, maximum in ((haematoxylin, H_MAX), (eosin, E_MAX))
        )

    def _stamp_nuclei(self, haematoxylin: Canvas, top: int) -> None:
        height = haematoxylin.shape[0]
        y_px = self._nuclei.y_px
        near = slice(*np.searchsorted(y_px, [top - self._reach_px, top + height + self._reach_px]))
        placed = (self._nuclei.x_px[near], y_px[near] - top, self._nuclei.stamp[near])
        for x, y, which in zip(*(each.tolist() for each in placed), strict=True):
            stamp = self._stamps[which]
            half = stamp.shape[0] // 2
            y0, x0 = max(y - half, 0), max(x - half, 0)
            target = haematoxylin[y0 : max(y + half + 1, 0), x0 : max(x + half + 1, 0)]
            if target.size:
                dy, dx = y0 - (y - half), x0 - (x - half)
                np.maximum(target, stamp[dy : dy + target.shape[0], dx : dx + target.shape[1]], out=target)


def _enlarge(plane: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """A coarse plane at full resolution; the coarse canvas may reach past the slide by up to three pixels."""
    size = (plane.shape[1] * COARSE, plane.shape[0] * COARSE)
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)[: shape[0], : shape[1]])


def _lay(periodic: Canvas, across: Field, down: Field) -> Canvas:
    """A periodic texture at these coordinates [row, column]."""
    maps = (np.ascontiguousarray(axis) for axis in (across, down))
    return np.asarray(cv2.remap(periodic, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.uint8)


def paint_pen(rgb: Canvas, recipe: SlideRecipe, *, top_px: int) -> None:
    """Lay the recipe's pen line, an arc round a corner of the tissue, over a strip that starts at a row, in place."""
    if recipe.pen is None:
        return
    rng = make_rng(recipe.seed, "pen")
    angle = np.linspace(0.05, 1.55, 40) + rng.uniform(-0.1, 0.1)
    wobble = 1 + 0.012 * np.cumsum(rng.normal(0, 0.5, len(angle)))
    x = recipe.width_px * (0.5 + 0.40 * wobble * np.cos(angle))
    y = recipe.height_px * (0.5 + 0.41 * wobble * np.sin(angle))
    points = (np.stack([x, y], axis=1) - [0, top_px]) / COARSE
    width = max(1, round(LINE_UM / recipe.um_per_px / COARSE))
    mask = np.zeros((-(-rgb.shape[0] // COARSE), -(-rgb.shape[1] // COARSE)), np.uint8)
    cv2.polylines(mask, [np.rint(points * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, 4)
    if not mask.any():
        return
    # Ink pools at the border of a stroke.
    core = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=max(1, width // 14))
    cover = _enlarge(cv2.addWeighted(mask, 0.80, cv2.subtract(mask, core), 0.20, 0), rgb.shape)
    for channel, ink in enumerate(INK[recipe.pen]):
        light = np.rint(255 * 10 ** (-ink * np.arange(256) / 255)).astype(np.uint8)
        rgb[..., channel] = cv2.multiply(rgb[..., channel], cv2.LUT(cover, light), scale=1 / 255)


def blur_patch(rgb: Canvas, recipe: SlideRecipe, *, top_px: int) -> None:
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


def _cut_tiles(strips: Iterable[Canvas], reduced: list[Canvas]) -> Iterator[Canvas]:
    """Tiles in row-major order; each strip is kept reduced by `COARSE`, a sixteenth of its pixels."""
    for strip in strips:
        size = (strip.shape[1] // COARSE, strip.shape[0] // COARSE)
        if size[1]:
            reduced.append(np.asarray(cv2.resize(strip, size, interpolation=cv2.INTER_AREA), np.uint8))
        yield from (strip[:, left : left + STRIP_PX] for left in range(0, strip.shape[1], STRIP_PX))


def write_pyramid(path: Path, strips: Iterable[Canvas], recipe: SlideRecipe) -> None:
    """Write strips as a tiled pyramid, JPEG in tiles, with its resolution in the TIFF tags; the image is never held.

    Raises
    ------
    OutputError
        The folder cannot be written or the disk is full.
    """
    with write_atomically(path) as temporary, tifffile.TiffWriter(temporary) as writer:
        shape: tuple[int, ...] = (recipe.height_px, recipe.width_px, 3)
        for level in range(LEVELS):
            reduced: list[Canvas] = []
            pixels_per_cm = UM_PER_CM / (recipe.um_per_px * (recipe.width_px / shape[1]))
            writer.write(
                _cut_tiles(strips, reduced),
                shape=shape,
                subfiletype=1 if level else 0,
                dtype=np.uint8,
                tile=(STRIP_PX, STRIP_PX),
                # Compressed as YCbCr, which the tags then say.
                photometric="rgb",
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                resolution=(pixels_per_cm, pixels_per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
                # The name that the slides of the shipped bundle carry.
                software="histocast demo-data",
                maxworkers=available_threads(),
            )
            image = np.concatenate(reduced)
            shape, strips = image.shape, [image[top : top + STRIP_PX] for top in range(0, image.shape[0], STRIP_PX)]
