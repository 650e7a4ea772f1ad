"""The reader is chosen by what the file is, and all of them give tiles in the same way."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from histocast.errors import DataError
from histocast.slide import slide as slide_module
from histocast.slide.tiff_layout import read_layout
from made_slides import Pixels, Recipe, halved, paint_arrays, write_slide
from read_back import read_all


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_plain_images_are_decoded_whole(suffix: str, texture: Pixels, tmp_path: Path, monkeypatch, open_at) -> None:
    path = tmp_path / f"section{suffix}"
    if suffix == ".tif":  # one strip, too large for the block reader of a test
        monkeypatch.setattr("histocast.slide.tiff.read_layout", partial(read_layout, max_block_px=1000))
        tifffile.imwrite(path, texture, photometric="rgb", metadata=None)
        expected = texture
    else:
        encoded = cv2.imencode(suffix, texture[..., ::-1])[1]
        path.write_bytes(encoded.tobytes())
        expected = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
    slide = open_at(path, mpp=0.5)
    assert slide.facts.reader == "image"
    assert (slide.facts.width_px, slide.facts.height_px) == (1000, 777)
    tiles, readable, _ = read_all(slide, [[500, 388.5]], tile_px=1000, um_per_px=0.5)
    assert readable.all()
    np.testing.assert_array_equal(tiles[0][111:888], expected)
    thumbnail, um_per_px = slide.thumbnail(200)
    assert thumbnail.shape == (156, 200, 3)
    assert um_per_px == 2.5


def test_a_transparent_image_lies_on_white(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = tmp_path / "section.png"
    alpha = np.full(texture.shape[:2], 255, np.uint8)
    alpha[:100] = 0
    stored, expected = np.dstack([texture[..., ::-1], alpha]), texture.copy()
    expected[:100] = 255
    path.write_bytes(cv2.imencode(".png", stored)[1].tobytes())
    tiles, _, _ = read_all(open_at(path, mpp=0.5), [[500, 388.5]], tile_px=1000, um_per_px=0.5)
    np.testing.assert_array_equal(tiles[0][111:888], expected)


def write_orientation(path: Path, texture: Pixels, orientation: int, *, kind: str) -> None:
    if "tif" in kind or "openslide" in kind:
        tags = [(274, "H", 1, orientation, True)]
        options = {"photometric": "rgb", "tile": (128, 128), "compression": "deflate", "metadata": None}
        if "jpeg" in kind:
            options |= {"compression": "jpeg", "compressionargs": {"level": 100, "outcolorspace": "RGB"}}
        software = "MedScan" if "openslide" in kind else None
        tifffile.imwrite(path, texture, software=software, extratags=tags, **options)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 100, "subsampling": 0} if kind == "jpeg" else {}
        Image.fromarray(texture).save(path, kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["tiff", "tiff jpeg", "openslide", "openslide jpeg", "jpeg", "png"])
def test_an_orientation_is_ignored_so_that_spots_stay_where_they_were_counted(
    kind: str, texture: Pixels, tmp_path: Path, open_at
) -> None:
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.{kind}"
        write_orientation(path, texture, orientation, kind=kind)
        if kind == "openslide" and orientation > 1:
            # Through libtiff OpenSlide would turn every tile by itself.
            with pytest.raises(DataError, match=f"an orientation of {orientation} in its TIFF tags"):
                open_at(path, mpp=0.5)
            continue
        slide = open_at(path, mpp=0.5)
        assert (slide.facts.width_px, slide.facts.height_px) == (1000, 777)
        assert slide.facts.reader == {"jpeg": "image", "png": "image"}.get(kind, kind.partition(" ")[0])
        tiles, _, _ = read_all(slide, [[500, 388.5]], tile_px=1000, um_per_px=0.5)
        difference = np.abs(tiles[0][111:888].astype(int) - texture)
        assert difference.max() <= (6 if "jpeg" in kind else 0), orientation


def test_megabytes_before_the_frame_of_a_jpeg_are_read_over(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = tmp_path / "section.jpg"
    data = cv2.imencode(".jpg", texture)[1].tobytes()
    segment = b"\xff\xe2\xff\xff" + bytes(0xFFFD)
    path.write_bytes(data[:2] + 40 * segment + data[2:])
    facts = open_at(path, mpp=0.5).facts
    assert (facts.width_px, facts.height_px) == (1000, 777)


def test_what_the_block_reader_cannot_lay_out_goes_to_openslide(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, texture, photometric="rgb", tile=(128, 128), metadata=None, software="MedScan")
    slide = open_at(path, mpp=0.25)
    assert slide.facts.reader == "openslide"
    tiles, _, _ = read_all(slide, [[500, 388.5]], tile_px=1000, um_per_px=0.25)
    np.testing.assert_array_equal(tiles[0][111:888], texture)


def test_levels_in_subdirectories_are_found(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = tmp_path / "slide.ome.tif"
    half = cv2.resize(texture, (500, 388), interpolation=cv2.INTER_AREA)
    with tifffile.TiffWriter(path, ome=True) as writer:
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"}
        writer.write(texture, subifds=1, tile=(128, 128), photometric="rgb", metadata=metadata)
        writer.write(half, subfiletype=1, tile=(128, 128), photometric="rgb")
    slide = open_at(path)
    assert slide.facts.reader == "tiff"
    assert [(level.width_px, level.height_px) for level in slide.facts.levels] == [(1000, 777), (500, 388)]
    tiles, _, _ = read_all(slide, [[500, 388]], tile_px=100, um_per_px=0.5)
    np.testing.assert_array_equal(tiles[0], half[144:244, 200:300])


@pytest.mark.parametrize("bigtiff", [False, True])
def test_every_reader_agrees(bigtiff: bool, texture: Pixels, tmp_path: Path, monkeypatch, open_at) -> None:
    recipe = Recipe(1000, 776, sizes=halved(1000, 776, 4), bigtiff=bigtiff, quality=90)
    quarter = cv2.resize(texture[:776], (250, 194), interpolation=cv2.INTER_AREA)
    path = write_slide(tmp_path / "slide.svs", recipe, paint_arrays(texture[:776], quarter))
    random = np.random.default_rng(2)
    centres = random.uniform([-50, -50], [1050, 830], (60, 2))
    fast = open_at(path)
    monkeypatch.setattr(slide_module, "READERS", ("histocast.slide.openslide",))
    slow = open_at(path)
    assert (fast.facts.reader, slow.facts.reader) == ("tiff", "openslide")
    assert fast.facts.levels == slow.facts.levels
    assert fast.facts.um_per_px == slow.facts.um_per_px
    assert fast.facts.objective_power == slow.facts.objective_power
    for um_per_px in (0.25, 0.6, 1.0):
        left, _, _ = read_all(fast, centres, tile_px=32, um_per_px=um_per_px)
        right, _, _ = read_all(slow, centres, tile_px=32, um_per_px=um_per_px)
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(fast.thumbnail(200)[0], slow.thumbnail(200)[0])


def test_her2st_sections_open(shared_data: Path, open_at) -> None:
    slide = open_at(shared_data / "her2st" / "images" / "C6.jpg", mpp=0.69)
    assert slide.facts.reader == "image"
    assert (slide.facts.width_px, slide.facts.height_px) == (9288, 9907)


def test_batches_are_full_and_complete(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777), paint_arrays(texture))
    centres = np.random.default_rng(0).uniform(0, 777, (100, 2))
    sizes, indices = [], []
    for batch in open_at(path).read_tiles(centres, tile_px=32, um_per_px=0.25, batch_tiles=16, threads=2):
        assert batch.pixels.shape == (len(batch.index), 32, 32, 3)
        sizes.append(len(batch.index))
        indices.extend(batch.index.tolist())
    assert sizes == [16] * 6 + [4]
    assert sorted(indices) == list(range(100))


def test_a_caller_that_stops_early_leaves_no_threads(texture: Pixels, tmp_path: Path, open_at) -> None:
    import threading

    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777), paint_arrays(texture))
    centres = np.random.default_rng(0).uniform(0, 777, (500, 2))
    before = threading.active_count()
    tiles = open_at(path).read_tiles(centres, tile_px=32, um_per_px=0.25, batch_tiles=4, threads=2)
    next(tiles)
    tiles.close()
    assert threading.active_count() == before
