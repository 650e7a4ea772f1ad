"""Tissue is found whatever the stain, the glass and the scale, and nothing else is taken for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from histocast.report.verdict import FAINT_ABSORBANCE
from histocast.tissue import find_tissue


def overlap(found, truth) -> float:
    """Intersection over union."""
    return np.count_nonzero(found & truth) / np.count_nonzero(found | truth)


def section_of(painting):
    return painting.ellipse(0.45, 0.5, 0.22, 0.3)


@pytest.mark.parametrize("strength", [1.6, 1.0, 0.5, 0.25, 0.15])
def test_a_section_is_found_from_dark_to_faint(paint, strength):
    painting = paint()
    painting.add_section(section_of(painting), strength=strength)
    found = find_tissue(painting.picture(), painting.um_per_px)
    assert overlap(found.tissue, painting.section) > 0.9
    assert not found.pen.any()


@pytest.mark.parametrize(
    "glass", [(255, 255, 255), (200, 200, 200), (160, 160, 160), (231, 214, 229), (240, 236, 215), (225, 232, 240)]
)
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_the_background_may_be_grey_or_tinted(paint, glass, strength):
    painting = paint(glass=glass)
    painting.add_section(section_of(painting), strength=strength)
    found = find_tissue(painting.picture(), painting.um_per_px)
    assert overlap(found.tissue, painting.section) > 0.9


@pytest.mark.parametrize(
    "glass", [(255, 255, 255), (243, 241, 242), (160, 160, 160), (231, 214, 229), (240, 236, 215), (0, 0, 0)]
)
@pytest.mark.parametrize("quality", [None, 95, 60])
def test_an_empty_slide_yields_nothing(paint, glass, quality):
    found = find_tissue(paint(glass=glass).picture(quality=quality), 8.0)
    assert not found.tissue.any()
    assert not found.pen.any()
    assert not found.blur.any()


def test_an_empty_slide_with_vignette_dust_and_washed_out_dye_yields_nothing(paint):
    painting = paint()
    row, column = np.mgrid[: painting.rows, : painting.columns]
    corner = ((row / painting.rows - 0.5) ** 2 + (column / painting.columns - 0.5) ** 2)[..., None]
    painting.absorbance += 0.08 * corner
    dye = np.exp(-((row - 250) ** 2 + (column - 350) ** 2) / (2 * 120**2))[..., None]
    painting.absorbance += dye * np.array([0.005, 0.05, 0.015])
    for place in painting.random.integers(20, 480, (60, 2)):
        painting.absorbance[place[0] : place[0] + 2, place[1] : place[1] + 2] += 0.4
    assert not find_tissue(painting.picture(), painting.um_per_px).tissue.any()


def test_slide_edges_and_coverslip_lines_are_not_tissue(paint):
    painting = paint()
    painting.add_section(section_of(painting))
    clean = painting.section
    # A dark holder on the left, warm and not quite black, and a grey slide edge at the bottom.
    painting.absorbance[:, :40] += (1.0, 1.05, 1.1)
    painting.absorbance[-30:, :] += 0.5
    # A coverslip's edge: grey with a coloured fringe a pixel wide.
    painting.absorbance += painting.line([(0.9, 0), (0.92, 1)], 24)[..., None] * 0.3
    painting.absorbance += painting.line([(0.906, 0), (0.926, 1)], 8)[..., None] * np.array([0.05, 0.25, 0.10])
    found = find_tissue(painting.picture(), painting.um_per_px)
    assert overlap(found.tissue, clean) > 0.9
    assert not found.tissue[:, :60].any()
    assert not found.tissue[:, 600:].any()
    assert not found.pen.any()


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("glass", [(243, 241, 242), (231, 214, 229), (200, 200, 200)])
def test_black_or_white_surroundings_of_a_section_are_neither_tissue_nor_glass(paint, compress_jpeg, value, glass):
    painting = paint(glass=glass)
    painting.add_section(section_of(painting), strength=0.6)
    picture = painting.picture(quality=None)
    turned = cv2.getRotationMatrix2D((350, 250), 12, 0.8)
    size = (painting.columns, painting.rows)
    picture = cv2.warpAffine(picture, turned, size, flags=cv2.INTER_AREA, borderValue=(value,) * 3)
    truth = cv2.warpAffine(painting.section.astype(np.uint8), turned, size) > 0
    found = find_tissue(compress_jpeg(picture, 90), painting.um_per_px / 0.8)
    assert overlap(found.tissue, truth) > 0.9
    assert not found.pen.any()


def test_tissue_that_fills_the_picture_is_tissue(paint):
    painting = paint()
    painting.add_section(np.ones((painting.rows, painting.columns), bool))
    assert find_tissue(painting.picture(), painting.um_per_px).tissue.mean() > 0.97


def test_fat_is_tissue_and_a_duct_is_not(paint):
    painting = paint(um_per_px=4.0)
    where = painting.ellipse(0.5, 0.5, 0.45, 0.45)
    row, column = np.mgrid[: painting.rows, : painting.columns]
    fat = (np.hypot((row % 30) - 15, (column % 30) - 15) < 13) & painting.ellipse(0.35, 0.5, 0.15, 0.2)
    duct = painting.ellipse(0.7, 0.5, 0.08, 0.12)
    painting.add_section(where & ~fat & ~duct)
    found = find_tissue(painting.picture(), 4.0).tissue
    assert found[fat].mean() > 0.95
    assert found[duct].mean() < 0.1


@pytest.mark.parametrize("um_per_px", [0.7, 2.0, 4.0, 8.0, 12.0])
def test_the_same_section_is_found_at_every_resolution(paint, um_per_px):
    painting = paint(um_per_px=4.0, rows=600, columns=800)
    painting.add_section(section_of(painting))
    size = round(800 * 4.0 / um_per_px), round(600 * 4.0 / um_per_px)
    way = cv2.INTER_AREA if um_per_px >= 4 else cv2.INTER_CUBIC
    found = find_tissue(cv2.resize(painting.picture(), size, interpolation=way), um_per_px)
    assert found.tissue.shape == found.pen.shape == found.blur.shape == (size[1], size[0])
    truth = cv2.resize(painting.section.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    assert overlap(found.tissue, truth) > 0.93


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (3, 5)])
def test_a_picture_of_a_few_pixels_is_judged_without_failing(shape):
    found = find_tissue(np.full((*shape, 3), 240, np.uint8), 0.25)
    assert found.tissue.shape == shape
    assert not found.tissue.any()


@pytest.mark.parametrize("section", ["C2", "C3", "C4", "C5", "C6"])
def test_the_spots_of_real_sections_lie_on_tissue(shared_data: Path, section):
    um_per_px = 0.69
    picture = cv2.imread(str(shared_data / "her2st" / "images" / f"{section}.jpg"), cv2.IMREAD_REDUCED_COLOR_4)
    lines = (shared_data / "her2st" / "spots" / f"{section}_selection.tsv").read_text().splitlines()[1:]
    spots = np.array([[float(cell) for cell in line.split("\t")[4:6]] for line in lines]) / 4
    found = find_tissue(np.ascontiguousarray(picture[..., ::-1]), 4 * um_per_px).tissue
    half = round(50 / um_per_px / 4)
    shares = [
        found[max(0, int(y) - half) : int(y) + half, max(0, int(x) - half) : int(x) + half].mean() for x, y in spots
    ]
    assert np.mean(np.array(shares) >= 0.5) > 0.97
    # The rest of the picture is glass, washed-out eosin and printed spots; the section covers about a sixth.
    assert 0.15 < found.mean() < 0.19


def test_what_could_not_be_read_is_never_tissue_and_only_presumed_next_to_it(paint):
    painting = paint()
    painting.add_section(section_of(painting))
    whole = find_tissue(painting.picture(), painting.um_per_px)
    hole = np.zeros((painting.rows, painting.columns), bool)
    hole[200:260, 250:330] = True
    hole[:60, 600:] = True
    picture = painting.picture()
    picture[hole] = 128
    found = find_tissue(picture, painting.um_per_px, hole)
    assert not (found.tissue | found.pen)[hole].any()
    assert found.presumed[200:260, 250:330].all(), "inside the section"
    assert not found.presumed[:60].any(), "on glass"
    assert overlap(found.tissue, whole.tissue & ~hole) > 0.98
    assert not found.blur[hole].any()


@pytest.mark.parametrize(("strength", "faint"), [(1.0, False), (0.5, False), (0.15, True)])
def test_a_faded_section_is_known_by_its_absorbance(paint, strength, faint):
    painting = paint()
    painting.add_section(section_of(painting), strength=strength)
    stain = find_tissue(painting.picture(), painting.um_per_px).stain_absorbance
    assert (stain < FAINT_ABSORBANCE) == faint


def test_only_a_picture_without_any_colour_is_colourless(paint):
    painting = paint(glass=(240, 236, 215))
    assert find_tissue(painting.picture(), 8.0).colourless
    painting.add_section(painting.ellipse(0.5, 0.5, 0.02, 0.02), strength=0.5)
    coloured = painting.picture()
    assert not find_tissue(coloured, 8.0).colourless
    grey = np.repeat(coloured.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    found = find_tissue(grey, 8.0)
    assert found.colourless
    assert not found.tissue.any()
    assert found.stain_absorbance is None
