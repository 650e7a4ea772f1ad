"""Slides with known pixels, stored as scanners and converters store them, of any size.

Shared by the tests and by ``benchmarks/``: pixels come from a painter, block by block, so that a slide of
any size is written in the memory of one block.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

Paint = Callable[[int, int, int, int, int], Pixels]
"""Level number, top, left, height and width to RGB uint8 [row, column, 3]; may reach beyond the level."""

PATIENT = "DOE^JANE 1960-01-01"
"""Stands where scanners write what must not leak: user, date, file name, label and macro."""

_SUBSAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}
_COMPRESSION_TAGS = {
    "jpeg": 7,
    "none": 1,
    "deflate": 8,
    "lzw": 5,
    "zstd": 50000,
    "jpeg2000-rgb": 33005,
    "jpeg2000": 33003,
}


@dataclass(frozen=True)
class Recipe:
    """How a slide is stored."""

    width_px: int
    height_px: int
    tile_px: tuple[int, int] = (240, 240)
    """Width and height of a block; multiples of 16, as TIFF has them."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height of each lower level."""
    compression: Literal["jpeg", "none", "deflate", "lzw", "zstd", "jpeg2000", "jpeg2000-rgb"] = "jpeg"
    quality: int = 70
    subsampling: Literal["444", "422", "420"] = "422"
    colour: Literal["rgb", "ycbcr"] = "rgb"
    """Of the samples within a JPEG; Aperio stores ``rgb``."""
    shared_tables: bool = True
    layout: Literal["aperio", "generic", "strips"] = "aperio"
    um_per_px: float | None = 0.25
    bigtiff: bool = False

    def level_sizes(self) -> list[tuple[int, int]]:
        """Width and height of every level, finest first."""
        return [(self.width_px, self.height_px), *self.sizes]


def halved(width_px: int, height_px: int, *downsamples: int) -> tuple[tuple[int, int], ...]:
    """Return the sizes scanners give lower levels: whole factors, the odd row dropped."""
    return tuple((width_px // factor, height_px // factor) for factor in downsamples)


def paint_arrays(*levels: Pixels) -> Paint:
    """Return a painter of whole arrays, one a level; beyond their edges blocks repeat the last pixel."""

    def paint(level: int, top: int, left: int, height: int, width: int) -> Pixels:
        array = levels[level]
        rows = np.minimum(np.arange(top, top + height), array.shape[0] - 1)
        columns = np.minimum(np.arange(left, left + width), array.shape[1] - 1)
        return array[rows[:, None], columns]

    return paint


def write_slide(path: Path, recipe: Recipe, paint: Paint) -> Path:
    """Write a slide; an ``aperio`` one gets a thumbnail, a label and a macro image as well."""
    with tifffile.TiffWriter(path, bigtiff=recipe.bigtiff) as writer:
        for level, (width, height) in enumerate(recipe.level_sizes()):
            _write_level(writer, recipe, paint, level, width, height)
            if level == 0 and recipe.layout == "aperio":
                _write_associated(writer, "thumbnail", subfiletype=0)
        if recipe.layout == "aperio":
            _write_associated(writer, "label", subfiletype=1)
            _write_associated(writer, "macro", subfiletype=9)
    return path


def encode_block(pixels: Pixels, recipe: Recipe) -> bytes:
    """Return one block as it is stored, JPEG tables included."""
    if recipe.compression == "jpeg":
        # RGB handed over as if it were YCbCr is stored as it is, which no encoder does with subsampling otherwise.
        return imagecodecs.jpeg8_encode(
            pixels,
            level=recipe.quality,
            colorspace="YCBCR" if recipe.colour == "rgb" else "RGB",
            outcolorspace="YCBCR",
            subsampling=recipe.subsampling,
        )
    if recipe.compression.startswith("jpeg2000"):
        return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True, mct=False)
    if recipe.compression == "none":
        return pixels.tobytes()
    encoders = {
        "deflate": imagecodecs.zlib_encode,
        "lzw": imagecodecs.lzw_encode,
        "zstd": imagecodecs.zstd_encode,
    }
    return encoders[recipe.compression](pixels.tobytes())


def split_tables(jpeg: bytes) -> tuple[bytes, bytes]:
    """Return a JPEG's tables alone, and the rest of it without tables and application markers."""
    tables, rest = [b"\xff\xd8"], [b"\xff\xd8"]
    position = 2
    while True:
        marker, length = struct.unpack(">HH", jpeg[position : position + 4])
        segment = jpeg[position : position + 2 + length]
        if marker in (0xFFDB, 0xFFC4):
            tables.append(segment)
        elif not 0xFFE0 <= marker <= 0xFFEF:
            rest.append(segment)
        position += 2 + length
        if marker == 0xFFDA:
            break
    return b"".join([*tables, b"\xff\xd9"]), b"".join([*rest, jpeg[position:]])


def _write_level(
    writer: tifffile.TiffWriter, recipe: Recipe, paint: Paint, level: int, width: int, height: int
) -> None:
    block_width, block_height = recipe.tile_px
    strips = recipe.layout == "strips"
    if strips:
        block_width = width
    is_jpeg = recipe.compression == "jpeg"
    tables, _ = (
        split_tables(encode_block(np.zeros((block_height, block_width, 3), np.uint8), recipe))
        if is_jpeg
        else (b"", b"")
    )

    # Painters that repeat themselves make slides of any size in the time of one period.
    seen: dict[bytes, bytes] = {}

    def encoded(pixels: Pixels) -> bytes:
        digest = hashlib.blake2b(pixels, digest_size=16).digest()
        if digest not in seen:
            data = encode_block(pixels, recipe)
            # An Aperio block carries no marker that tells its colour: only the photometric tag does.
            seen[digest] = split_tables(data)[1] if is_jpeg and recipe.shared_tables else data
        return seen[digest]

    def blocks() -> Iterator[bytes]:
        for top in range(0, height, block_height):
            rows = min(block_height, height - top) if strips else block_height
            for left in range(0, width, block_width):
                yield encoded(np.ascontiguousarray(paint(level, top, left, rows, block_width)))

    ycbcr = (is_jpeg and recipe.colour == "ycbcr") or recipe.compression == "jpeg2000"
    per_cm = 10_000 / recipe.um_per_px if recipe.um_per_px and recipe.layout != "aperio" else None
    writer.write(
        blocks(),
        shape=(height, width, 3),
        dtype=np.uint8,
        photometric="ycbcr" if ycbcr else "rgb",
        compression=_COMPRESSION_TAGS[recipe.compression],
        # Without it the writer would call a JPEG's samples YCbCr, whatever they are.
        compressionargs=None if ycbcr or not is_jpeg else {"outcolorspace": "RGB"},
        subsampling=_SUBSAMPLING[recipe.subsampling] if is_jpeg and ycbcr else ((1, 1) if ycbcr else None),
        tile=None if strips else (block_height, block_width),
        rowsperstrip=block_height if strips else None,
        subfiletype=1 if level and recipe.layout != "aperio" else 0,
        description=_aperio_description(recipe) if recipe.layout == "aperio" else None,
        resolution=(per_cm, per_cm) if per_cm else None,
        resolutionunit="CENTIMETER" if per_cm else None,
        extratags=[(347, 7, len(tables), tables, True)] if is_jpeg and recipe.shared_tables else (),
        metadata=None,
        software=False,
    )


def _aperio_description(recipe: Recipe) -> str:
    mpp = f"|MPP = {recipe.um_per_px:.4f}" if recipe.um_per_px else ""
    return (
        f"Aperio Image Library v12.0.0 \r\n{recipe.width_px}x{recipe.height_px} (240x240) JPEG/RGB Q=70|AppMag = 40"
        f"|StripeWidth = 2040|ScanScope ID = {PATIENT}|Filename = {PATIENT}|Date = {PATIENT}|User = {PATIENT}{mpp}"
    )


def _write_associated(writer: tifffile.TiffWriter, name: str, *, subfiletype: int) -> None:
    # Plain bytes that stand nowhere else, so that a reader which touches them is caught.
    mark = np.frombuffer((PATIENT + name).encode().ljust(96, b"."), np.uint8)
    pixels = np.tile(mark, 64 * 2).reshape(64, 64, 3)
    writer.write(
        pixels,
        photometric="rgb",
        rowsperstrip=64,
        subfiletype=subfiletype,
        description=f"Aperio Image Library v12.0.0 \r\n{name} 64x64",
        metadata=None,
        software=False,
    )
