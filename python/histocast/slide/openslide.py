"""Every other format OpenSlide reads, region by region: slower than reading compressed blocks, and complete.

Label, macro and thumbnail images (``associated_images``) are never touched.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import openslide

from histocast.errors import DataError
from histocast.slide.colour import on_white
from histocast.slide.companions import SEVERAL_FILES, incomplete, slide_files
from histocast.slide.dicom import DICOM_HEAD_BYTES, DICOM_MAGIC, check_frame_positions
from histocast.slide.focal_planes import refuse_planes_by_reason, refuse_planes_of_index
from histocast.slide.reader import (
    CannotOpen,
    Level,
    Payload,
    Pixels,
    ReadsByItself,
    SlideMetadata,
    UnreadableBlock,
    make_levels,
    number_or_none,
)
from histocast.slide.resolution import (
    CENTIMETRE,
    INCH,
    Resolution,
    first_usable,
    parse_number,
    stated_um_per_px,
    tag_resolution,
)
from histocast.slide.tiff_check import UnstoredTiles, check_directories, check_shapes
from histocast.storage import Source

NAME = "openslide"

# Regions follow the grid of the stored tiles, so that none is decoded twice and damage flags one of them;
# tiny tiles are joined, and 512 is asked for where the format does not say.
_SMALL_BLOCK_PX = 256
_UNKNOWN_BLOCK_PX = 512
_CACHE_BYTES = 32 * 1024 * 1024
_HALF_TRANSPARENT = 128
_WHITE = 255
# These leave out what the scanner did not visit; elsewhere a transparent pixel is one that is missing.
_SPARSE_VENDORS = frozenset(("dicom", "leica", "mirax", "philips", "sakura", "ventana", "zeiss"))
_TAG_UNITS: dict[str, int | str | None] = {"inch": INCH, "centimeter": CENTIMETRE, "none": None, "": None}

_PLAIN_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def open_reader(source: Source, *, scratch: Path) -> OpenSlideReader:
    """See `histocast.slide.reader.OpenReader`.

    Raises `DataError`: the format spreads a slide over several files, and they are not all there. No other reader may
    try: a MIRAX index file is a JPEG preview, which shows the label.
    """
    head = source.read(0, DICOM_HEAD_BYTES)
    is_dicom = head.endswith(DICOM_MAGIC)
    several_files = source.uri.lower().endswith(SEVERAL_FILES) or is_dicom
    if several_files and not source.is_local:
        raise incomplete("a slide of several files in a store", name=source.name)
    if not several_files and head.startswith(_PLAIN_IMAGES):
        raise CannotOpen("it is a plain image")
    glass = check_directories(source)
    files: tuple[Path, ...] = (source.local_copy(scratch),)
    if source.is_local:
        files = slide_files(files[0], name=source.name)
        refuse_planes_of_index(files[0], where=source.name)
        for file in files if is_dicom else ():
            check_frame_positions(file, where=source.name)
    try:
        reader = _opened(files, is_copy=not source.is_local, glass=glass)
    except CannotOpen as error:
        if several_files:
            raise incomplete(
                f"a slide of several files, some of which are absent or unfit: {error}", name=source.name
            ) from error
        if not source.is_local:
            files[0].unlink()
        refuse_planes_by_reason(str(error), where=source.name)
        raise
    try:
        check_shapes(reader.levels, where=source.name)
    except DataError:
        reader.close()
        raise
    return reader


def _opened(files: Sequence[Path], *, is_copy: bool, glass: UnstoredTiles) -> OpenSlideReader:
    """Open a slide by the first of its files."""
    path = files[0]
    try:
        if openslide.OpenSlide.detect_format(path) is None:
            raise CannotOpen("OpenSlide does not know the format")
        return OpenSlideReader(path, is_copy=is_copy, glass=glass)
    except openslide.OpenSlideError as error:
        reason = _without_names(str(error), files)
        raise CannotOpen(f"OpenSlide cannot open it: {reason}") from error


def _without_names(message: str, files: Sequence[Path]) -> str:
    """A message without names of the slide's files and without DICOM's identifiers, which can lead to a patient."""
    names = sorted({name for file in files for name in (str(file), file.name)}, key=len, reverse=True)
    message = re.sub(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)", "a file", message)
    message = re.sub(r"\b\d+(?:\.\d+){3,}", "a UID", message)
    return re.sub(r"\S*/\S.*?(?=: |$)", "a file", message)


class OpenSlideReader(ReadsByItself):
    """See `histocast.slide.reader.Reader`."""

    name = NAME

    def __init__(self, path: Path, *, is_copy: bool, glass: UnstoredTiles) -> None:
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
        self._glass = glass
        self._is_sparse = self.metadata.vendor in _SPARSE_VENDORS

    def decode(self, level: int, block: int, payload: Payload | None, into: Pixels) -> None:  # noqa: ARG002
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
        # read by a handle of its own, and the shared one is replaced.
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
        glass = self._glass.mask(grid, top, left, size[::-1])
        if glass.all():
            return np.full((*glass.shape, 3), _WHITE, np.uint8)
        scale = self._downsamples[level]
        rgba = np.asarray(slide.read_region((round(left * scale), round(top * scale)), level, size))
        alpha = rgba[..., 3:]
        if (alpha == 255).all():
            return np.ascontiguousarray(rgba[..., :3])
        if not self._is_sparse:
            # A level that begins between two pixels has edges that are transparent in part.
            missing = alpha[..., 0] < _HALF_TRANSPARENT
            if (missing & ~glass).any():
                raise UnreadableBlock("OpenSlide finds no pixels in the region")
        # What the scanner did not visit is transparent, and glass is white.
        return on_white(rgba[..., :3], alpha)


def _block_size(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    sides = []
    for side in ("width", "height"):
        tile = number_or_none(properties.get(f"openslide.level[{level}].tile-{side}"), low=1, high=4096)
        stored = int(tile) if tile else _UNKNOWN_BLOCK_PX
        sides.append(stored * max(1, round(_SMALL_BLOCK_PX / stored)))
    return sides[0], sides[1]


def _metadata(properties: Mapping[str, str]) -> SlideMetadata:
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR)
    found = first_usable(_resolutions(properties, vendor))
    return SlideMetadata(
        vendor=vendor,
        um_per_px=found.um_per_px,
        unused_resolution=found.unused,
        objective_power=number_or_none(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER), low=1, high=150),
    )


def _resolutions(properties: Mapping[str, str], vendor: str | None) -> list[Resolution]:
    across, down = (parse_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    named = properties.get("tiff.ResolutionUnit", "")
    unit = _TAG_UNITS.get(named, named)
    tags = tag_resolution(across, down, unit)
    if vendor == "aperio":
        mpp = properties.get("aperio.MPP")
        return [stated_um_per_px(mpp, None, place="the Aperio description", bounded=False), tags]
    if vendor == "generic-tiff":
        # OpenSlide takes these tags whatever they state.
        return [tags]
    along_x, along_y = (properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
    return [stated_um_per_px(along_x, along_y, place="the properties of the scanner"), tags]
