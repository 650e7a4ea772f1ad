"""What slides of odd makes come to through the verb ``tile``: the tissue that is there, or a refusal with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from histocast.cli import read_stage
from histocast.errors import DataError
from made_slides import Pixels
from stained_sections import paint_stained

SIDE_PX = 896
PICTURE = paint_stained(seed=3, side_px=SIDE_PX)
GREY = cv2.cvtColor(PICTURE, cv2.COLOR_RGB2GRAY)
TILED: dict[str, Any] = {"tile": (128, 128), "metadata": None}
HALF: dict[str, Any] = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
OME_HALF: dict[str, Any] = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
TISSUE_TILES = 9
"""Cells of 112 um with tissue, at the least."""


def tiff(pixels: Pixels = PICTURE, **options: Any) -> Callable[[Path], None]:
    given = {"photometric": "rgb", **TILED, **HALF, **options}
    return lambda path: tifffile.imwrite(path, pixels, **given)


def ome(pixels: Pixels, axes: str, **metadata: Any) -> Callable[[Path], None]:
    photometric = "rgb" if axes.endswith("S") else "minisblack"
    return lambda path: tifffile.imwrite(
        path, pixels, ome=True, photometric=photometric, tile=(128, 128), metadata={"axes": axes, **metadata}
    )


def broken_tiles(path: Path) -> None:
    """Most JPEG tiles hold what is no JPEG."""
    tiff(compression="jpeg")(path)
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with path.open("r+b") as stream:
        for offset, count in places[: len(places) * 9 // 10]:
            stream.seek(offset)
            stream.write(b"\x55" * count)


def several(*pictures: Pixels) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tifffile.TiffWriter(path) as writer:
            for picture in pictures:
                writer.write(picture, photometric="rgb", **TILED, **HALF)

    return write


def jpeg_with_trailer(path: Path) -> None:
    path.write_bytes(cv2.imencode(".jpg", PICTURE[..., ::-1])[1].tobytes() + b"\0" * 999)


PLANES = np.ascontiguousarray(np.moveaxis(PICTURE, -1, 0))
SMALL = cv2.resize(PICTURE, (224, 224), interpolation=cv2.INTER_AREA)
RGBX = np.dstack([PICTURE, np.zeros_like(GREY)])

OME_XML = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
    f'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{SIDE_PX}" SizeY="{SIDE_PX}" SizeC="3" SizeZ="1" SizeT="1" '
    'PhysicalSizeX="0.5" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="0.5" PhysicalSizeYUnit="&#xB5;m">'
    '<Channel ID="Channel:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
)

READ: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a fourth sample of no stated meaning": ("a.tif", tiff(RGBX, extrasamples=("unspecified",))),
    "YCbCr": ("a.tif", tiff(compression="jpeg", photometric="ycbcr")),
    "planes in strips": ("a.tif", tiff(PLANES, planarconfig="separate", tile=None, rowsperstrip=16)),
    "one strip": ("a.tif", tiff(tile=None, rowsperstrip=SIDE_PX)),
    "WebP": ("a.tif", tiff(compression="webp")),
    "inches": ("a.tif", tiff(resolution=(50_800, 50_800), resolutionunit="INCH")),
    "three planes that OME calls channels": (
        "a.ome.tif",
        ome(PLANES, "CYX", Channel={"Name": ["R", "G", "B"]}, **OME_HALF),
    ),
    "a decimal comma": ("a.svs", tiff(description="Aperio Image|AppMag = 20|MPP = 0,5", resolution=(1, 1))),
    "an entity for the micrometre": ("a.ome.tif", tiff(description=OME_XML.encode(), resolution=(1, 1))),
    "an overview first": ("a.tif", several(SMALL, PICTURE)),
}

REFUSED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "one channel": ("a.tif", tiff(GREY, photometric="minisblack"), "not an H&E image"),
    "fluorescence": (
        "a.ome.tif",
        ome(PLANES, "CYX", Channel={"Name": ["DAPI", "FITC", "Cy3"]}, **OME_HALF),
        "not an H&E image",
    ),
    "floating point": ("a.tif", tiff((PICTURE / 255).astype(np.float32)), "float|32"),
    "no colour at all": ("a.tif", tiff(np.dstack([GREY] * 3)), "nowhere on it do red, green and blue differ"),
    "most tiles broken": ("a.tif", broken_tiles, "cannot be (read|decoded)"),
    "pixels that are not square": ("a.tif", tiff(resolution=(20_000, 24_000)), "square|differ"),
    "no resolution": ("a.tif", tiff(resolution=(1, 1), resolutionunit="NONE"), "does not state its resolution"),
    "a placeholder": ("a.tif", tiff(resolution=(72, 72), resolutionunit="INCH"), "72"),
    "scenes as large": ("a.tif", several(PICTURE, PICTURE[::-1].copy()), "images|pages"),
    "focal planes": ("a.ome.tif", ome(np.stack([PICTURE] * 3), "ZYXS", **OME_HALF), "planes|images"),
}


@pytest.fixture
def tile(demo_bundle: Path, tmp_path: Path) -> Callable[..., list[bool]]:
    """Run the verb on a slide; return of each tile whether it is in tissue."""

    def run(name: str, write: Callable[[Path], None], *more: str) -> list[bool]:
        write(tmp_path / name)
        given = ("--sample", "S", "--slide", str(tmp_path / name), "--bundle", str(demo_bundle))
        read_stage(["tile", *given, "--outdir", str(tmp_path / "out"), *more]).run()
        return pq.read_table(tmp_path / "out" / "tiles.parquet")["in_tissue"].to_pylist()

    return run


@pytest.mark.parametrize("case", READ)
def test_its_tissue_is_found(case: str, tile: Callable[..., list[bool]]) -> None:
    assert sum(tile(*READ[case])) >= TISSUE_TILES


def test_bytes_after_a_jpeg_are_no_damage(tile: Callable[..., list[bool]]) -> None:
    assert sum(tile("a.jpg", jpeg_with_trailer, "--mpp", "0.5")) >= TISSUE_TILES


def test_tiles_that_were_never_stored_are_glass(tile: Callable[..., list[bool]]) -> None:
    dense = tile("dense.tif", tiff(compression="deflate"))

    def leave_out(path: Path) -> None:
        tiff(compression="deflate")(path)
        with tifffile.TiffFile(path, mode="r+") as file:
            page = file.pages.first
            for tag in (page.tags["TileOffsets"], page.tags["TileByteCounts"]):
                values = list(tag.value)
                values[0] = values[-1] = 0
                tag.overwrite(values)

    assert sum(tile("left_out.tif", leave_out)) == sum(dense)


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_the_reason(case: str, tile: Callable[..., list[bool]]) -> None:
    name, write, reason = REFUSED[case]
    with pytest.raises(DataError) as refusal:
        tile(name, write)
    assert re.search(reason, refusal.value.message), refusal.value.message
    assert name not in refusal.value.message
