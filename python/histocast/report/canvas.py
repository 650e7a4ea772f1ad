"""Draw numbers at the spots of a slide, over a pale picture of its tissue."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.records import SlideRecord
from histocast.report.colour_scale import ColourScale
from histocast.report.pictures import Rgb

# Wide enough for three maps side by side on a screen of double density.
CANVAS_PX = 560
MARGIN_SHARE = 0.04
# Room below the spots, so that the scale bar hides none.
SCALE_BAR_SHARE = 0.08
# A core biopsy can be twenty times as long as wide; beyond this the maps would be slivers.
MAX_ASPECT = 1.6
FADE = 0.72
UNREADABLE_RGB = (108, 114, 122)
UNUSUAL_RGB = (193, 68, 14)
USUAL_RGB = (174, 184, 194)


@dataclass(frozen=True)
class Canvas:
    """The part of the slide that holds spots, and the spot that each of its pixels shows."""

    background: Rgb
    """Pale tissue [row, column, 3]."""
    spot_of_pixel: NDArray[np.int32]
    """[row, column] at ``supersampling`` times the resolution of ``background``; -1 where no spot lies."""
    supersampling: int
    um_per_px: float
    """Of ``background``."""
    frame: tuple[int, int, int, int]
    """x, y, width, height of the part, in thumbnail pixels."""

    @classmethod
    def over(cls, centres_level0_px: NDArray[np.float64], *, thumbnail: Rgb, record: SlideRecord) -> Canvas:
        """A canvas round the spots [spot, 2]; round the whole slide where there is none."""
        to_thumbnail = record.um_per_px / record.thumbnail_um_per_px
        centres = np.asarray(centres_level0_px, np.float64).reshape(-1, 2) * to_thumbnail
        diameter = spot_diameter_um(record) / record.thumbnail_um_per_px
        frame = _frame(centres, reach=diameter / 2, shape=thumbnail.shape[:2])
        picture = crop(thumbnail, frame)
        scale = CANVAS_PX / max(frame[2], frame[3])
        size = (max(round(frame[2] * scale), 1), max(round(frame[3] * scale), 1))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        resized = cv2.resize(picture, size, interpolation=method).astype(np.float32)
        pale = (255 - (255 - resized) * (1 - FADE)).astype(np.uint8)
        # Round spots need smooth edges; the squares of a grid lie on pixels well enough.
        supersampling = 1 if record.layout == "grid" else 2
        fine = scale * supersampling
        spot_of_pixel = _nearest_spots(
            (centres - np.array(frame[:2])) * fine,
            shape=(size[1] * supersampling, size[0] * supersampling),
            # A spot smaller than a pixel is drawn as one, or a large slide would be full of holes.
            reach=max(diameter / 2 * fine, 0.75),
            square=record.layout == "grid",
        )
        return cls(pale, spot_of_pixel, supersampling, record.thumbnail_um_per_px / scale, frame)

    def paint(self, values: NDArray[np.floating], scale: ColourScale) -> Rgb:
        """The map of one number per spot [spot]; spots without a number are grey."""
        colours = scale.colours(values)
        colours[~np.isfinite(values)] = UNREADABLE_RGB
        return self.paint_colours(colours)

    def paint_flags(self, flags: NDArray[np.bool_], readable: NDArray[np.bool_]) -> Rgb:
        """The map of a yes or no a spot [spot]."""
        colours = np.where(flags[:, None], UNUSUAL_RGB, USUAL_RGB).astype(np.uint8)
        colours[~readable] = UNREADABLE_RGB
        return self.paint_colours(colours)

    def paint_colours(self, colours: Rgb) -> Rgb:
        """Each spot in its colour [spot, 3]."""
        height, width = self.background.shape[:2]
        shown = self.spot_of_pixel >= 0
        if not shown.any():
            return self.background
        fine = self.background.repeat(self.supersampling, axis=0).repeat(self.supersampling, axis=1)
        fine[shown] = colours[self.spot_of_pixel[shown]]
        return np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def spot_diameter_um(record: SlideRecord) -> float:
    """How large a spot is drawn: a grid is filled, measured spots show the tile the model saw."""
    if record.layout == "grid":
        return record.pitch_um
    return min(record.tile_px * record.requested_um_per_px, record.pitch_um)


def _frame(centres: NDArray[np.float64], *, reach: float, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """x, y, width, height round the centres, of bounded aspect; may extend beyond the picture."""
    if not len(centres):
        return 0, 0, shape[1], shape[0]
    low, high = centres.min(axis=0) - reach, centres.max(axis=0) + reach
    margin = MARGIN_SHARE * (high - low).max()
    low, high = low - margin, high + margin
    high[1] += SCALE_BAR_SHARE * (high - low).max()
    size = high - low
    size = np.maximum(size, size.max() / MAX_ASPECT)
    start = np.floor((low + high - size) / 2).astype(int)
    width, height = np.maximum(np.ceil(size).astype(int), 1)
    return int(start[0]), int(start[1]), int(width), int(height)


def crop(image: Rgb, frame: tuple[int, int, int, int]) -> Rgb:
    """The framed part; what lies outside the picture is as pale as glass."""
    x, y, width, height = frame
    part = np.full((height, width, 3), 245, np.uint8)
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + height, image.shape[0]), min(x + width, image.shape[1])
    if bottom > top and right > left:
        part[top - y : bottom - y, left - x : right - x] = image[top:bottom, left:right]
    return part


def _nearest_spots(
    centres: NDArray[np.float64], *, shape: tuple[int, int], reach: float, square: bool
) -> NDArray[np.int32]:
    """The spot that covers each pixel of an image of ``shape``, [row, column]; -1 where none does."""
    from scipy.spatial import cKDTree

    index = np.full(shape, -1, np.int32)
    if not len(centres):
        return index
    tree = cKDTree(centres)
    columns = np.arange(shape[1]) + 0.5
    # Sixty-four rows at a time, or the coordinates of all pixels would outweigh the picture.
    for top in range(0, shape[0], 64):
        rows = np.arange(top, min(top + 64, shape[0])) + 0.5
        pixels = np.stack(np.meshgrid(columns, rows), axis=-1)
        _, found = tree.query(pixels, p=np.inf if square else 2, distance_upper_bound=reach * (1 + 1e-9))
        index[top : top + len(rows)] = np.where(found < len(centres), found, -1)
    return index
