"""Damaged variants of a real slide through ``tile`` and ``encode``; counts how each ends, as JSON.

    PYTHONPATH=python python tests/fuzz_verbs.py SLIDE.svs --count 2000

Each variant is a process of its own, forked from one that has everything imported. Whoever takes longer than
30 s or more than 2 GB is ended and counted as a failure, as is every end but success and a data error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from byte_damage import Stretch, headers, vary

ROOT = Path(__file__).resolve().parents[1]
MAX_S = 30
MAX_BYTES = 2 << 30
POLL_S = 0.01
# So that errors can be searched for it: they must name the sample and nothing else.
FILE_NAME = "accession-4711.svs"
IMPORTED_BEFORE = (
    "histocast.stages.predict_slide",
    "histocast.encoders.encode_tiles",
    "histocast.tiles.tile_slide",
    "histocast.inference",
    "histocast.slide.tiff",
    "histocast.slide.openslide",
    "histocast.slide.image",
    "histocast.slide.sweep",
    "histocast.tiles",
    "onnxruntime",
)
# Of CMU-1-Small-Region.svs: where its directories and their values lie, that of the slide's pixels the most often.
# A flip seldom hits them by chance.
CMU1_DIRECTORIES: list[Stretch] = [
    *[(1_275_950, 1_278_100)] * 40,
    *[(1_474_360, 1_475_810), (1_850_190, 1_850_950), (1_938_210, 1_938_955)] * 5,
]
DATA_ERROR = 65


@dataclass(frozen=True)
class End:
    """How a variant ended."""

    outcome: str
    """``ok``, ``unreadable flagged``, ``data error in tile``, ``data error in encode``, or what went wrong."""
    peak_bytes: int
    took_s: float
    said: str

    @property
    def sound(self) -> bool:
        """Whether it ended as it may."""
        return self.outcome in ("ok", "unreadable flagged") or self.outcome.startswith("data error")


def run_verbs(slide: Path, folder: Path) -> None:
    """Do as ``histocast tile`` and ``histocast encode`` do, and leave this process with the code of the first error."""
    from histocast.cli import main

    bundle = ["--bundle", str(ROOT / "assets" / "demo-bundle"), "--outdir", str(folder)]
    tile = ["tile", "--sample", "S1", "--slide", str(slide), *bundle]
    artifacts = ["--slide-record", str(folder / "slide.json"), "--tiles", str(folder / "tiles.parquet")]
    encode = ["encode", "--slide", str(slide), *artifacts, "--threads", "2", *bundle]
    for arguments in (tile, encode):
        (folder / "verb").write_text(arguments[0])
        sys.argv = ["histocast", *arguments]
        try:
            main()
        except SystemExit as ending:
            if ending.code:
                raise


def fork_verbs(slide: Path, folder: Path) -> int:
    """Run the verbs in a child and return its process id."""
    child = os.fork()
    if child:
        return child
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code: object = 1
    try:
        run_verbs(slide, folder)
        code = 0
    except SystemExit as ending:
        code = ending.code
    finally:
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def watch(child: int) -> tuple[int, int, float, str | None]:
    """Wait for a child; return its exit code (negative for a signal), peak bytes, seconds, and why it was ended."""
    started_s = time.monotonic()
    ended_for = None
    while True:
        found, status, used = os.wait4(child, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return code, used.ru_maxrss * 1024, time.monotonic() - started_s, ended_for
        resident = int(Path(f"/proc/{child}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if resident > MAX_BYTES:
            ended_for = "memory above 2 GB"
        elif time.monotonic() - started_s > MAX_S:
            ended_for = f"longer than {MAX_S} s"
        if ended_for:
            os.kill(child, signal.SIGKILL)
        time.sleep(POLL_S)


def check(code: int, ended_for: str | None, said: str, folder: Path) -> str:
    """Name how a variant ended."""
    from pyarrow import parquet

    if ended_for:
        return ended_for
    if "Traceback" in said or FILE_NAME in said:
        return "a traceback" if "Traceback" in said else "a message that names the file"
    if code == DATA_ERROR:
        return f"data error in {(folder / 'verb').read_text()}"
    if code:
        return f"signal {-code}" if code < 0 else f"exit code {code}"
    status = parquet.read_table(folder / "features.parquet", columns=["status"])["status"].to_pylist()
    tissue = parquet.read_table(folder / "tiles.parquet", columns=["in_tissue"])["in_tissue"].to_pylist()
    if len(status) != sum(tissue):
        return f"{len(status)} rows for {sum(tissue)} tiles"
    return "unreadable flagged" if "unreadable" in status else "ok"


def try_variant(data: bytes) -> End:
    """Write a variant, run the verbs on it, and say how they ended."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = folder / FILE_NAME
        slide.write_bytes(data)
        code, peak_bytes, took_s, ended_for = watch(fork_verbs(slide, folder))
        said = (folder / "said").read_text(errors="replace")
        return End(check(code, ended_for, said, folder), peak_bytes, took_s, said)


def main() -> None:
    """Read the command line, try the variants, print the counts; exit with 1 if any ended as it may not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--first", type=int, default=0, help="seed of the first variant")
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    for name in IMPORTED_BEFORE:
        importlib.import_module(name)
    data = options.slide.read_bytes()
    whole = try_variant(data)
    if whole.outcome != "ok":
        sys.exit(f"the slide itself ends with {whole.outcome}\n{whole.said}")
    fragile = [*CMU1_DIRECTORIES, *headers(data, most=100)]
    ends = {
        seed: try_variant(vary(data, np.random.default_rng(seed), fragile))
        for seed in range(options.first, options.first + options.count)
    }
    failures = {seed: {"outcome": end.outcome, "said": end.said[-2000:]} for seed, end in ends.items() if not end.sound}
    result = {
        "variants": len(ends),
        "outcomes": dict(Counter(end.outcome for end in ends.values()).most_common()),
        "longest_s": round(max(end.took_s for end in ends.values()), 2),
        "peak_mb": round(max(end.peak_bytes for end in ends.values()) / 2**20),
        "failures": failures,
    }
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
