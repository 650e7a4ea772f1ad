"""Which page of a TIFF is the slide: the largest, where no other is as large; levels of one shape; sizes that can be."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from histocast.errors import DataError
from histocast.slide import slide as slide_module
from made_slides import Pixels, Recipe, halved, paint_arrays, write_slide
from read_back import read_all
from several_files import dicom_instance, element, write_mirax, write_vms

TILED = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None}


def shrunk(texture: Pixels, width_px: int, height_px: int) -> Pixels:
    return cv2.resize(texture, (width_px, height_px), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("options", [TILED, {**TILED, "tile": None}], ids=["tiles", "strips"])
def test_the_largest_page_is_the_slide_wherever_it_lies(options, texture: Pixels, tmp_path: Path, open_at) -> None:
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as writer:
        # Of the slide's shape and of another: an overview that comes first is no level.
        writer.write(shrunk(texture, 200, 155)[::-1].copy(), **options)
        writer.write(texture, **options)
        writer.write(shrunk(texture, 500, 388), **options)
        writer.write(shrunk(texture, 120, 200), **options)
    slide = open_at(path, mpp=0.5)
    assert [(level.width_px, level.height_px) for level in slide.facts.levels] == [(1000, 777), (500, 388)]
    tiles, _, _ = read_all(slide, [[500, 388.5]], tile_px=1000, um_per_px=0.5)
    np.testing.assert_array_equal(tiles[0][111:888], texture)


def two_scenes(path: Path, texture: Pixels) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(texture, **TILED)
        writer.write(texture[:600, :700], **TILED)


def focal_planes(path: Path, texture: Pixels) -> None:
    with tifffile.TiffWriter(path) as writer:
        for _ in range(3):
            writer.write(texture, **TILED)


def ome_focal_planes(path: Path, texture: Pixels) -> None:
    tifffile.imwrite(path, np.stack([texture] * 3), photometric="rgb", ome=True, metadata={"axes": "ZYXS"})


def ome_scenes(path: Path, texture: Pixels) -> None:
    """The second is small, and has pixels of the same size: it is of the same scan."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        for scene in (texture, texture[:200, :200].copy()):
            metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
            writer.write(scene, photometric="rgb", tile=(64, 64), metadata=metadata)


def imagej_stack(path: Path, texture: Pixels) -> None:
    tifffile.imwrite(path, np.stack([texture] * 3), imagej=True, metadata={"axes": "ZYXS"})


@pytest.mark.parametrize("write", [two_scenes, focal_planes, ome_focal_planes, ome_scenes, imagej_stack])
def test_several_images_are_refused(write: Callable[..., None], texture: Pixels, tmp_path: Path, open_at) -> None:
    write(tmp_path / "slide.tif", texture)
    with pytest.raises(DataError, match="several images: "):
        open_at(tmp_path / "slide.tif", mpp=0.5)


def test_ome_label_and_macro_are_left_out(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, pixels in (
            ("label image", texture[:100, :100].copy()),
            ("slide", texture),
            ("macro", texture[::4, ::4].copy()),
        ):
            metadata = {"axes": "YXS", "Name": name, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
            writer.write(pixels, photometric="rgb", tile=(64, 64), metadata=metadata)
    facts = open_at(path).facts
    assert [(level.width_px, level.height_px) for level in facts.levels] == [(1000, 777)]


def set_tag(path: Path, page: int, name: str, value: int) -> None:
    with tifffile.TiffFile(path) as file:
        tag = file.pages[page].tags[name]
        code = {3: "<H", 4: "<I", 16: "<Q"}[int(tag.dtype)]
    with path.open("r+b") as stream:
        stream.seek(tag.valueoffset)
        stream.write(struct.pack(code, value))


@pytest.mark.parametrize(("reader", "layout"), [("tiff", "aperio"), ("tiff", "generic"), ("openslide", "aperio")])
@pytest.mark.parametrize("name", ["ImageWidth", "ImageLength", "TileWidth", "TileLength"])
@pytest.mark.parametrize("level", [0, -1])
def test_one_flipped_bit_in_a_size_is_refused_or_harmless(
    reader: str, layout: str, name: str, level: int, texture: Pixels, tmp_path: Path, monkeypatch, open_at
) -> None:
    """No flip may lay the blocks out otherwise: tissue would be scrambled, and predicted on."""
    monkeypatch.setattr(slide_module, "READERS", (f"histocast.slide.{reader}",))
    path = tmp_path / "slide.svs"
    recipe = Recipe(1000, 776, sizes=halved(1000, 776, 4), layout=layout)
    write_slide(path, recipe, paint_arrays(texture[:776], shrunk(texture[:776], 250, 194)))
    before, _, _ = read_all(open_at(path, mpp=0.25), [(300, 300), (700, 500)], tile_px=64, um_per_px=0.25)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        tiled = [number for number, page in enumerate(file.pages) if page.is_tiled]
        page = tiled[level]
        stated = file.pages[page].tags[name].value
    for bit in (1, 4, 6, 8, 10):
        path.write_bytes(whole)
        set_tag(path, page, name, stated ^ (1 << bit))
        try:
            slide = open_at(path, mpp=0.25)
            slide.thumbnail(200)
            after, readable, _ = read_all(slide, [(300, 300), (700, 500)], tile_px=64, um_per_px=0.25)
        except DataError:
            continue
        np.testing.assert_array_equal(after[readable], before[readable], err_msg=f"bit {bit}")


@pytest.mark.parametrize("side_px", [1 << 17, 1 << 20, 1 << 31])
@pytest.mark.parametrize("software", ["MedScan", None], ids=["openslide", "tiff"])
def test_absurd_tiles_are_refused_before_a_library_reserves_them(
    side_px: int, software: str | None, texture: Pixels, tmp_path: Path, open_at
) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, texture[:64, :64], photometric="rgb", software=software, metadata=None, rowsperstrip=64)
    data = bytearray(path.read_bytes())
    # The strips become tiles: both lists and the rows of a strip are entries of twelve bytes.
    for old, new in ((273, 324), (279, 325), (278, 322), (262, 262)):
        at = data.index(struct.pack("<HH", old, {273: 4, 279: 4, 278: 4, 262: 3}[old]))
        data[at : at + 2] = struct.pack("<H", new)
        if new == 322:
            data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, side_px)
    at = data.index(struct.pack("<HH", 282, 5))
    data[at : at + 12] = struct.pack("<HHII", 323, 4, 1, side_px)
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"tiles of {side_px} x {side_px} px"):
        open_at(path, mpp=0.5)


def ndpi_planes(path: Path, pixels: Pixels) -> None:
    with tifffile.TiffWriter(path) as file:
        for z_nm in (-2000, 0, 2000):
            tags = [(271, "s", 0, "Hamamatsu", True), (65420, "I", 1, 1, True), (65424, "i", 1, z_nm, True)]
            file.write(pixels[:256, :256], photometric="rgb", metadata=None, extratags=tags, contiguous=False)


def scn_planes(path: Path, pixels: Pixels) -> None:
    planes = "".join(f'<dimension sizeX="256" sizeY="256" r="0" z="{z}" ifd="{z}"/>' for z in range(3))
    text = f'<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><pixels>{planes}</pixels></scn>'
    tifffile.imwrite(path, pixels[:256, :256], photometric="rgb", metadata=None, description=text)


def bif_planes(path: Path, pixels: Pixels) -> None:
    xmp = b'<Metadata><iScan Magnification="20" Z-layers="3" Z-spacing="1"/></Metadata>'
    tags = [(700, "B", len(xmp), xmp, True)]
    tifffile.imwrite(
        path, pixels[:256, :256], photometric="rgb", metadata=None, software="ScanOutputManager 1.1", extratags=tags
    )


def mirax_planes(path: Path, pixels: Pixels, axis: str = "Microscope focus level") -> None:
    slide = write_mirax(path, np.ascontiguousarray(pixels[:256, :256]))
    listed = slide.with_suffix("") / "Slidedat.ini"
    text = listed.read_text(encoding="utf-8-sig").replace("HIER_COUNT = 1", "HIER_COUNT = 2", 1)
    more = f"HIER_1_NAME = {axis}\nHIER_1_COUNT = 3\n[DATAFILE]"
    listed.write_text(text.replace("[DATAFILE]", more), encoding="utf-8-sig")


def vms_planes(path: Path, pixels: Pixels) -> None:
    index = write_vms(path, np.ascontiguousarray(pixels[:256, :256]))
    index.write_text(index.read_text().replace("NoLayers=1", "NoLayers=3"))


def dicom_planes(path: Path, pixels: Pixels) -> None:
    data = dicom_instance(np.ascontiguousarray(pixels[:256, :256]), series="1.2.3", number=1, um_per_px=0.5)
    path.write_bytes(data.replace(element(0x48, 0x303, "UL", 1), element(0x48, 0x303, "UL", 3)))


def czi(path: Path, _: Pixels, axis: str = "Z") -> None:
    """The header of a CZI file and a directory of one block, which lies along an axis that a slide does not have."""
    axes = [("X", 0, 256), ("Y", 0, 256), (axis, 1, 1)]
    block = struct.pack("<2siqiibb4xi", b"DV", 3, 0, 0, 0, 0, 0, len(axes))
    block += b"".join(struct.pack("<4siifi", name.encode(), start, size, 0.0, size) for name, start, size in axes)
    head = struct.pack("<16sqqii8x32xiqqiq", b"ZISRAWFILE", 512, 512, 1, 0, 0, 512, 0, 0, 0)
    size = 128 + len(block)
    path.write_bytes(head.ljust(512, b"\0") + struct.pack("<16sqqi124x", b"ZISRAWDIRECTORY", size, size, 1) + block)


@pytest.mark.parametrize(
    ("write", "suffix", "found"),
    [
        (czi, ".czi", "a slide with an axis of focal planes"),
        (partial(czi, axis="T"), ".czi", "a slide with an axis of time"),
        (partial(czi, axis="C"), ".czi", "a slide with several channels"),
        (ndpi_planes, ".tif", "a slide of 3 focal planes"),
        (scn_planes, ".scn", "a slide of 3 focal planes"),
        (bif_planes, ".bif", "a slide of 3 focal planes"),
        (mirax_planes, ".mrxs", "a slide of 3 focal planes"),
        (partial(mirax_planes, axis="Slide filter level"), ".mrxs", "a slide of 3 filters"),
        (vms_planes, ".vms", "a slide of 3 focal planes"),
        (dicom_planes, ".dcm", "TotalPixelMatrixFocalPlanes value 3"),
    ],
)
def test_several_planes_are_refused_whichever_openslide_would_show(
    write: Callable[[Path, Pixels], None], suffix: str, found: str, texture: Pixels, tmp_path: Path, open_at
) -> None:
    path = tmp_path / f"slide{suffix}"
    write(path, texture)

    with pytest.raises(DataError, match=found):
        open_at(path, mpp=0.5)
