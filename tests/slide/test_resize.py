"""Averaging by area is what the definition says, whatever the two sides are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocast.slide.resize import area_weights, resizer
from made_slides import Pixels


def averaged(pixels: Pixels, side: int) -> np.ndarray:
    """Each pixel repeated until a tile's pixel is a whole number of copies, and the copies averaged."""
    size = len(pixels)
    fine = np.repeat(np.repeat(pixels.astype(np.float64), side, axis=0), side, axis=1)
    return fine.reshape(side, size, side, size, 3).mean(axis=(1, 3))


def resized(pixels: Pixels, side: int) -> Pixels:
    resize = resizer(len(pixels), side)
    assert resize is not None
    resize.window[:] = pixels
    tile = np.full((side, side, 3), 77, np.uint8)
    resize.write(tile)
    return tile


@settings(max_examples=150, deadline=None)
@given(
    sides=st.tuples(st.integers(2, 60), st.integers(1, 59)).filter(lambda sides: sides[0] > sides[1]),
    seed=st.integers(0, 2**32 - 1),
)
def test_shrinking_is_the_average_of_the_area_rounded(sides: tuple[int, int], seed: int) -> None:
    size, side = sides
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    np.testing.assert_allclose(resized(pixels, side), averaged(pixels, side), atol=0.5001)


@settings(max_examples=150, deadline=None)
@given(size=st.integers(1, 3000), side=st.integers(1, 600))
def test_each_pixel_counts_by_its_share_of_the_area(size: int, side: int) -> None:
    weights = area_weights(max(size, side), min(size, side)).toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.sum(axis=0), min(size, side) / max(size, side), rtol=1e-5)


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_an_even_colour_stays_as_it_is(value: int) -> None:
    assert (resized(np.full((508, 508, 3), value, np.uint8), 256) == value).all()


@pytest.mark.parametrize(("size", "side"), [(508, 256), (513, 256), (253, 224), (1024, 336)])
def test_it_differs_from_opencv_by_rounding_alone(size: int, side: int) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    expected = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    difference = np.abs(resized(pixels, side).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


def test_a_window_of_the_tiles_size_needs_nothing() -> None:
    assert resizer(256, 256) is None
