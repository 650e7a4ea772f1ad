"""A tile holds the pixels at its place: a slip of one pixel fails.

Every pixel of these slides states its own column, row and level, uncompressed, so that what was read says
where it was read.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histocast.errors import DataError
from made_slides import Pixels, Recipe, paint_arrays, write_slide
from read_back import read_all

WIDTH, HEIGHT = 1000, 777
# 1000 / 437 = 2.288, 777 / 339 = 2.292; 1000 / 130 = 7.69, 777 / 101 = 7.69
SIZES = ((WIDTH, HEIGHT), (437, 339), (130, 101))


def paint_places(level: int, top: int, left: int, height: int, width: int) -> Pixels:
    row, column = np.mgrid[top : top + height, left : left + width]
    return np.stack([column % 256, row % 256, column // 256 + 4 * (row // 256) + 64 * level], axis=-1).astype(np.uint8)


def expected_window(level: int, left: int, top: int, side: int) -> Pixels:
    window = paint_places(level, top, left, side, side)
    rows, columns = np.arange(top, top + side), np.arange(left, left + side)
    width, height = SIZES[level]
    window[(rows < 0) | (rows >= height)] = 255
    window[:, (columns < 0) | (columns >= width)] = 255
    return window


def nearest_corner(centre: float, downsample: float, side: int) -> int:
    """Left or top of the window of ``side`` pixels whose middle is nearest to ``centre``."""
    wanted = centre / downsample - side / 2
    candidates = range(int(wanted) - 2, int(wanted) + 3)
    return min(candidates, key=lambda corner: (abs(corner - wanted), -corner))


@pytest.fixture(scope="module", params=["tiles", "strips"])
def coded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(
        WIDTH,
        HEIGHT,
        (48, 80) if request.param == "tiles" else (0, 33),
        sizes=SIZES[1:],
        compression="none",
        layout="generic" if request.param == "tiles" else "strips",
        um_per_px=0.25,
    )
    return write_slide(tmp_path_factory.mktemp("slides") / "coded.tif", recipe, paint_places)


# Interior, every border and corner, beyond every border, and wholly outside.
CENTRES = [
    (x, y)
    for x in (-400.0, -3.2, 0.0, 0.5, 17.49, 499.5, 500.0, 987.6, 999.5, 1000.0, 1021.3, 1500.0)
    for y in (-300.0, -0.7, 0.0, 11.51, 388.5, 776.4, 777.0, 790.9)
]


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("side", [16, 33])
def test_every_border_of_every_level(coded: Path, open_at, level: int, side: int) -> None:
    slide = open_at(coded)
    downsamples = [WIDTH / SIZES[level][0], HEIGHT / SIZES[level][1]]
    um_per_px = 0.25 * sum(downsamples) / 2
    tiles, readable, _ = read_all(slide, CENTRES, tile_px=side, um_per_px=um_per_px)
    assert readable.all()
    for (x, y), tile in zip(CENTRES, tiles, strict=True):
        left, top = nearest_corner(x, downsamples[0], side), nearest_corner(y, downsamples[1], side)
        np.testing.assert_array_equal(tile, expected_window(level, left, top, side), err_msg=f"centre {(x, y)}")


@pytest.mark.parametrize(
    ("um_per_px", "level", "window_px"),
    [
        (0.25, 0, 24),
        (0.5, 0, 48),
        (0.57, 0, 55),  # just finer than level 1: 0.25 * 2.29
        (0.575, 1, 24),
        (1.0, 1, 42),
        (2.0, 2, 25),
    ],
)
def test_physical_size_decides_the_level(coded: Path, open_at, um_per_px: float, level: int, window_px: int) -> None:
    tiles, _, _ = read_all(open_at(coded), [(480.0, 390.0)], tile_px=24, um_per_px=um_per_px)
    left = nearest_corner(480.0, WIDTH / SIZES[level][0], window_px)
    top = nearest_corner(390.0, HEIGHT / SIZES[level][1], window_px)
    window = expected_window(level, left, top, window_px)
    np.testing.assert_array_equal(tiles[0], cv2.resize(window, (24, 24), interpolation=cv2.INTER_AREA))


def test_a_coarse_slide_is_enlarged_up_to_twice_and_then_refused(coded: Path, open_at) -> None:
    slide = open_at(coded, mpp=0.9)
    tiles, _, _ = read_all(slide, [(480.0, 390.0)], tile_px=40, um_per_px=0.45)
    window = expected_window(0, 470, 380, 20)
    np.testing.assert_array_equal(tiles[0], cv2.resize(window, (40, 40), interpolation=cv2.INTER_LINEAR))
    with pytest.raises(DataError, match="too coarse") as refusal:
        slide.read_tiles(np.zeros((1, 2)), tile_px=40, um_per_px=0.44, threads=1)
    assert refusal.value.exit_code == 65


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    centres=st.lists(st.tuples(st.floats(-200, 1200), st.floats(-200, 1000)), min_size=1, max_size=20),
    side=st.integers(1, 90),
    level=st.integers(0, 2),
)
def test_random_places(coded: Path, open_at, centres, side: int, level: int) -> None:
    scale = (WIDTH / SIZES[level][0], HEIGHT / SIZES[level][1])
    um_per_px = 0.25 * sum(scale) / 2
    tiles, _, _ = read_all(open_at(coded), centres, tile_px=side, um_per_px=um_per_px, batch_tiles=3)
    for (x, y), tile in zip(centres, tiles, strict=True):
        left, top = np.floor(np.array([x, y]) / scale - side / 2 + 0.5).astype(int).tolist()
        np.testing.assert_array_equal(tile, expected_window(level, left, top, side))


def test_thumbnail_is_the_slide_in_small(texture: Pixels, tmp_path: Path, open_at) -> None:
    recipe = Recipe(1000, 777, (240, 240), compression="none")
    slide = open_at(write_slide(tmp_path / "slide.svs", recipe, paint_arrays(texture)))
    thumbnail, um_per_px = slide.thumbnail(max_px=250)
    assert thumbnail.shape == (195, 250, 3)
    assert um_per_px == pytest.approx(1.0)
    padded = cv2.copyMakeBorder(texture, 0, 3, 0, 0, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    np.testing.assert_array_equal(thumbnail, cv2.resize(padded, (250, 195), interpolation=cv2.INTER_AREA))


def test_thumbnail_comes_from_the_coarsest_sufficient_level(coded: Path, open_at) -> None:
    thumbnail, um_per_px = open_at(coded).thumbnail(max_px=300)
    assert thumbnail.shape[:2] == (170, 219)
    assert um_per_px == pytest.approx(0.25 * (1000 / 437 + 777 / 339) / 2 * 2)
    # The blue channel states the level.
    assert (thumbnail[:128, :100, 2] == 64).all()


def test_a_dropped_row_does_not_change_the_scale(tmp_path: Path, open_at) -> None:
    recipe = Recipe(1003, 779, (64, 64), sizes=((250, 194), (62, 48)), compression="none", layout="generic")
    slide = open_at(write_slide(tmp_path / "slide.tif", recipe, paint_places))
    assert [level.downsample for level in slide.facts.levels] == [1, 4, 16]


def test_no_tiles_are_no_error(coded: Path, open_at) -> None:
    assert list(open_at(coded).read_tiles(np.zeros((0, 2)), tile_px=32, um_per_px=0.25, threads=1)) == []


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("phase", [0, 1])
def test_shrinking_by_a_whole_factor_is_the_same_wherever_it_happens(
    factor: int, phase: int, tmp_path: Path, open_at
) -> None:
    """At phase 0 blocks are shrunk as they are decoded, else windows are: the pixels must not tell which."""
    random = np.random.default_rng(factor)
    pixels = random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    recipe = Recipe(WIDTH, HEIGHT, (48, 96), compression="none", layout="generic")
    slide = open_at(write_slide(tmp_path / "slide.tif", recipe, paint_arrays(pixels)))
    side, window_px = 20, 20 * factor
    corners = random.integers(-2, 60, (60, 2)) * window_px // 2 // factor * factor + phase
    tiles, _, _ = read_all(slide, corners + window_px / 2, tile_px=side, um_per_px=0.25 * factor)
    padded = cv2.copyMakeBorder(pixels, 200, 2000, 200, 2000, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    for (left, top), tile in zip(corners + 200, tiles, strict=True):
        window = padded[top : top + window_px, left : left + window_px]
        np.testing.assert_array_equal(tile, cv2.resize(window, (side, side), interpolation=cv2.INTER_AREA))


def test_damage_reaches_shrunk_blocks_too(tmp_path: Path, open_at) -> None:
    recipe = Recipe(WIDTH, HEIGHT, (64, 64), compression="jpeg", layout="generic")
    path = write_slide(tmp_path / "slide.tif", recipe, paint_places)
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    with path.open("r+b") as stream:
        stream.seek(place[0])
        stream.write(bytes(place[1]))
    _, readable, reasons = read_all(open_at(path), [(32, 32), (96, 32)], tile_px=32, um_per_px=0.5)
    assert readable.tolist() == [False, True]
    assert "no JPEG" in reasons[0]
