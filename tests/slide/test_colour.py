"""Colour by what a file says: right, as an independent decoder has it, or refused with the true reason."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from histocast.errors import DataError
from histocast.slide.colour import check_has_colour
from made_slides import Pixels
from read_back import read_all

HEIGHT, WIDTH = 90, 110
PHOTOMETRICS = ("rgb", "minisblack", "miniswhite", "palette", "ycbcr", "separated", "cielab")
EXTRAS = (None, "unspecified", "assocalpha", "unassalpha")
DTYPES = ("uint8", "uint16", "int8", "float32")
COMPRESSIONS = (None, "lzw", "deflate", "zstd", "packbits", "lzma", "jpeg", "jpeg2000", "webp")
SAMPLES = {"minisblack": 1, "miniswhite": 1, "palette": 1, "separated": 4}


@dataclass(frozen=True)
class Stored:
    """How an image is stored."""

    photometric: str = "rgb"
    extra: str | None = None
    separate: bool = False
    dtype: str = "uint8"
    compression: str | None = "deflate"
    tiled: bool = True
    predictor: bool = False

    @property
    def can_be_written(self) -> bool:
        """Whether tifffile writes it."""
        samples = SAMPLES.get(self.photometric, 3) + (self.extra is not None)
        if self.photometric == "palette" and self.dtype != "uint8":
            return False
        if self.extra and self.photometric != "rgb":
            return False
        if self.compression in ("jpeg", "webp", "jpeg2000"):
            fits = self.dtype == "uint8" and not (self.separate and samples > 1) and samples in (1, 3)
            return fits and not self.predictor and (self.compression != "webp" or self.photometric == "rgb")
        return not self.predictor or (self.dtype == "uint8" and self.compression not in (None, "packbits"))

    @property
    def refusal(self) -> str | None:
        """What the error has to say, or None where the image is one of 8-bit colours."""
        if self.dtype in ("int8", "float32"):
            return {"int8": "signed integer", "float32": "32-bit floating point"}[self.dtype]
        if self.photometric in ("minisblack", "miniswhite"):
            return "not an H&E image: one channel"
        if self.dtype == "uint16":
            return "samples of 16 bits"
        return {"separated": "CMYK", "cielab": "CIE L"}.get(self.photometric)


def picture() -> Pixels:
    noise = np.random.default_rng(3).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def alpha_of(rgb: Pixels) -> Pixels:
    ramp = np.linspace(0, 255, rgb.shape[1]).round().astype(np.uint8)
    return np.broadcast_to(ramp[None, :, None], (*rgb.shape[:2], 1))


def write(path: Path, stored: Stored) -> None:
    rgb = picture()
    samples = rgb[..., : SAMPLES.get(stored.photometric, 3)]
    if stored.photometric == "ycbcr" and stored.compression != "jpeg":
        samples = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    if stored.photometric == "separated":
        samples = np.dstack([rgb, rgb[..., :1]])
    if stored.extra:
        alpha = alpha_of(rgb)
        if stored.extra == "assocalpha":
            samples = (samples.astype(np.uint16) * alpha // 255).astype(np.uint8)
        samples = np.dstack([samples, alpha])
    samples = samples.astype(stored.dtype)
    single = samples.shape[2] == 1
    if single:
        samples = samples[..., 0]
    elif stored.separate:
        samples = np.moveaxis(samples, -1, 0)
    options = {"subsampling": (1, 1)} if stored.photometric == "ycbcr" else {}
    if stored.photometric == "palette":
        options["colormap"] = np.random.default_rng(4).integers(0, 1 << 16, (3, 256), dtype=np.uint16)
    if stored.compression == "jpeg" and stored.photometric != "ycbcr":
        options["compressionargs"] = {"outcolorspace": "RGB"}
    tifffile.imwrite(
        path,
        samples,
        photometric=stored.photometric,
        extrasamples=[stored.extra] if stored.extra else None,
        planarconfig=None if single else ("separate" if stored.separate else "contig"),
        compression=stored.compression,
        predictor=2 if stored.predictor else None,
        tile=(32, 48) if stored.tiled else None,
        rowsperstrip=None if stored.tiled else 20,
        metadata=None,
        **options,
    )


def independently(path: Path, stored: Stored) -> Pixels:
    """Decode with tifffile, and convert in floating point or with Pillow."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        samples = page.asarray()
        if stored.photometric == "palette":
            return np.moveaxis(page.colormap[:, samples] >> 8, 0, -1).astype(np.uint8)
    if stored.separate and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    if stored.photometric == "ycbcr" and stored.compression != "jpeg":
        return np.asarray(Image.fromarray(samples, "YCbCr").convert("RGB"))
    colours = samples[..., :3].astype(float)
    if stored.extra in ("assocalpha", "unassalpha"):
        share = samples[..., 3:] / 255
        colours = colours * (1 if stored.extra == "assocalpha" else share) + 255 * (1 - share)
    return np.clip(colours.round(), 0, 255).astype(np.uint8)


combinations = st.builds(
    Stored,
    st.sampled_from(PHOTOMETRICS),
    st.sampled_from(EXTRAS),
    st.booleans(),
    # Most are of 8 bits: the others end at once.
    st.sampled_from(("uint8",) * 5 + DTYPES),
    st.sampled_from(COMPRESSIONS),
    st.booleans(),
    st.booleans(),
).filter(lambda stored: stored.can_be_written)


def check_is_right_or_refused(stored: Stored, folder: Path, open_at) -> None:
    path = folder / "slide.tif"
    write(path, stored)
    if stored.refusal:
        with pytest.raises(DataError) as caught:
            open_at(path, mpp=0.5)
        assert stored.refusal in caught.value.message
        return
    tiles, readable, reasons = read_all(open_at(path, mpp=0.5), [[WIDTH / 2, HEIGHT / 2]], tile_px=WIDTH, um_per_px=0.5)
    assert readable.all(), reasons
    off = (WIDTH - HEIGHT) // 2
    got = tiles[0][off : off + HEIGHT].astype(int)
    # Pillow and libtiff round YCbCr and alpha each in their own way; all else is exact.
    exact = stored.photometric != "ycbcr" and stored.extra in (None, "unspecified")
    assert np.abs(got - independently(path, stored)).max() <= (0 if exact or stored.compression == "jpeg" else 2)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(stored=combinations)
@example(stored=Stored(extra="unspecified", compression=None, tiled=False))
@example(stored=Stored(extra="unassalpha", separate=True, compression="lzw", predictor=True))
@example(stored=Stored("ycbcr", compression="jpeg"))
@example(stored=Stored("ycbcr", compression="lzw", tiled=False))
@example(stored=Stored(separate=True, compression="packbits", tiled=False))
@example(stored=Stored("palette"))
@example(stored=Stored(compression="webp"))
def test_every_combination_is_right_or_refused_with_the_reason(stored: Stored, tmp_path: Path, open_at) -> None:
    check_is_right_or_refused(stored, tmp_path, open_at)


def write_planes(path: Path, names: list[str] | None, *, levels: int = 1, count: int = 3) -> Pixels:
    rgb = np.repeat(np.repeat(picture(), 4, axis=0), 4, axis=1)
    planes = np.moveaxis(rgb, -1, 0)[[0, 1, 2, 0][:count]]
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    if names:
        metadata["Channel"] = {"Name": names}
    options = {"tile": (64, 64), "photometric": "minisblack", "compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(planes, subifds=levels - 1, metadata=metadata, **options)
        for level in range(1, levels):
            writer.write(planes[:, :: 2**level, :: 2**level], subfiletype=1, **options)
    return rgb


@pytest.mark.parametrize("names", [None, ["R", "G", "B"], ["Red", "Green", "Blue"]])
def test_three_planes_that_are_red_green_and_blue_are_joined_on_every_level(names, tmp_path: Path, open_at) -> None:
    rgb = write_planes(tmp_path / "slide.ome.tif", names, levels=2)
    slide = open_at(tmp_path / "slide.ome.tif")
    assert (slide.facts.reader, slide.facts.um_per_px) == ("tiff", 0.5)
    assert [level.downsample for level in slide.facts.levels] == [1, 2]
    tiles, _, _ = read_all(slide, [[100, 100]], tile_px=80, um_per_px=0.5)
    np.testing.assert_array_equal(tiles[0], rgb[60:140, 60:140])
    tiles, _, _ = read_all(slide, [[100, 100]], tile_px=40, um_per_px=1.0)
    np.testing.assert_array_equal(tiles[0], rgb[::2, ::2][30:70, 30:70])


@pytest.mark.parametrize("names", [["DAPI", "CD3", "CD8"], ["DAPI", "CD3", "CD8", "PanCK"], ["Blue", "Green", "Red"]])
def test_other_channels_are_no_colours(names: list[str], tmp_path: Path, open_at) -> None:
    write_planes(tmp_path / "slide.ome.tif", names, count=len(names))
    with pytest.raises(DataError, match=f"not an H&E image: {len(names)} channels of 8 bits"):
        open_at(tmp_path / "slide.ome.tif", mpp=0.5)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [*product((".png", ".tif"), ("L", "LA", "I;16")), (".jpg", "L"), (".jpg", "CMYK"), (".tif", "CMYK")],
)
def test_an_image_without_colours_is_refused_by_every_reader(suffix: str, mode: str, tmp_path: Path, open_at) -> None:
    image = Image.fromarray(picture())
    wide = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    image = wide if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / f"section{suffix}")
    with pytest.raises(DataError, match="CMYK" if mode == "CMYK" else "not an H&E image"):
        open_at(tmp_path / f"section{suffix}", mpp=0.5)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg"])
def test_grey_stored_as_rgb_is_no_empty_slide(suffix: str, tmp_path: Path, open_at) -> None:
    path = tmp_path / f"slide{suffix}"
    Image.fromarray(picture()).convert("L").convert("RGB").save(path)
    with pytest.raises(DataError, match="nowhere on it do red, green and blue differ"):
        open_at(path, mpp=0.5).thumbnail()


def test_glass_and_faded_stain_have_colour_enough() -> None:
    glass = np.full((100, 100, 3), 243, np.uint8)
    check_has_colour(glass, where="S1")
    faded = glass.copy()
    faded[20:40, 20:40] = (222, 205, 218)
    check_has_colour(faded, where="S1")
    faded[60:80, 60:80] = 90  # dust
    check_has_colour(faded, where="S1")
