"""What goes wrong with slides: a felt-tip line on the glass, a patch out of focus."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.demo.fields import make_rng
from histocast.demo.recipes import SlideRecipe

INK = {"blue": (1.00, 0.62, 0.21), "green": (1.00, 0.40, 0.56), "black": (1.05, 1.01, 0.98)}
"""Absorbance of red, green and blue by a full layer of ink."""

LINE_UM = 190.0
COARSE = 4

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
