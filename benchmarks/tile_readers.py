"""Readers to compare, each ready to read a grid of tiles from one slide.

tiffslide and cuCIM are there where they are installed (``pip install tiffslide cucim-cu12`` into an
environment of their own beside this project's).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import openslide

from histocast.slide import Slide, open_slide
from histocast.slide.blocks import OFF_GRID_BYTES
from histocast.slide.reader import Level, Reader
from histocast.slide.tiff import open_reader
from histocast.slide.windows import blocks_of, choose_level, place_windows
from histocast.storage import Bytes, open_source
from histocast.storage.array_memory import ArrayMemory

TILE_PX = 256
UM_PER_PX = 0.5
LEVEL_PX = 512
"""Side of a tile on the slide of 0.25 um/px."""
ORIGINS_PX = {"even": (100, 60), "odd": (101, 61)}
"""Where the grid begins: at an even place pixels can be averaged block by block, at an odd one they cannot."""
SUPERTILE_PX = 2048
FEW = 6
"""Slow readers are given one in so many of the tiles."""

Run = Callable[[], int]
"""Reads tiles and returns how many."""

Corners = np.ndarray
"""(x, y) [tile, 2] of the upper left corner, level-0 pixels."""


def grid(width_px: int, height_px: int, origin: str) -> Corners:
    """Return the corners of a grid of tiles that lies across the slide's own."""
    x = np.arange(ORIGINS_PX[origin][0], width_px - LEVEL_PX, LEVEL_PX)
    y = np.arange(ORIGINS_PX[origin][1], height_px - LEVEL_PX, LEVEL_PX)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def read_ours(slide: Slide, corners: Corners, threads: int) -> int:
    """Read the tiles with this reader."""
    centres = corners + LEVEL_PX / 2
    batches = slide.read_tiles(centres, tile_px=TILE_PX, um_per_px=UM_PER_PX, threads=threads)
    return sum(int(batch.readable.sum()) for batch in batches)


def prepare_ours(path: Path, threads: int, origin: str = "even") -> Run:
    """Open the slide with the reader of histocast."""
    slide = open_slide(open_source(str(path)), sample="S", mpp=None, scratch=path.parent)
    corners = grid(slide.facts.width_px, slide.facts.height_px, origin)
    return lambda: read_ours(slide, corners, threads)


def prepare_odd(path: Path, threads: int) -> Run:
    """Do the same where windows have to be put together before they are averaged."""
    return prepare_ours(path, threads, "odd")


def prepare_ceiling(path: Path, threads: int) -> Run:
    """Every block the tiles touch, decoded once, from memory, into an array of numpy's."""
    return _decode_only(path, threads, new_block)


def prepare_placed_ceiling(path: Path, threads: int) -> Run:
    """Do the same, into arrays that begin where those of histocast do."""
    return _decode_only(
        path, threads, lambda level: ArrayMemory(_block_shape(level), offset_bytes=OFF_GRID_BYTES).array()
    )


def new_block(level: Level) -> np.ndarray:
    """Memory for a block's pixels, as numpy gives it."""
    return np.empty(_block_shape(level), np.uint8)


def _block_shape(level: Level) -> tuple[int, int, int]:
    return level.block_height_px, level.block_width_px, 3


def _decode_only(path: Path, threads: int, memory: Callable[[Level], np.ndarray]) -> Run:
    reader = open_reader(open_source(str(path)), scratch=path.parent)
    um_per_px = reader.metadata.um_per_px or 0.25
    number = choose_level(reader.levels, slide_um_per_px=um_per_px, requested_um_per_px=UM_PER_PX, where=str(path))
    level = reader.levels[number]
    corners = grid(level.width_px, level.height_px, "even")
    payloads = reader.fetch(number, touched_blocks(reader, number, corners).tolist())

    def ceiling() -> int:
        decode_blocks(reader, number, payloads, threads, memory)
        return len(corners)

    return ceiling


def touched_blocks(reader: Reader, number: int, corners: Corners) -> np.ndarray:
    """Return the numbers of the compressed blocks that tiles touch on a level of 0.25 um/px."""
    level = reader.levels[number]
    windows = place_windows(corners + LEVEL_PX / 2, level, number=number, extent_level0_px=LEVEL_PX)
    return blocks_of(windows, np.arange(len(corners)), level)


def decode_blocks(
    reader: Reader,
    number: int,
    payloads: Mapping[int, Bytes],
    threads: int,
    memory: Callable[[Level], np.ndarray] = new_block,
) -> None:
    """Decode every block once and do nothing else: the ceiling of whoever reads tiles."""
    blocks = list(payloads)

    def decode(run: list[int]) -> None:
        into = memory(reader.levels[number])
        for block in run:
            reader.decode(number, block, payloads[block], into)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, (blocks[start : start + 64] for start in range(0, len(blocks), 64))))


def prepare_one_by_one(path: Path, threads: int) -> Run:
    """OpenSlide, one call per tile."""
    slide = openslide.OpenSlide(path)
    corners = _few(grid(*slide.dimensions, "even"))

    def read(corner: np.ndarray) -> np.ndarray:
        region = slide.read_region(tuple(corner.tolist()), 0, (LEVEL_PX, LEVEL_PX))
        return shrink(np.asarray(region)[..., :3])

    def run() -> int:
        with ThreadPoolExecutor(threads) as pool:
            return sum(1 for _ in pool.map(read, corners))

    return run


def prepare_openslide(path: Path, threads: int) -> Run:
    """OpenSlide, regions of 2048 px."""
    slide = openslide.OpenSlide(path)
    corners = _few(grid(*slide.dimensions, "even"))

    def region(left: int, top: int, side: int) -> np.ndarray:
        return np.asarray(slide.read_region((left, top), 0, (side, side)))[..., :3]

    return lambda: read_supertiles(region, corners, threads)


def prepare_tiffslide(path: Path, threads: int) -> Run:
    """Tiffslide, regions of 2048 px."""
    import tiffslide

    slide = tiffslide.TiffSlide(path)
    corners = _few(grid(*slide.dimensions, "even"))

    def region(left: int, top: int, side: int) -> np.ndarray:
        return slide.read_region((left, top), 0, (side, side), as_array=True)

    return lambda: read_supertiles(region, corners, threads)


def prepare_cucim(path: Path, threads: int) -> Run:
    """CuCIM on the CPU, regions of 2048 px."""
    from cucim import CuImage

    image = CuImage(str(path))
    height_px, width_px = image.shape[:2]
    corners = grid(width_px, height_px, "even")

    def region(left: int, top: int, side: int) -> np.ndarray:
        return np.asarray(image.read_region((left, top), (side, side), level=0))

    return lambda: read_supertiles(region, corners, threads)


def read_supertiles(read_region: Callable[[int, int, int], np.ndarray], corners: Corners, threads: int) -> int:
    """Read regions of 2048 px and cut the tiles out of them."""
    origin = corners.min(axis=0)
    supertiles = np.unique((corners - origin) // SUPERTILE_PX, axis=0) * SUPERTILE_PX + origin

    def read(corner: np.ndarray) -> int:
        region = read_region(int(corner[0]), int(corner[1]), SUPERTILE_PX)
        inside = ((corners >= corner) & (corners < corner + SUPERTILE_PX)).all(axis=1)
        for left, top in corners[inside] - corner:
            shrink(region[top : top + LEVEL_PX, left : left + LEVEL_PX])
        return int(inside.sum())

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(read, supertiles))


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Bring a tile to its size, as every reader here does it."""
    return cv2.resize(pixels, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)


def _few(corners: Corners) -> Corners:
    return corners[: max(1, len(corners) // FEW)]
