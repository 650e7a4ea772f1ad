"""How soon a verb answers ``--help``, and how soon it is at work.

Start-up is paid once a slide a stage. The figure for work is the whole verb on a slide of a few tiles, from
the start of the process to its end, so it is an upper bound that no deferred import can flatter.

    python benchmarks/startup.py [--runs 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "assets" / "demo-bundle"


def verb_arguments(folder: Path) -> dict[str, list[str]]:
    """The arguments of each verb of the predict path on a small slide, in the order they run."""
    artifacts = ["--slide-record", f"{folder}/slide.json", "--tiles", f"{folder}/tiles.parquet"]
    bundle = ["--bundle", str(BUNDLE), "--outdir", str(folder)]
    pictures = ["--thumbnail", f"{folder}/thumbnail.png"]
    slide = ["--slide", f"{folder}/slide.png", "--mpp", "0.5"]
    expression = ["--expression", f"{folder}/S1.h5ad", "--tissue", f"{folder}/tissue.png", "--outdir", str(folder)]
    return {
        "check": ["--input", f"{folder}/sheet.csv", *bundle],
        "tile": ["--sample", "S1", *slide, *bundle],
        "encode": [*slide, *artifacts, *bundle],
        "predict": [*artifacts, *pictures, "--features", f"{folder}/features.parquet", *bundle],
        "report": [*artifacts, *pictures, *expression],
        "summarise": ["--samples", f"{folder}/samples.json", "--status", str(folder), "--outdir", str(folder)],
    }


def make_slide(folder: Path) -> None:
    """A picture of four tiles, half tissue, and a samplesheet that names it."""
    pixels = np.full((512, 512, 3), (243, 242, 244), np.int16)
    pixels[:, :256] = (190, 110, 165)
    pixels += np.random.default_rng(0).integers(-20, 12, pixels.shape, dtype=np.int16)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "slide.png")
    (folder / "sheet.csv").write_text("sample,slide,mpp\nS1,slide.png,0.5\n")


def seconds(arguments: list[str]) -> float:
    """Wall time of one run of the command line."""
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "histocast", *arguments], check=True, capture_output=True)
    return time.perf_counter() - started_s


def main() -> None:
    """Print the median of each figure as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    figures: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_slide(folder)
        for verb, arguments in verb_arguments(folder).items():
            seconds([verb, *arguments])  # fills the file cache, and makes what the next verb reads
            helps = [seconds([verb, "--help"]) for _ in range(runs)]
            works = [seconds([verb, *arguments]) for _ in range(runs)]
            figures[verb] = {
                "help_s": round(statistics.median(helps), 3),
                "whole_run_s": round(statistics.median(works), 3),
            }
    empty = statistics.median(_timed([sys.executable, "-c", "import numpy"]) for _ in range(runs))
    print(json.dumps({"runs": runs, "import_numpy_s": round(empty, 3), "verbs": figures}, indent=2))


def _timed(command: list[str]) -> float:
    started_s = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
