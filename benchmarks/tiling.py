"""Tiles a second of this reader and of others, against what the decoder alone can do, all in one run.

The work is the commonest there is: unaligned tiles of 256 px at 0.5 um/px from a slide of 0.25 um/px. Each reader
has a process of its own, as in a pipeline, so that none meets another's threads and memory. They take turns, several
rounds, and each is given its best: a shared machine then slows all of them alike. The ceiling decodes every block the
tiles touch once, from memory, and does nothing else: into an array as numpy gives it, and into one that begins where those
of histocast do, which is faster. Processor time a tile is given as well: it does not depend on who
else uses the machine. With ``--memory`` the peak of one process per slide size is measured instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import tile_readers
from histocast.slide import open_slide
from histocast.storage import open_source
from make_slide import Recipe, halved, make_slide
from tile_readers import Run, grid, read_ours

CONTENDERS: dict[str, Callable[[Path, int], Run]] = {
    "decode only": tile_readers.prepare_ceiling,
    "decode only, to where histocast does": tile_readers.prepare_placed_ceiling,
    "histocast": tile_readers.prepare_ours,
    "histocast, grid at an odd place": tile_readers.prepare_odd,
    "openslide, one tile a call": tile_readers.prepare_one_by_one,
    "openslide, 2048-px regions": tile_readers.prepare_openslide,
    "tiffslide, 2048-px regions": tile_readers.prepare_tiffslide,
    "cucim on the CPU, 2048-px regions": tile_readers.prepare_cucim,
}
COMPETITORS = {"tiffslide": "tiffslide", "cucim": "cuCIM"}
"""Modules that need not be there; the first word of their contenders."""


class Turn(NamedTuple):
    """What one reading of the tiles took."""

    tiles_per_s: float
    cpu_ms_per_tile: float


def take_turn(name: str, path: Path, threads: int) -> Turn:
    """Read the tiles once, in the process of this reader, which keeps the slide open."""
    run = _prepared.get(name)
    if run is None:
        run = _prepared[name] = CONTENDERS[name](path, threads)
    started_s, used_s = time.perf_counter(), time.process_time()
    count = run()
    return Turn(count / (time.perf_counter() - started_s), 1000 * (time.process_time() - used_s) / count)


_prepared: dict[str, Run] = {}


def measure_speed(path: Path, *, threads: int, rounds: int) -> dict[str, object]:
    """Return tiles a second of every reader that is installed, and this one's ratios."""
    absent = {module for module in COMPETITORS if not find_spec(module)}
    turns: dict[str, list[Turn]] = {name: [] for name in CONTENDERS if name.partition(" ")[0].strip(",") not in absent}
    with ExitStack() as stack:
        # Not forked, or each would begin with the memory of this one.
        own = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn"))) for name in turns}
        for _ in range(rounds):
            for name, process in own.items():
                turns[name].append(process.submit(take_turn, name, path, threads).result())
    rate = {name: round(max(turn.tiles_per_s for turn in taken), 1) for name, taken in turns.items()}
    cost = {name: round(min(turn.cpu_ms_per_tile for turn in taken), 3) for name, taken in turns.items()}
    return {
        "tiles_per_s": rate,
        "cpu_ms_per_tile": cost,
        **{f"to {name}": round(rate["histocast"] / rate[name], 3) for name in rate if name.startswith("decode only")},
        **{
            f"to {name}, by processor time": round(cost[name] / cost["histocast"], 3)
            for name in cost
            if name.startswith("decode only")
        },
        "to openslide, one tile a call": round(rate["histocast"] / rate["openslide, one tile a call"], 2),
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
