"""Ink of every common colour is found, taken out of the tissue, and stain is never taken for ink."""

from __future__ import annotations

import numpy as np
import pytest

from histocast.tissue import find_tissue

INKS = {
    "blue": (30, 60, 180),
    "dark blue": (25, 35, 110),
    "light blue": (60, 140, 215),
    "green": (30, 130, 80),
    "teal": (20, 120, 110),
    "light green": (120, 200, 90),
    "black": (35, 35, 38),
    "grey": (75, 75, 75),
    "red": (205, 40, 50),
}


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_a_pen_line_around_a_section_is_pen_and_not_tissue(paint, ink, strength):
    painting = paint()
    painting.add_section(painting.ellipse(0.4, 0.5, 0.2, 0.25), strength=strength)
    ring = painting.ellipse(0.42, 0.5, 0.36, 0.45) & ~painting.ellipse(0.42, 0.5, 0.33, 0.41)
    found = find_tissue(painting.add_ink(ring, INKS[ink]).picture(), painting.um_per_px)
    assert found.pen[ring].mean() > 0.95
    assert found.tissue[ring].mean() < 0.01
    assert found.tissue[painting.section].mean() > 0.95
    assert (found.tissue & ~painting.section).sum() < 0.03 * painting.section.sum()
    assert found.pen[painting.section].mean() < 0.01


@pytest.mark.parametrize("ink", ["blue", "dark blue", "green", "teal", "black"])
def test_pen_over_tissue_is_pen(paint, ink):
    painting = paint()
    painting.add_section(painting.ellipse(0.5, 0.5, 0.3, 0.4))
    stroke = painting.line([(0.3, 0.3), (0.7, 0.7)], 700)
    found = find_tissue(painting.add_ink(stroke, INKS[ink]).picture(), painting.um_per_px)
    assert found.pen[stroke].mean() > 0.9
    assert not (found.tissue & found.pen).any()


@pytest.mark.parametrize("ink", INKS)
def test_pen_alone_leaves_an_otherwise_empty_slide_empty(paint, ink):
    painting = paint()
    letters = painting.line([(0.1, 0.2), (0.3, 0.8), (0.5, 0.2), (0.7, 0.8)], 600)
    found = find_tissue(painting.add_ink(letters, INKS[ink]).picture(), painting.um_per_px)
    assert not found.tissue.any()
    assert found.pen[letters].mean() > 0.95
    assert found.pen.mean() < 2 * letters.mean()


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("balance", [(1, 0), (0, 1), (1, 1)])
def test_no_mixture_of_haematoxylin_and_eosin_is_pen(paint, strength, balance):
    painting = paint()
    where = painting.ellipse(0.5, 0.5, 0.3, 0.4)
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    dye = balance[0] * haematoxylin * painting.noise(1.5)[..., None] + balance[1] * eosin * painting.noise(3)[..., None]
    painting.absorbance += where[..., None] * strength * dye
    found = find_tissue(painting.picture(), painting.um_per_px)
    assert not found.pen.any()
    assert found.tissue[where].mean() > 0.95


def test_real_sections_hold_no_pen(shared_data):
    import cv2

    for section in ("C2", "C3", "C4", "C5", "C6"):
        picture = cv2.imread(str(shared_data / "her2st" / "images" / f"{section}.jpg"), cv2.IMREAD_REDUCED_COLOR_8)
        assert find_tissue(np.ascontiguousarray(picture[..., ::-1]), 8 * 0.69).pen.mean() < 1e-4
