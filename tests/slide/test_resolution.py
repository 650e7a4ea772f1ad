"""Micrometres per pixel: the samplesheet's, else the file's where it is one, else a clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from histocast.errors import DataError
from histocast.slide.resolution import Resolution, aperio_resolution, ome_resolution, tag_resolution
from made_slides import Pixels, Recipe, paint_arrays, write_slide


def write_tagged(path: Path, **options: object) -> Path:
    tifffile.imwrite(
        path, np.zeros((256, 256, 3), np.uint8), photometric="rgb", tile=(128, 128), metadata=None, **options
    )
    return path


def test_the_file_states_it(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777, um_per_px=0.2513), paint_arrays(texture))
    facts = open_at(path).facts
    assert facts.um_per_px == pytest.approx(0.2513)
    assert facts.um_per_px_source == "file"
    assert facts.objective_power == 40
    assert facts.vendor == "aperio"


def test_the_samplesheet_wins(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777, um_per_px=0.25), paint_arrays(texture))
    facts = open_at(path, mpp=0.4).facts
    assert (facts.um_per_px, facts.um_per_px_source) == (0.4, "samplesheet")


@pytest.mark.parametrize("mpp", [0.0, -0.5, 25.0, 0.001, float("nan"), float("inf")])
def test_an_impossible_one_is_refused_wherever_it_comes_from(
    mpp: float, texture: Pixels, tmp_path: Path, open_at
) -> None:
    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777), paint_arrays(texture))
    with pytest.raises(DataError, match="samplesheet column 'mpp'"):
        open_at(path, mpp=mpp)


def test_an_impossible_one_in_the_file_is_refused(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777, um_per_px=25.0), paint_arrays(texture))
    with pytest.raises(DataError, match="25 um/px"):
        open_at(path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (96, 96), "resolutionunit": "INCH"}, None),
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (28.35, 28.35), "resolutionunit": "CENTIMETER"}, None),
        ({"resolution": (20_000, 20_000), "resolutionunit": "NONE"}, None),
        ({}, None),
    ],
)
def test_tags_count_only_where_they_can_be_a_slides(options, expected: float | None, tmp_path: Path, open_at) -> None:
    path = write_tagged(tmp_path / "slide.tif", **options)
    if expected is None:
        with pytest.raises(DataError, match="fill the samplesheet column 'mpp'"):
            open_at(path)
    else:
        assert open_at(path).facts.um_per_px == pytest.approx(expected)


def test_ome_states_it_in_units(tmp_path: Path, open_at) -> None:
    path = tmp_path / "slide.ome.tif"
    tifffile.imwrite(
        path,
        np.zeros((256, 256, 3), np.uint8),
        photometric="rgb",
        tile=(128, 128),
        metadata={"axes": "YXS", "PhysicalSizeX": 442.0, "PhysicalSizeXUnit": "nm"},
    )
    facts = open_at(path).facts
    assert facts.um_per_px == pytest.approx(0.442)
    assert facts.vendor == "ome"


def test_a_plain_image_has_none(texture: Pixels, tmp_path: Path, open_at) -> None:
    import cv2

    path = tmp_path / "section.png"
    path.write_bytes(cv2.imencode(".png", texture)[1].tobytes())
    with pytest.raises(DataError, match="does not state its resolution"):
        open_at(path)
    assert open_at(path, mpp=0.69).facts.um_per_px == 0.69


def test_what_is_read_from_text() -> None:
    assert aperio_resolution("Aperio x|AppMag = 20|MPP = 0.4990|Left = 25.6").um_per_px == 0.499
    assert aperio_resolution("Aperio x|AppMag = 20|MPP = 0,4990|Left = 25,6").um_per_px == 0.499
    assert aperio_resolution("Aperio x|AppMag = 20|MPP = none").unused.endswith("it is no number")
    assert aperio_resolution("Aperio x|XMPP = 3") == Resolution()
    assert ome_resolution({"X": ("0.0005", "mm"), "Y": ("500", "nm")}).um_per_px == 0.5
    assert "lacks a unit" in ome_resolution({"X": ("3", "pixel")}).unused
    assert ome_resolution({}) == Resolution()
    assert tag_resolution(0.0, None, 3) == tag_resolution(None, None, 3) == tag_resolution(1, 1, 1) == Resolution()
    assert "no unit" in tag_resolution(20_000.0, 20_000.0, None).unused
