"""Every other format OpenSlide reads, region by region: slower than reading compressed blocks, and complete.

Label, macro and thumbnail images (``associated_images``) are never touched.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import openslide

from histocast.errors import DataError
from histocast.slide.reader import (
    Blocks,
    CannotOpen,
    Level,
    Pixels,
    SlideMetadata,
    UnreadableBlock,
    make_levels,
    number_or_none,
)
from histocast.slide.resolution import tag_um_per_px
from histocast.storage import Bytes, Source
from histocast.units import MAX_UM_PER_PX, MIN_UM_PER_PX

NAME = "openslide"

# Regions follow the grid of the stored tiles, so that none is decoded twice and damage flags one of them;
# tiny tiles are joined, and 512 is asked for where the format does not say.
_SMALL_BLOCK_PX = 256
_UNKNOWN_BLOCK_PX = 512
_CACHE_BYTES = 32 * 1024 * 1024
# Formats whose file names siblings, which a copied object would lack.
_SEVERAL_FILES = (".mrxs", ".vms", ".vmu", ".afi", ".dcm")

_PLAIN_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def open_reader(source: Source, *, scratch: Path) -> OpenSlideReader:
    """See `histocast.slide.reader.OpenReader`.

    Raises
    ------
    DataError
        The format spreads a slide over several files, and they are not all there. No other reader may try:
        a MIRAX index file is a JPEG preview, which shows the label.
    """
    several_files = source.uri.lower().endswith(_SEVERAL_FILES)
    if several_files and not source.is_local:
        raise _incomplete("a slide of several files in a store", source)
    if not several_files and source.read(0, 8).startswith(_PLAIN_IMAGES):
        raise CannotOpen("it is a plain image")
    path = source.local_copy(scratch)
    try:
        return _opened(path, is_copy=not source.is_local)
    except CannotOpen as error:
        if several_files:
            raise _incomplete("a slide whose other files are absent or damaged", source) from error
        if not source.is_local:
            path.unlink()
        raise


def _opened(path: Path, *, is_copy: bool) -> OpenSlideReader:
    try:
        if openslide.OpenSlide.detect_format(path) is None:
            raise CannotOpen("OpenSlide does not know the format")
        return OpenSlideReader(path, is_copy=is_copy)
    except openslide.OpenSlideError as error:
        reason = str(error).replace(str(path), "the file").replace(path.name, "the file")
        raise CannotOpen(f"OpenSlide cannot open it: {reason}") from error


def _incomplete(found: str, source: Source) -> DataError:
    return DataError(
        found,
        expected="the index file with all its companions, on a local disk",
        where=source.name,
        advice="copy the whole slide to a local disk, or convert it to one pyramidal TIFF",
    )


class OpenSlideReader:
    """See `histocast.slide.reader.Reader`."""

    name = NAME
    far = False

    def __init__(self, path: Path, *, is_copy: bool) -> None:
        self._path = path
        self._is_copy = is_copy
        self._lock = threading.Lock()
        self._slide = self._opened()
        self._downsamples = self._slide.level_downsamples
        properties = self._slide.properties
        self.levels: tuple[Level, ...] = make_levels(
            self._slide.level_dimensions,
            [_block_size(properties, level) for level in range(self._slide.level_count)],
        )
        self.metadata = _metadata(properties)

    def block_bytes(self, level: int, blocks: Blocks) -> int:  # noqa: ARG002 - the library reads
        """Return 0: the library reads by itself."""
        return 0

    def expect(self, level: int, blocks: Blocks, *, in_whole_rows: bool) -> None:
        """Do nothing: the file is local already."""

    def fetch(self, level: int, blocks: Sequence[int]) -> Mapping[int, Bytes]:  # noqa: ARG002
        """Return nothing: the library reads by itself."""
        return {}

    def decode(self, level: int, block: int, payload: Bytes | None, into: Pixels) -> None:  # noqa: ARG002
        """See `Reader.decode`."""
        slide = self._slide
        try:
            pixels = self._read(slide, level, block)
        except openslide.OpenSlideError:
            pixels = self._read_again(slide, level, block)
        into[: pixels.shape[0], : pixels.shape[1]] = pixels

    def close(self) -> None:
        """See `Reader.close`."""
        self._slide.close()
        if self._is_copy:
            self._path.unlink(missing_ok=True)

    def _opened(self) -> openslide.OpenSlide:
        slide = openslide.OpenSlide(self._path)
        slide.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        return slide

    def _read_again(self, failed: openslide.OpenSlide, level: int, block: int) -> Pixels:
        # An OpenSlide handle that met one damaged tile answers nothing any more, in any thread: the block is
        # judged by a handle of its own, and the shared one is replaced.
        with self._lock:
            if self._slide is failed:
                self._slide = self._opened()
        alone = self._opened()
        try:
            return self._read(alone, level, block)
        except openslide.OpenSlideError as error:
            raise UnreadableBlock("OpenSlide cannot decode the region") from error
        finally:
            alone.close()

    def _read(self, slide: openslide.OpenSlide, level: int, block: int) -> Pixels:
        grid = self.levels[level]
        row, column = divmod(block, grid.block_columns)
        left, top = column * grid.block_width_px, row * grid.block_height_px
        size = (min(grid.block_width_px, grid.width_px - left), min(grid.block_height_px, grid.height_px - top))
        scale = self._downsamples[level]
        image = slide.read_region((round(left * scale), round(top * scale)), level, size)
        return _on_white(np.asarray(image))


def _on_white(rgba: Pixels) -> Pixels:
    alpha = rgba[..., 3:]
    if (alpha == 255).all():
        return np.ascontiguousarray(rgba[..., :3])
    # Pixels the scanner did not visit are transparent, and glass is white.
    weight = alpha.astype(np.uint16)
    blended = (rgba[..., :3].astype(np.uint16) * weight + 255 * (255 - weight) + 127) // 255
    return blended.astype(np.uint8)


def _block_size(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    sides = []
    for side in ("width", "height"):
        tile = number_or_none(properties.get(f"openslide.level[{level}].tile-{side}"), low=1, high=4096)
        stored = int(tile) if tile else _UNKNOWN_BLOCK_PX
        sides.append(stored * max(1, round(_SMALL_BLOCK_PX / stored)))
    return sides[0], sides[1]


def _metadata(properties: Mapping[str, str]) -> SlideMetadata:
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR)
    um_per_px = number_or_none(
        properties.get(openslide.PROPERTY_NAME_MPP_X), low=float(MIN_UM_PER_PX), high=float(MAX_UM_PER_PX)
    )
    if um_per_px is None and vendor == "generic-tiff":
        unit = 3 if properties.get("tiff.ResolutionUnit") == "centimeter" else None
        um_per_px = tag_um_per_px(number_or_none(properties.get("tiff.XResolution"), low=1, high=1e9), unit)
    return SlideMetadata(
        vendor=vendor,
        um_per_px=um_per_px,
        objective_power=number_or_none(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER), low=1, high=150),
    )
