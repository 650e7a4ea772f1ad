"""Micrometres per pixel: the samplesheet's, else the file's where it is one, else a clear error."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from histocast.errors import DataError
from histocast.slide.resolution import Resolution, aperio_resolution, ome_resolution, tag_resolution
from made_slides import Pixels, Recipe, paint_arrays, write_slide

PICTURE = cv2.resize(
    np.random.default_rng(5).integers(0, 256, (16, 16, 3), dtype=np.uint8), (256, 256), interpolation=cv2.INTER_CUBIC
)


def write_tagged(path: Path, **options: object) -> Path:
    tifffile.imwrite(path, PICTURE, photometric="rgb", tile=(128, 128), metadata=None, **options)
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


def test_ome_of_another_image_is_not_used(tmp_path: Path, open_at) -> None:
    write_ome(tmp_path / "slide.ome.tif", (0.5, 0.5), "CENTIMETER")
    data = (tmp_path / "slide.ome.tif").read_bytes()
    (tmp_path / "slide.ome.tif").write_bytes(data.replace(b'SizeX="256"', b'SizeX="512"'))

    with pytest.raises(DataError, match=r"describes an image of 512 x 256 px.* because the page has 256 x 256 px"):
        open_at(tmp_path / "slide.ome.tif")


def test_a_plain_image_has_none(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = tmp_path / "section.png"
    path.write_bytes(cv2.imencode(".png", texture)[1].tobytes())
    with pytest.raises(DataError, match="does not state its resolution"):
        open_at(path)
    assert open_at(path, mpp=0.69).facts.um_per_px == 0.69


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m", "mm", "cm", "inch", "nm", "pixel", "furlong"])
def test_imagej_states_the_unit_in_its_description(unit: str, tmp_path: Path, open_at) -> None:
    um = {"mm": 1e3, "cm": 1e4, "inch": 25_400, "nm": 1e-3}.get(unit, 1)
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, PICTURE[None], imagej=True, resolution=(2 * um, 2 * um), metadata={"unit": unit, "axes": "ZYXS"}
    )
    if unit in ("pixel", "furlong"):
        with pytest.raises(DataError, match=f"not used because the unit is {unit}"):
            open_at(path)
    else:
        assert open_at(path).facts.um_per_px == pytest.approx(0.5)


def test_what_is_read_from_text() -> None:
    assert aperio_resolution("Aperio x|AppMag = 20|MPP = 0.4990|Left = 25.6").um_per_px == 0.499
    assert aperio_resolution("Aperio x|AppMag = 20|MPP = 0,4990|Left = 25,6").um_per_px == 0.499
    assert aperio_resolution("Aperio x|AppMag = 20|MPP = none").unused.endswith("it is no number")
    assert "0.5 and 0.25 um/px" in aperio_resolution("Aperio x|MPP = 0.5|MPP = 0.25").unused
    assert aperio_resolution("Aperio x|MPP = 0.5|MPP = 0.50").um_per_px == 0.5
    assert aperio_resolution("Aperio x|MPP = 0_5").unused.endswith("it is no number")
    assert aperio_resolution("Aperio x|XMPP = 3") == Resolution()
    assert ome_resolution({"X": ("0.0005", "mm"), "Y": ("500", "nm")}).um_per_px == 0.5
    assert "lacks a unit" in ome_resolution({"X": ("3", "pixel")}).unused
    assert ome_resolution({}) == Resolution()
    assert tag_resolution(0.0, None, 3) == tag_resolution(None, None, 3) == tag_resolution(1, 1, 1) == Resolution()
    assert "no unit" in tag_resolution(20_000.0, 20_000.0, None).unused


UM_PER_UNIT = {"INCH": 25_400.0, "CENTIMETER": 10_000.0}
UNUSED = "not used because"


def write_jpeg(path: Path, um_per_px: tuple[float, float], unit: str) -> Path:
    """Write a JPEG whose JFIF header states whole pixels per inch or centimetre."""
    data = bytearray(cv2.imencode(".jpg", PICTURE)[1].tobytes())
    across, down = (round(UM_PER_UNIT[unit] / um) for um in um_per_px)
    data[13:18] = struct.pack(">BHH", {"INCH": 1, "CENTIMETER": 2}[unit], across, down)
    path.write_bytes(data)
    return path


def write_exif(path: Path, um_per_px: tuple[float, float], unit: str) -> Path:
    exif = Image.Exif()
    exif[282], exif[283] = (UM_PER_UNIT[unit] / um for um in um_per_px)
    exif[296] = {"INCH": 2, "CENTIMETER": 3}[unit]
    Image.fromarray(PICTURE).save(path, "jpeg", exif=exif)
    return path


def write_png(path: Path, um_per_px: tuple[float, float], unit: str) -> Path:
    """The unit of a PNG is the metre, whatever it is saved with."""
    Image.fromarray(PICTURE).save(path, "png", dpi=tuple(25_400 / um for um in um_per_px))
    return path


def write_tags(path: Path, um_per_px: tuple[float, float], unit: str, software: str | bool = False) -> Path:
    per_unit = tuple(UM_PER_UNIT[unit] / um for um in um_per_px)
    return write_tagged(path, resolution=per_unit, resolutionunit=unit, software=software)


def write_for_openslide(path: Path, um_per_px: tuple[float, float], unit: str) -> Path:
    return write_tags(path, um_per_px, unit, software="MedScan")


def write_ome(path: Path, um_per_px: tuple[float, float], unit: str) -> Path:
    name = {"INCH": "in", "CENTIMETER": "cm"}[unit]
    stated = {f"PhysicalSize{a}": um / UM_PER_UNIT[unit] for a, um in zip("XY", um_per_px, strict=True)}
    units = {"PhysicalSizeXUnit": name, "PhysicalSizeYUnit": name}
    tifffile.imwrite(path, PICTURE, photometric="rgb", ome=True, metadata={"axes": "YXS", **stated, **units})
    return path


FORMATS = [write_tags, write_for_openslide, write_ome, write_jpeg, write_exif, write_png]


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("unit", UM_PER_UNIT)
@pytest.mark.parametrize("um_per_px", [0.25, 0.5, 2.0, 25_400 / 300, 25_400 / 96, 25_400 / 72])
def test_one_rule_for_every_unit_and_format(write, unit: str, um_per_px: float, tmp_path: Path, open_at) -> None:
    if write is write_jpeg and unit == "INCH":
        um_per_px = max(um_per_px, 25_400 / 65_535)
    path = write(tmp_path / "slide", (um_per_px, um_per_px), unit)
    if um_per_px < 10:
        assert open_at(path).facts.um_per_px == pytest.approx(um_per_px, rel=1e-3)
        return
    with pytest.raises(
        DataError, match="not used because that is a resolution of screens" if not ome(write) else UNUSED
    ):
        open_at(path)
    assert open_at(path, mpp=0.5).facts.um_per_px == 0.5


def ome(write) -> bool:
    return write is write_ome


@pytest.mark.parametrize(
    ("write", "place"),
    [
        (write_tags, "TIFF tags"),
        (write_for_openslide, "TIFF tags"),
        (write_jpeg, "JFIF header"),
        (write_exif, "EXIF block"),
    ],
)
def test_a_unit_that_is_none_of_length_is_named(write, place: str, tmp_path: Path, open_at) -> None:
    path = write(tmp_path / "slide", (2.0, 2.0), "CENTIMETER")
    data = bytearray(path.read_bytes())
    if write is write_jpeg:
        data[13] = 9
    else:
        # The tag, its type and the number of its values; in either order of bytes.
        order = "<" if struct.pack("<HHI", 296, 3, 1) in data else ">"
        at = data.index(struct.pack(f"{order}HHI", 296, 3, 1))
        data[at + 8 : at + 10] = struct.pack(f"{order}H", 9)
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{place}, not used because the unit is .*, which is neither inch nor cm"):
        open_at(path)


@pytest.mark.parametrize("write", FORMATS)
def test_pixels_that_are_not_square_are_refused(write, tmp_path: Path, open_at) -> None:
    path = write(tmp_path / "slide", (0.5, 0.6), "CENTIMETER")
    with pytest.raises(DataError, match=r"along x and 0\.6 along y .*not used because they differ by more than 1 %"):
        open_at(path)
    path = write(tmp_path / "nearly", (0.5, 0.502), "CENTIMETER")
    assert open_at(path).facts.um_per_px == pytest.approx(0.501, rel=1e-3)


def write_ome_xml(path: Path, xml: str, **options: object) -> Path:
    tifffile.imwrite(path, PICTURE, photometric="rgb", metadata=None, description=xml.encode(), **options)
    return path


OME = '<?xml version="1.0" encoding="UTF-8"?>{doctype}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{images}</OME>'
IMAGE = (
    '<Image ID="Image:{n}" Name="{name}"><Pixels SizeX="{side}" SizeY="{side}" SizeC="3" SizeZ="1" SizeT="1" {stated}>'
    '<Channel SamplesPerPixel="3"/><TiffData IFD="{n}" PlaneCount="1"/></Pixels></Image>'
)
HALF = 'PhysicalSizeX="0.5" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="0.5" PhysicalSizeYUnit="&#xB5;m"'
CENTIMETRES = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}


def test_ome_is_read_as_xml_and_of_the_image_that_is_read(tmp_path: Path, open_at) -> None:
    slide = IMAGE.format(n=0, name="", side=256, stated=HALF)
    assert open_at(write_ome_xml(tmp_path / "1", OME.format(doctype="", images=slide))).facts.um_per_px == 0.5
    other = IMAGE.format(n=0, name="", side=256, stated="")
    other += IMAGE.format(n=1, name="macro", side=20, stated=HALF)
    unstated = write_ome_xml(tmp_path / "2", OME.format(doctype="", images=other))
    with pytest.raises(DataError, match="does not state its resolution"):
        open_at(unstated)


@pytest.mark.parametrize("broken", ["bomb", "cut"])
def test_xml_that_is_no_xml_states_nothing(broken: str, tmp_path: Path, open_at) -> None:
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x" * 99}">' for n in range(12))
    slide = IMAGE.format(n=0, name="&e11;" if broken == "bomb" else "", side=256, stated=HALF)
    xml = OME.format(doctype=f"<!DOCTYPE OME [{bomb}]>" if broken == "bomb" else "", images=slide)
    if broken == "cut":
        xml = xml.replace("</Pixels>", "")
    with pytest.raises(DataError, match=r"its OME-XML .*(declares|cannot be parsed)"):
        open_at(write_ome_xml(tmp_path / "slide", xml))
    assert open_at(write_ome_xml(tmp_path / "tagged", xml, **CENTIMETRES)).facts.um_per_px == 0.5
