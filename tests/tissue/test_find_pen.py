"""Ink of every common colour is found, taken out of the tissue, and stain is never taken for ink."""

from __future__ import annotations

import cv2
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
    for section in ("C2", "C3", "C4", "C5", "C6"):
        picture = cv2.imread(str(shared_data / "her2st" / "images" / f"{section}.jpg"), cv2.IMREAD_REDUCED_COLOR_8)
        picture = np.ascontiguousarray(picture[..., ::-1])
        assert find_tissue(picture, 8 * 0.69).pen.mean() < 1e-4, section
        assert find_tissue(cv2.GaussianBlur(picture, (0, 0), 3.5), 8 * 0.69).pen.mean() < 1e-3, "out of focus"


UM_PER_PX = 8.0

SWEEP_INKS = {
    "blue": (30, 60, 180),
    "navy": (20, 25, 90),
    "royal blue": (65, 75, 200),
    "light blue": (110, 150, 225),
    "indigo": (60, 40, 150),
    "violet": (110, 45, 150),
    "purple": (120, 30, 110),
    "light violet": (160, 110, 190),
    "green": (30, 130, 80),
    "red": (205, 40, 50),
    "crimson": (150, 20, 50),
    "orange": (225, 110, 50),
    "black": (25, 25, 28),
}


def draw_over(picture, shares, ink, opacity):
    """The picture with ink of an opacity over it; ``shares`` of each pixel are covered."""
    covered = (shares * opacity)[..., None]
    return np.round(picture * (1 - covered) + np.array(ink) * covered).astype(np.uint8)


def stroke_through(shape, um_per_px, width_um, start):
    """A stroke from glass across the middle, [row, column], as shares of pixels covered."""
    rows, columns = shape
    canvas = np.zeros((rows * 4, columns * 4), np.uint8)
    ends = [(int(x * 4 * columns), int(y * 4 * rows)) for x, y in ((start, start), (0.5, 0.55), (0.62, 1 - start))]
    cv2.polylines(canvas, [np.array(ends, np.int32)], False, 255, max(1, round(4 * width_um / um_per_px)), cv2.LINE_AA)
    return cv2.GaussianBlur(cv2.resize(canvas, (columns, rows), interpolation=cv2.INTER_AREA) / 255.0, (0, 0), 0.6)


# Paler than an optical density of 0.12, ink passes for stain; a thin grey line may be a coverslip's edge.
PALE = ("light blue", "light violet")
# Broad strokes need large pictures, which cost most of the sweep's time: four inks are drawn there. Of the other
# combinations every second one is tried, so that each ink has each width, and each width both opacities.
BROAD = ("blue", "violet", "red", "black")
SWEEP = [
    (ink, width_um, 1.0 if ink in PALE or (ink, width_um) == ("black", 45) else opacities[(number + step) % 2])
    for opacities in [(0.6, 1.0)]
    for number, ink in enumerate(SWEEP_INKS)
    for step, width_um in enumerate((45, 150, 500, 1500))
    if width_um < 1500 or ink in BROAD
]


@pytest.mark.parametrize(("ink", "width_um", "opacity"), SWEEP)
def test_ink_of_every_colour_width_and_opacity_is_pen_and_costs_no_tissue_elsewhere(
    paint, compress_jpeg, ink, width_um, opacity
):
    # A broad stroke must not run along the image's side, where it would be the edge of the slide.
    side = 2 if width_um == 1500 else 1
    painting = paint(rows=220 * side, columns=260 * side)
    picture = painting.add_section(painting.ellipse(0.6, 0.55, 0.3, 0.35)).picture()
    tissue = painting.section
    shares = stroke_through(picture.shape[:2], UM_PER_PX, width_um, start=0.2 if width_um == 1500 else 0.05)
    found = find_tissue(compress_jpeg(draw_over(picture, shares, SWEEP_INKS[ink], opacity), 90), UM_PER_PX)
    near_tissue = cv2.dilate(tissue.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    on_glass, untouched = (shares > 0.6) & ~near_tissue, tissue & (cv2.blur(shares, (25, 25)) == 0)
    assert found.pen[on_glass].mean() > 0.85
    assert found.tissue[on_glass].mean() < 0.1, "the very end of a thin line may pass for tissue"
    if untouched.sum() > 200:
        assert found.tissue[untouched].mean() > 0.97
