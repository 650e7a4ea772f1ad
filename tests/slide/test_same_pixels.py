"""The fast reader gives the pixels OpenSlide gives, whatever the slide is stored as."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from time import sleep

import cv2
import numpy as np
import openslide
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histocast.slide.stacks import StackGrid
from histocast.slide.tiff import TiffReader
from histocast.storage.local import LocalSource
from made_slides import Pixels, Recipe, paint_arrays, write_slide
from read_back import read_all

JPEG = [
    Recipe(1000, 777, tile, subsampling=subsampling, colour=colour, shared_tables=shared, layout=layout)
    for subsampling, colour, shared, tile, layout in product(
        ("444", "422", "420"),
        ("rgb", "ycbcr"),
        (True, False),
        ((240, 240), (256, 128)),
        ("aperio", "generic"),
    )
]
OTHER = [
    Recipe(1000, 777, (240, 240), compression=compression, layout="aperio")
    for compression in ("deflate", "lzw", "zstd", "jpeg2000", "jpeg2000-rgb")
]


def openslide_region(slide: openslide.OpenSlide, left: int, top: int, side: int, level: int = 0) -> Pixels:
    scale = slide.level_downsamples[level]
    rgba = np.asarray(slide.read_region((round(left * scale), round(top * scale)), level, (side, side)))
    return np.where(rgba[..., 3:] == 0, 255, rgba[..., :3]).astype(np.uint8)


@pytest.mark.parametrize(
    "recipe",
    [*JPEG, *OTHER],
    ids=lambda r: f"{r.compression}-{r.subsampling}-{r.colour}-tables{r.shared_tables:d}-{r.tile_px[0]}-{r.layout}",
)
def test_whole_slide_and_its_borders(recipe: Recipe, texture: Pixels, tmp_path: Path, open_at) -> None:
    path = write_slide(tmp_path / "slide.svs", recipe, paint_arrays(texture))
    slide = open_at(path)
    assert slide.facts.reader == "tiff"
    tiles, readable, _ = read_all(slide, [[500, 388.5]], tile_px=1100, um_per_px=0.25)
    assert readable.all()
    with openslide.OpenSlide(path) as oracle:
        np.testing.assert_array_equal(tiles[0], openslide_region(oracle, -50, -161, 1100))
    if recipe.compression != "jpeg2000":  # there the texture is taken as YCbCr
        # Both readers could agree on false colours; the painter knows the true ones.
        assert np.abs(tiles[0][161:938, 50:1050].astype(int) - texture).mean() < 5


@pytest.fixture(scope="module")
def written(texture: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe(1000, 777, (112, 96), subsampling="420", colour="ycbcr")
    return write_slide(tmp_path_factory.mktemp("slides") / "slide.svs", recipe, paint_arrays(texture))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    corners=st.lists(st.tuples(st.integers(-300, 1100), st.integers(-300, 900)), min_size=1, max_size=12),
    side=st.integers(1, 300),
    batch_tiles=st.integers(1, 5),
)
def test_random_regions(written: Path, open_at, corners, side: int, batch_tiles: int) -> None:
    slide = open_at(written)
    centres = np.array(corners) + side / 2
    tiles, readable, _ = read_all(slide, centres, tile_px=side, um_per_px=0.25, batch_tiles=batch_tiles)
    assert readable.all()
    with openslide.OpenSlide(written) as oracle:
        for (left, top), tile in zip(corners, tiles, strict=True):
            np.testing.assert_array_equal(tile, openslide_region(oracle, left, top, side))


def test_a_real_aperio_slide(shared_data: Path, open_at) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    slide = open_at(path)
    random = np.random.default_rng(0)
    corners = random.integers([-200, -200], [2300, 3000], (150, 2))
    tiles, readable, _ = read_all(slide, corners + 100, tile_px=200, um_per_px=slide.facts.um_per_px)
    assert readable.all()
    with openslide.OpenSlide(path) as oracle:
        for (left, top), tile in zip(corners.tolist(), tiles, strict=True):
            np.testing.assert_array_equal(tile, openslide_region(oracle, left, top, 200))


def test_lower_levels(texture: Pixels, tmp_path: Path, open_at) -> None:
    # Uncompressed, so that what is compared is the painter's pixels, to the bit.
    half = cv2.resize(texture[:776], (500, 388), interpolation=cv2.INTER_AREA)
    recipe = Recipe(1000, 776, (64, 64), sizes=((500, 388),), compression="none")
    path = write_slide(tmp_path / "slide.svs", recipe, paint_arrays(texture[:776], half))
    tiles, _, _ = read_all(open_at(path), [[200, 300], [997, 5]], tile_px=80, um_per_px=0.5)
    np.testing.assert_array_equal(tiles[0], half[110:190, 60:140])


def test_striped_tiff_equals_the_painted_pixels(texture: Pixels, tmp_path: Path, open_at) -> None:
    recipe = Recipe(1000, 777, (0, 64), compression="lzw", layout="strips")
    path = write_slide(tmp_path / "slide.tif", recipe, paint_arrays(texture))
    slide = open_at(path)
    assert slide.facts.reader == "tiff"
    tiles, _, _ = read_all(slide, [[500, 388.5]], tile_px=1000, um_per_px=0.25)
    np.testing.assert_array_equal(tiles[0][111:888], texture)


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
def test_no_block_is_decoded_again_while_tiles_are_cut_from_it(
    near: bool, texture: Pixels, tmp_path: Path, open_at, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first and the third tile lie in one block, which the second, between them and lower down, does without.
    centres = [[50, 50], [350, 650], [650, 50]]
    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777, (768, 256)), paint_arrays(texture))
    decode, copy_window = TiffReader.decode, StackGrid.copy_window

    def decode_late(self: TiffReader, level: int, block: int, payload: object, into: Pixels) -> None:
        # As the JPEG library does, which begins with black.
        into[:] = 0
        sleep(0.1)
        decode(self, level, block, payload, into)

    def copy_late(self: StackGrid, *wanted: object) -> str | None:
        sleep(0.05)
        return copy_window(self, *wanted)

    monkeypatch.setattr(LocalSource, "is_local", near)
    monkeypatch.setattr(TiffReader, "decode", decode_late)
    monkeypatch.setattr(StackGrid, "copy_window", copy_late)
    tiles, _, _ = read_all(open_at(path), centres, tile_px=100, um_per_px=0.25)
    with openslide.OpenSlide(path) as oracle:
        for tile, (x, y) in zip(tiles, centres, strict=True):
            np.testing.assert_array_equal(tile, openslide_region(oracle, x - 50, y - 50, 100))
