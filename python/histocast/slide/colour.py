"""Whether stored samples are the colours of a brightfield slide, and how they become 8-bit RGB.

One decision for all readers, from what a file states of its samples. What is something else, or converts only
approximately, is refused with what was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.slide.reader import Pixels

GREY, RGB, PALETTE, YCBCR = 1, 2, 3, 6
"""Values of a TIFF's photometric interpretation."""

_PHOTOMETRICS = {
    0: "grey, white at zero",
    GREY: "grey",
    RGB: "RGB",
    PALETTE: "a palette",
    4: "a mask",
    5: "CMYK",
    YCBCR: "YCbCr",
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "a colour filter array",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
}
_FORMATS = {1: "unsigned integer", 2: "signed integer", 3: "floating point", 4: "undefined", 5: "complex", 6: "complex"}
_ALPHAS: dict[int, Literal["associated", "unassociated"]] = {1: "associated", 2: "unassociated"}
_WHITE = 255
# Defaults of the TIFF specification; with others the conversion below would be wrong.
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
_BT601 = (0.299, 0.587, 0.114)

_CHROMA = np.arange(256) - 128
_RED = np.rint(1.402 * _CHROMA).astype(np.int32)
_BLUE = np.rint(1.772 * _CHROMA).astype(np.int32)
# Green needs both, and is rounded once: in 16-bit fixed point, the half added beforehand.
_GREEN_OF_BLUE = np.rint((0.5 - 0.34414 * _CHROMA) * 65536).astype(np.int32)
_GREEN_OF_RED = np.rint(-0.71414 * _CHROMA * 65536).astype(np.int32)

# Levels of 255 by which the channels of a place differ, and how dark it is: below both, a picture is black and white.
_LEAST_COLOUR = 8
_GLASS = 160


@dataclass(frozen=True)
class StatedSamples:
    """What a file states of the samples of a pixel, in the terms of TIFF."""

    photometric: int
    count: int
    """Per pixel."""
    bits: int = 8
    """Of the widest sample."""
    sample_format: int = 1
    extra: tuple[int, ...] = ()
    """Meaning of the samples after the colours: 0 none stated, 1 associated alpha, 2 unassociated alpha."""
    separate: bool = False
    """Whether each sample is stored as a plane of its own."""
    palette: NDArray[np.uint16] | None = None
    """[3, 256]"""
    subsampling: tuple[int, int] = (1, 1)
    reference_black_white: tuple[float, ...] = _FULL_RANGE
    ycbcr_coefficients: tuple[float, ...] = _BT601


@dataclass(frozen=True)
class Colour:
    """How decoded samples become RGB."""

    kind: Literal["rgb", "ycbcr", "palette"] = "rgb"
    samples: int = 3
    """Of a pixel in each plane."""
    planes: int = 1
    """Parts in which a block is stored, one a sample where there are several."""
    alpha: Literal["associated", "unassociated"] | None = None
    """Of the sample after the colours; what is transparent is white."""
    palette: Pixels | None = None
    """[256, 3]"""

    @property
    def is_plain(self) -> bool:
        """Whether what an RGB decoder gives is the result."""
        return self.kind != "palette" and self.samples == 3 and self.planes == 1


def decide_colour(stated: StatedSamples, *, decoder_converts: bool, where: str) -> Colour:
    """Return how the samples become RGB.

    ``decoder_converts``: whether the decoder of the compression turns YCbCr into RGB, as those of JPEG and WebP do.
    Raises `DataError`: they are not the 8-bit colours of a brightfield slide, nor anything that converts to them
    exactly.
    """
    if stated.sample_format != 1:
        raise _refused(f"samples of {stated.bits}-bit {_FORMATS.get(stated.sample_format, 'unknown')} type", where)
    if stated.photometric in (0, GREY, 4):
        found = "one channel" if stated.count == 1 else f"{stated.count} channels"
        raise not_brightfield(f"{found} of {stated.bits} bits, stated as {name_photometric(stated)}", where)
    if stated.bits != 8:
        raise _refused(f"samples of {stated.bits} bits", where)
    colours = 1 if stated.photometric == PALETTE else 3
    if stated.photometric not in (RGB, PALETTE, YCBCR) or stated.count < colours:
        raise _refused(f"{stated.count} samples per pixel, stated as {name_photometric(stated)}", where)
    if stated.photometric == YCBCR:
        _check_ycbcr(stated, decoder_converts=decoder_converts, where=where)
    if stated.photometric == PALETTE:
        return Colour("palette", samples=1, palette=_palette(stated, where))
    return Colour(
        "ycbcr" if stated.photometric == YCBCR and not decoder_converts else "rgb",
        samples=1 if stated.separate else stated.count,
        planes=stated.count if stated.separate else 1,
        alpha=_ALPHAS.get((stated.extra or (0,))[0]) if stated.count > 3 else None,
    )


def name_photometric(stated: StatedSamples) -> str:
    """Return the words for what the samples are stated to mean."""
    return _PHOTOMETRICS.get(stated.photometric, f"photometric interpretation {stated.photometric}")


def not_brightfield(found: str, where: str) -> DataError:
    """Return the error for an image that is no brightfield image of a stained section."""
    return DataError(
        f"not an H&E image: {found}",
        expected="a brightfield image with red, green and blue",
        where=where,
        advice="predictions need the colours of the stain: give the brightfield scan, exported as 8-bit RGB",
    )


def check_has_colour(overview: Pixels, *, where: str) -> None:
    """Refuse a slide whose overview is black and white; one that is all glass passes.

    Raises `DataError`: there are dark places, and nowhere do the channels differ.
    """
    # Means of 4 x 4 pixels: the noise of JPEG alone is no colour.
    height, width = (max(1, side // 4 * 4) for side in overview.shape[:2])
    part = overview[:height, :width].astype(np.float32)
    if min(height, width) >= 4:
        part = part.reshape(height // 4, 4, width // 4, 4, 3).mean(axis=(1, 3))
    darkest = float(part.mean(axis=-1).min())
    if darkest < _GLASS and float((part.max(axis=-1) - part.min(axis=-1)).max()) < _LEAST_COLOUR:
        raise not_brightfield("nowhere on it do red, green and blue differ", where)


def to_rgb(samples: Pixels, colour: Colour) -> Pixels:
    """Convert decoded samples.

    ``samples``: [row, column, sample], all planes together.
    Returns: RGB uint8 [row, column, 3].
    """
    if colour.palette is not None:
        looked_up: Pixels = colour.palette[samples[..., 0]]
        return looked_up
    pixels = samples[..., :3]
    if colour.kind == "ycbcr":
        pixels = ycbcr_to_rgb(pixels)
    if colour.alpha is None:
        return pixels
    alpha = samples[..., 3:4].astype(np.uint16)
    if colour.alpha == "associated":
        over: Pixels = np.minimum(pixels + (_WHITE - alpha), 255).astype(np.uint8)
        return over
    return on_white(pixels, alpha)


def on_white(pixels: Pixels, alpha: NDArray[Any]) -> Pixels:
    """Lay pixels with unassociated alpha, [row, column, 1], over white glass."""
    weight = alpha.astype(np.uint16)
    blended = (pixels.astype(np.uint16) * weight + _WHITE * (255 - weight) + 127) // 255
    return blended.astype(np.uint8)


def ycbcr_to_rgb(pixels: Pixels) -> Pixels:
    """ITU-R BT.601 at full range, rounded as OpenSlide rounds it."""
    luma, blue, red = (pixels[..., channel].astype(np.int32) for channel in range(3))
    green = (_GREEN_OF_BLUE[blue] + _GREEN_OF_RED[red]) >> 16
    rgb = np.stack([luma + _RED[red], luma + green, luma + _BLUE[blue]], axis=-1)
    clipped: Pixels = np.clip(rgb, 0, 255).astype(np.uint8)
    return clipped


def _check_ycbcr(stated: StatedSamples, *, decoder_converts: bool, where: str) -> None:
    if decoder_converts:
        if stated.separate:
            raise _refused("YCbCr stored as separate planes", where)
        return
    if stated.subsampling != (1, 1):
        across, down = stated.subsampling
        raise _refused(f"YCbCr with one colour for {across} x {down} pixels, in a compression other than JPEG", where)
    if not np.allclose(stated.reference_black_white, _FULL_RANGE, atol=0.5):
        raise _refused("YCbCr of a reduced range (ReferenceBlackWhite)", where)
    if not np.allclose(stated.ycbcr_coefficients, _BT601, atol=1e-3):
        raise _refused("YCbCr with coefficients other than those of ITU-R BT.601", where)


def _palette(stated: StatedSamples, where: str) -> Pixels:
    if stated.palette is None or stated.palette.shape != (3, 256):
        raise _refused("a palette image without a palette of 256 colours", where)
    if stated.count != 1 or stated.separate:
        raise _refused(f"a palette image of {stated.count} samples per pixel", where)
    # Some writers store 8-bit values where the specification asks for 16-bit ones.
    shift = 8 if stated.palette.max() > 255 else 0
    return np.ascontiguousarray((stated.palette >> shift).astype(np.uint8).T)


def _refused(found: str, where: str) -> DataError:
    return DataError(
        f"an image with {found}",
        expected="8-bit RGB, or what becomes that exactly: YCbCr, a palette, transparency",
        where=where,
        advice="export the slide as 8-bit RGB, for example as a tiled pyramidal TIFF",
    )
