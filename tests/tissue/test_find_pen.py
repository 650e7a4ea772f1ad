"""Ink of every common colour is found, taken out of the tissue, and stain is never taken for ink."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from histocast.tissue import find_tissue
from histocast.tissue.strokes import find_strokes

HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])

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
    dye = balance[0] * HAEMATOXYLIN * painting.noise(1.5)[..., None] + balance[1] * EOSIN * painting.noise(3)[..., None]
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
    return draw_stroke(shape, um_per_px, width_um, ((start, start), (0.5, 0.55), (0.62, 1 - start)))


def draw_stroke(shape, um_per_px, width_um, points):
    """A stroke through points in shares of the picture's size, [row, column], as shares of pixels covered."""
    rows, columns = shape
    canvas = np.zeros((rows * 4, columns * 4), np.uint8)
    ends = [(int(x * 4 * columns), int(y * 4 * rows)) for x, y in points]
    cv2.polylines(canvas, [np.array(ends, np.int32)], False, 255, max(1, round(4 * width_um / um_per_px)), cv2.LINE_AA)
    return cv2.GaussianBlur(cv2.resize(canvas, (columns, rows), interpolation=cv2.INTER_AREA) / 255.0, (0, 0), 0.6)


# Paler than an optical density of 0.12, ink passes for stain; a thin grey line may be a coverslip's edge.
PALE = ("light blue", "light violet")
# Four inks are drawn in broad strokes. Of the other
# combinations every second one is tried, so that each ink has each width, and each width both opacities.
BROAD = ("blue", "violet", "red", "black")
SWEEP = [
    (ink, width_um, 1.0 if ink in PALE or (ink, width_um) == ("black", 45) else opacities[(number + step) % 2])
    for opacities in [(0.6, 1.0)]
    for number, ink in enumerate(SWEEP_INKS)
    for step, width_um in enumerate((45, 150, 500, 1500))
    if width_um < 1500 or ink in BROAD
]


# Over tissue these are not found: pale and broad at once, in colours that stain has.
MISSED = {("blue", 500), ("royal blue", 500), ("violet", 150), ("violet", 1500)}


@pytest.mark.parametrize(("ink", "width_um", "opacity"), SWEEP)
def test_a_stroke_from_glass_across_tissue_is_pen_and_costs_no_tissue_elsewhere(
    paint, compress_jpeg, ink, width_um, opacity
):
    # A broad stroke needs a larger picture, and must not run along its side, where it would be the edge of the slide.
    um_per_px, start = (2 * UM_PER_PX, 0.2) if width_um == 1500 else (UM_PER_PX, 0.05)
    painting = paint(rows=220, columns=260, um_per_px=um_per_px)
    picture = painting.add_section(painting.ellipse(0.6, 0.55, 0.3, 0.35)).picture()
    tissue = painting.section
    shares = stroke_through(picture.shape[:2], um_per_px, width_um, start=start)
    found = find_tissue(compress_jpeg(draw_over(picture, shares, SWEEP_INKS[ink], opacity), 90), um_per_px)
    near_tissue = cv2.dilate(tissue.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    on_glass, untouched = (shares > 0.6) & ~near_tissue, tissue & (cv2.blur(shares, (25, 25)) == 0)
    assert found.pen[on_glass].mean() > 0.85
    assert found.tissue[on_glass].mean() < 0.1, "the very end of a thin line may pass for tissue"
    if (ink, width_um) not in MISSED:
        inner = cv2.erode(tissue.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert found.pen[(shares > 0.6) & inner].mean() > 0.75, "over tissue"
    if untouched.sum() > 200:
        assert found.tissue[untouched].mean() > 0.97


# At an opacity of 0.6 their colours are those of stain, and there is no glass on which they could be known.
LIKE_STAIN = ("light blue", "indigo", "violet", "light violet")


@pytest.mark.parametrize("width_um", [45, 150])
@pytest.mark.parametrize("ink", SWEEP_INKS)
def test_a_stroke_wholly_within_tissue_is_pen_and_costs_little_tissue_beside_it(paint, compress_jpeg, ink, width_um):
    painting = paint(rows=220, columns=260)
    picture = painting.add_section(painting.ellipse(0.5, 0.5, 0.45, 0.44)).picture()
    shares = draw_stroke(picture.shape[:2], UM_PER_PX, width_um, ((0.3, 0.35), (0.5, 0.52), (0.7, 0.62)))
    untouched = painting.section & (cv2.blur(shares, (25, 25)) == 0)
    for opacity in (1.0,) if ink in LIKE_STAIN else (0.6, 1.0):
        found = find_tissue(compress_jpeg(draw_over(picture, shares, SWEEP_INKS[ink], opacity), 90), UM_PER_PX)
        assert found.pen[shares > 0.6].mean() > 0.65, opacity
        assert found.pen[untouched].mean() < 0.07, opacity


@pytest.mark.parametrize("width_um", [40, 100, 200])
@pytest.mark.parametrize("kind", ["two layers", "one and a half", "nuclei", "stroma"])
def test_folds_and_bands_of_tissue_are_no_strokes(paint, kind, width_um):
    painting = paint(rows=220, columns=260)
    painting.add_section(painting.ellipse(0.5, 0.5, 0.45, 0.44))
    line = painting.line([(0.25, 0.3), (0.75, 0.7)], width_um)[..., None]
    if kind in ("nuclei", "stroma"):
        dye = HAEMATOXYLIN if kind == "nuclei" else EOSIN
        painting.absorbance += line * 0.5 * dye * painting.noise(1.5)[..., None]
    else:
        painting.absorbance *= np.where(line, 2.0 if kind == "two layers" else 1.5, 1)
    found = find_tissue(painting.picture(), painting.um_per_px)
    assert not found.pen.any()
    assert found.tissue[painting.section].mean() > 0.95


def test_strokes_over_a_real_section_are_pen_and_cost_little_of_it(shared_data, compress_jpeg):
    picture = cv2.imread(str(shared_data / "her2st" / "images" / "C2.jpg"), cv2.IMREAD_REDUCED_COLOR_8)
    picture = cv2.resize(picture[..., ::-1], None, fx=8 * 0.69 / 8, fy=8 * 0.69 / 8, interpolation=cv2.INTER_AREA)
    tissue = find_tissue(np.ascontiguousarray(picture), UM_PER_PX).tissue
    left, top, width, height = cv2.boundingRect(tissue.astype(np.uint8))
    window = np.s_[top - 60 : top + height + 60, left - 60 : left + width + 60]
    picture, tissue = picture[window].astype(np.float32), tissue[window]
    rows, columns = tissue.shape
    depth = cv2.distanceTransform(tissue.astype(np.uint8), cv2.DIST_L2, 5)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    reach = 0.75 * depth.max()
    within = [(x - 0.8 * reach, y - 0.5 * reach), (x, y + 0.1 * reach), (x + 0.7 * reach, y + 0.6 * reach)]
    through = [(columns * 0.2, 10), (columns * 0.5, rows * 0.5), (columns * 0.75, rows - 10)]
    for points in (within, through):
        shares = draw_stroke(tissue.shape, UM_PER_PX, 150, [(at / columns, down / rows) for at, down in points])
        under, elsewhere = (shares > 0.6) & tissue, tissue & (cv2.blur(shares, (25, 25)) == 0)
        for ink in ("blue", "red", "black"):
            # A filter: the share of light that an ink of 0.6 of its strength lets through.
            inked = picture * (1 - shares[..., None] * (1 - (np.array(SWEEP_INKS[ink]) / 255) ** 0.6))
            pen = find_tissue(compress_jpeg(np.round(inked).astype(np.uint8), 90), UM_PER_PX).pen
            assert pen[under].mean() > 0.9, ink
            assert pen[elsewhere].mean() < 0.06, ink


@pytest.mark.parametrize("width_um", [250, 350])
@pytest.mark.parametrize("points", [((0.35, 0.85), (0.6, 0.8), (0.9, 0.45)), ((0.3, 0.3), (0.7, 0.7))])
def test_broad_ink_that_is_known_costs_no_tissue_beside_it(paint, points, width_um):
    painting = paint(rows=260, columns=300, um_per_px=12.0)
    painting.add_section(painting.ellipse(0.5, 0.5, 0.45, 0.42))
    known = painting.line(points, width_um)
    painting.absorbance += known[..., None] * (1.0, 0.62, 0.21)
    absorbance, stained = painting.absorbance.astype(np.float32), painting.section & ~known
    beside = cv2.dilate(known.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    assert not (find_strokes(absorbance, stained, 12.0, known=known) & beside).any()
    unknown = np.zeros_like(known)
    assert (find_strokes(absorbance, stained, 12.0, known=unknown) & beside).sum() > 500, (
        "what is filled would cost this"
    )
