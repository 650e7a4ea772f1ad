"""Tiles a second of this reader and of others, against what the decoder alone can do, all in one run.

The work is the commonest there is: unaligned tiles of 256 px at 0.5 um/px from a slide of 0.25 um/px. Readers
take turns, several rounds, and each is given its best: a shared machine then slows all of them alike. The
ceiling decodes every block the tiles touch once, from memory, and does nothing else. Processor time a tile is
given as well: it does not depend on who else uses the machine. With ``--memory`` the
peak of one process a slide size is measured instead.

tiffslide and cuCIM are compared with where they are installed (``pip install tiffslide cucim-cu12`` into an
environment of their own beside this project's), and else said to be absent.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import openslide

from histocast.slide import Slide, open_slide
from histocast.slide.tiff import open_reader
from histocast.slide.windows import blocks_of, choose_level, place_windows
from histocast.storage import open_source
from make_slide import Recipe, halved, make_slide

TILE_PX = 256
UM_PER_PX = 0.5
LEVEL_PX = 512
"""Side of a tile on the slide of 0.25 um/px."""
ORIGINS_PX = {"even": (100, 60), "odd": (101, 61)}
"""Where the grid begins: at an even place pixels can be averaged block by block, at an odd one they cannot."""
SUPERTILE_PX = 2048

Run = Callable[[], int]
"""Reads tiles and returns how many."""

COMPETITORS = {"tiffslide": "tiffslide", "cucim": "cuCIM"}
"""Modules that need not be there."""

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


def read_one_by_one(slide: openslide.OpenSlide, corners: Corners, threads: int) -> int:
    """Read the tiles with OpenSlide, a call a tile."""

    def read(corner: np.ndarray) -> np.ndarray:
        region = slide.read_region(tuple(corner.tolist()), 0, (LEVEL_PX, LEVEL_PX))
        return shrink(np.asarray(region)[..., :3])

    return in_threads(read, corners, threads)


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


def in_threads(read: Callable[[np.ndarray], np.ndarray], corners: Corners, threads: int) -> int:
    """Count the tiles ``read`` gives."""
    with ThreadPoolExecutor(threads) as pool:
        return sum(1 for _ in pool.map(read, corners))


def prepare_ceiling(path: Path, corners: Corners, threads: int) -> Run:
    """Return what decodes every block the tiles touch once, from memory."""
    source = open_source(str(path))
    reader = open_reader(source, scratch=path.parent)
    um_per_px = reader.metadata.um_per_px or 0.25
    number = choose_level(reader.levels, slide_um_per_px=um_per_px, requested_um_per_px=UM_PER_PX, where=str(path))
    level = reader.levels[number]
    centres = corners + LEVEL_PX / 2
    windows = place_windows(centres, level, number=number, extent_level0_px=LEVEL_PX)
    blocks = blocks_of(windows, np.arange(len(corners)), level).tolist()
    payloads = reader.fetch(number, blocks)
    runs = [blocks[start : start + 64] for start in range(0, len(blocks), 64)]

    def decode(run: list[int]) -> None:
        into = np.empty((level.block_height_px, level.block_width_px, 3), np.uint8)
        for block in run:
            reader.decode(number, block, payloads[block], into)

    def ceiling() -> int:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode, runs))
        return len(corners)

    return ceiling


def contenders(path: Path, corners: Corners, few: Corners, threads: int, slide: Slide) -> Iterator[tuple[str, Run]]:
    """Yield each reader that is installed; slow ones are given ``few`` tiles."""
    yield "decode only", prepare_ceiling(path, corners, threads)
    yield "histocast", lambda: read_ours(slide, corners, threads)
    yield "histocast, grid at an odd place", lambda: read_ours(slide, corners + 1, threads)
    oracle = openslide.OpenSlide(path)
    yield "openslide, one tile a call", lambda: read_one_by_one(oracle, few, threads)

    def openslide_region(left: int, top: int, side: int) -> np.ndarray:
        return np.asarray(oracle.read_region((left, top), 0, (side, side)))[..., :3]

    yield "openslide, 2048-px regions", lambda: read_supertiles(openslide_region, few, threads)
    if find_spec("tiffslide"):
        import tiffslide

        other = tiffslide.TiffSlide(path)

        def tiffslide_region(left: int, top: int, side: int) -> np.ndarray:
            return other.read_region((left, top), 0, (side, side), as_array=True)

        yield "tiffslide, 2048-px regions", lambda: read_supertiles(tiffslide_region, few, threads)
    if find_spec("cucim"):
        from cucim import CuImage

        image = CuImage(str(path))

        def cucim_region(left: int, top: int, side: int) -> np.ndarray:
            return np.asarray(image.read_region((left, top), (side, side), level=0))

        yield "cucim on the CPU, 2048-px regions", lambda: read_supertiles(cucim_region, corners, threads)


def measure_speed(path: Path, *, threads: int, rounds: int) -> dict[str, object]:
    """Return tiles a second of every reader, and this one's ratios."""
    with open_source(str(path)) as source, open_slide(source, sample="S", mpp=None, scratch=path.parent) as slide:
        corners = grid(slide.facts.width_px, slide.facts.height_px, "even")
        runs = dict(contenders(path, corners, corners[: max(1, len(corners) // 6)], threads, slide))
        rates: dict[str, list[float]] = {name: [] for name in runs}
        costs: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                started_s, used_s = time.perf_counter(), time.process_time()
                count = run()
                rates[name].append(count / (time.perf_counter() - started_s))
                costs[name].append(1000 * (time.process_time() - used_s) / count)
    rate = {name: round(max(values), 1) for name, values in rates.items()}
    cost = {name: round(min(values), 3) for name, values in costs.items()}
    return {
        "tiles": len(corners),
        "tiles_per_s": rate,
        "cpu_ms_per_tile": cost,
        "to_decode_only": round(rate["histocast"] / rate["decode only"], 3),
        "to_decode_only_by_cpu_time": round(cost["decode only"] / cost["histocast"], 3),
        "to_openslide_one_by_one": round(rate["histocast"] / rate["openslide, one tile a call"], 2),
    }


def measure_memory(path: Path, threads: int) -> dict[str, object]:
    """Return the peak memory of reading every tile of a slide in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", str(path), "--threads", str(threads)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(ended.stdout))


def peak_of(path: Path, threads: int) -> dict[str, object]:
    """Read every tile and return this process's peak memory."""
    with open_source(str(path)) as source, open_slide(source, sample="S", mpp=None, scratch=path.parent) as slide:
        count = read_ours(slide, grid(slide.facts.width_px, slide.facts.height_px, "odd"), threads)
    # Not ru_maxrss, which a process inherits from the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"tiles": count, "peak_mb": round(int(status["VmHWM"].split()[0]) / 1024, 1)}


def scanner_slide(side_px: int, tile_px: int, quality: int) -> Recipe:
    """Return a square slide as a 40x scanner stores it."""
    return Recipe(
        side_px,
        side_px,
        (tile_px, tile_px),
        sizes=halved(side_px, side_px, 4, 16),
        quality=quality,
        subsampling="422",
        colour="ycbcr",
        bigtiff=side_px > 50_000,
    )


def main() -> None:
    """Read the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side-px", type=int, default=24_000)
    parser.add_argument("--memory", action="store_true", help="peak memory of 10k, 24k and 60k slides instead")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(json.dumps(peak_of(options.peak_of, options.threads)))
        return
    absent = [name for module, name in COMPETITORS.items() if not find_spec(module)]
    results: dict[str, object] = {"absent": absent, "threads": options.threads, "cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        if options.memory:
            for side_px in (10_000, 24_000, 60_000):
                make_slide(path, scanner_slide(side_px, 240, 70))
                results[f"{side_px} px"] = measure_memory(path, options.threads)
        else:
            for name, tile_px, quality in (("Q70, 240-px blocks", 240, 70), ("Q91, 256-px blocks", 256, 91)):
                made = make_slide(path, scanner_slide(options.side_px, tile_px, quality))
                results["pixels_from"] = made["pixels_from"]
                results[name] = measure_speed(path, threads=options.threads, rounds=options.rounds)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
