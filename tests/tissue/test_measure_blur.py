"""Blur orders focus, and does not mistake a weak stain for it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from histocast.tissue import find_tissue


def test_blur_rises_with_defocus(paint):
    painting = paint(um_per_px=4.0)
    where = painting.ellipse(0.5, 0.5, 0.35, 0.4)
    painting.add_section(where)
    picture = painting.picture()
    levels = []
    for sigma_px in (0.0, 1.0, 2.0, 4.0):
        seen = cv2.GaussianBlur(picture, (0, 0), sigma_px) if sigma_px else picture
        levels.append(float(np.median(find_tissue(seen, 4.0).blur[where])))
    assert levels == sorted(levels)
    assert levels[0] < 0.2
    assert levels[-1] > 0.8


def test_a_blurred_half_is_told_from_a_sharp_half(paint):
    painting = paint(um_per_px=4.0)
    where = painting.ellipse(0.5, 0.5, 0.35, 0.4)
    painting.add_section(where)
    picture = painting.picture()
    picture[:, 350:] = cv2.GaussianBlur(picture, (0, 0), 4.0)[:, 350:]
    blur = find_tissue(picture, 4.0).blur
    assert np.median(blur[:, :320][where[:, :320]]) < 0.2
    assert np.median(blur[:, 380:][where[:, 380:]]) > 0.8


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_blur_does_not_depend_on_the_strength_of_the_stain(paint, strength):
    painting = paint(um_per_px=4.0)
    where = painting.ellipse(0.5, 0.5, 0.35, 0.4)
    painting.add_section(where, strength=strength)
    assert np.median(find_tissue(painting.picture(), 4.0).blur[where]) < 0.25
