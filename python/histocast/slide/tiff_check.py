"""What has to be known of a file before OpenSlide opens it, and of its levels after that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.slide.focal_planes import refuse_planes_of_tiff
from histocast.slide.reader import CannotOpen, Level
from histocast.slide.tiff_directories import MAGIC, open_directories
from histocast.slide.tiff_pages import Page, choose_pages, has_own_layout, page_colour, read_pages
from histocast.storage import Source

# Scanners round the sides of a level, and some by a whole block of their codec.
_MAX_SHAPE_ERROR = 0.01
_ORIENTATION, _UPRIGHT = 274, 1
# JPEG and JPEG 2000.
_DECODED_BY_OPENSLIDE = (7, 33003, 33005, 34712)


@dataclass(frozen=True)
class UnstoredTiles:
    """Tiles of a TIFF that were never stored, which are glass."""

    by_size: Mapping[tuple[int, int], NDArray[np.bool_]] = field(default_factory=dict)
    """[row, column] of tiles, by width and height of their level."""
    tile_px: Mapping[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """Width and height of a tile, by width and height of its level."""

    def mask(self, level: Level, top: int, left: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return which pixels of a region were never stored, [row, column]."""
        size = (level.width_px, level.height_px)
        unstored = self.by_size.get(size)
        if unstored is None:
            return np.zeros(shape, bool)
        width, height = self.tile_px[size]
        rows, columns = (np.arange(start, start + count) for start, count in zip((top, left), shape, strict=True))
        return unstored[(rows // height)[:, None], columns // width]


def check_directories(source: Source) -> UnstoredTiles:
    """Refuse a TIFF that OpenSlide would read as something it is not, or that would end the process.

    Raises `DataError`: as for `choose_pages`, `page_colour` and `refuse_planes_of_tiff`, or its tiles would be turned;
    `CannotOpen`: its directories are damaged, or OpenSlide would not read the page that is the slide.
    """
    if source.read(0, 4) not in MAGIC:
        return UnstoredTiles()
    with open_directories(source) as file:
        if has_own_layout(file):
            pages = read_pages(file, where=source.name)
            refuse_planes_of_tiff(file, pages, where=source.name)
            largest = max(pages, key=lambda page: page.imagewidth * page.imagelength)
            page_colour(largest, where=source.name)
            _refuse_turned_tiles(largest, where=source.name)
            return UnstoredTiles()
        chosen = choose_pages(file, where=source.name)
        if chosen.slide[0] is not file.pages.first or len(chosen.slide) > 1:
            raise CannotOpen("the slide is not its first page alone")
        page_colour(chosen.slide[0], where=source.name)
        _refuse_turned_tiles(chosen.slide[0], where=source.name)
        levels = [level[0] for level in (chosen.slide, *chosen.levels) if level[0].is_tiled]
        by_size = {(page.imagewidth, page.imagelength): _unstored(page) for page in levels}
        tile_px = {(page.imagewidth, page.imagelength): (page.tilewidth, page.tilelength) for page in levels}
    return UnstoredTiles({size: tiles for size, tiles in by_size.items() if tiles is not None}, tile_px)


def check_shapes(levels: Sequence[Level], *, where: str) -> None:
    """Refuse levels of different shapes: one of their sizes is damaged, and its blocks would lie in wrong places."""
    first = levels[0]
    for number, level in enumerate(levels):
        scale = first.width_px / level.width_px
        off_px = abs(first.height_px - level.height_px * scale)
        if off_px > max(2 * scale, _MAX_SHAPE_ERROR * first.height_px):
            raise DataError(
                f"level 0 of {first.width_px} x {first.height_px} px "
                f"and level {number} of {level.width_px} x {level.height_px} px",
                expected="levels of one shape",
                where=where,
                advice="the file is damaged: copy the slide again",
            )


def _refuse_turned_tiles(page: Page, *, where: str) -> None:
    """Refuse an orientation that OpenSlide would apply, through libtiff, to every tile by itself.

    That scrambles the slide. Of the compressions it decodes on its own it leaves the orientation alone, as we do.
    """
    orientation = page.tags.valueof(_ORIENTATION) or _UPRIGHT
    if orientation != _UPRIGHT and int(page.compression) not in _DECODED_BY_OPENSLIDE:
        raise DataError(
            f"an orientation of {int(orientation)} in its TIFF tags, in a format whose tiles would be turned one by one",
            expected=f"pixels stored upright (orientation {_UPRIGHT})",
            where=where,
            advice="export the slide as one pyramidal TIFF",
        )


def _unstored(page: Page) -> NDArray[np.bool_] | None:
    offsets, lengths = np.array(page.dataoffsets, np.int64), np.array(page.databytecounts, np.int64)
    rows, columns = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    if len(offsets) != rows * columns or len(lengths) != rows * columns:
        return None
    unstored: NDArray[np.bool_] = ((offsets == 0) & (lengths == 0)).reshape(rows, columns)
    return unstored
