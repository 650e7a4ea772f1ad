"""Tiles a second from an S3 server at a given latency, from disk, and of decoding alone; counts requests and bytes.

Three cases: tissue on a third of the slide; on somewhat over half, from where on it is read whole; and everywhere. The
slide is as wide as glass is, 24 mm; a smaller one (``--side-px``) pays more for its start, which is .3 s whatever the
size. The server is versitygw on loopback, found on PATH, or ``--endpoint``; before it stands a proxy that holds each
request back for the latency. The reader has as many cores as threads, and server and proxy the others, because a real
store takes none of the reader's; with ``--shared-cores`` all have all. The ratio to quote is the median over rounds of
two reads one after the other: the best of each meet a machine of different speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from boto3_peer import Boto3Source
from histocast.slide import open_slide
from histocast.slide.tiff import open_reader
from histocast.storage import Source, open_source
from histocast.storage.s3 import S3Source
from make_slide import make_slide
from remote_store import part_cores, remote_store, servers_cpu_s, traffic_since
from tile_readers import LEVEL_PX, TILE_PX, UM_PER_PX, Corners, decode_blocks, grid, touched_blocks
from tiling import scanner_slide

BLOCKS_IN_MEMORY = 4096


def tissue(corners: Corners, side_px: int, *, radius: float) -> Corners:
    """Return the tiles of three round pieces of tissue of ``radius`` sides of the slide."""
    centres = corners + LEVEL_PX / 2
    inside = np.zeros(len(corners), bool)
    for x, y in ((0.3, 0.3), (0.7, 0.45), (0.4, 0.78)):
        inside |= np.hypot(*(centres - np.array([x, y]) * side_px).T) < radius * side_px
    return corners[inside]


@dataclass(frozen=True)
class Spent:
    """What reading all tiles took, from opening the slide."""

    wall_s: float
    reader_cpu_s: float
    servers_cpu_s: float


def read(given: Source, corners: Corners, scratch: Path, threads: int) -> Spent:
    """Read the tiles."""
    before = time.perf_counter(), time.process_time(), servers_cpu_s()
    with given as source, open_slide(source, sample="S", mpp=None, scratch=scratch) as slide:
        batches = slide.read_tiles(corners + LEVEL_PX / 2, tile_px=TILE_PX, um_per_px=UM_PER_PX, threads=threads)
        count = sum(int(batch.readable.sum()) for batch in batches)
    if count != len(corners):
        raise SystemExit(f"{count} of {len(corners)} tiles are readable")
    after = time.perf_counter(), time.process_time(), servers_cpu_s()
    return Spent(*(end - start for start, end in zip(before, after, strict=True)))


def decode_only(path: Path, corners: Corners, threads: int) -> tuple[float, int]:
    """Return how long the blocks of the tiles take to be decoded from memory, in seconds, and their bytes."""
    wall_s = 0.0
    with open_source(str(path)) as source:
        reader = open_reader(source, scratch=path.parent)
        blocks = touched_blocks(reader, 0, corners)
        for start in range(0, len(blocks), BLOCKS_IN_MEMORY):
            payloads = reader.fetch(0, blocks[start : start + BLOCKS_IN_MEMORY].tolist())
            before = time.perf_counter()
            decode_blocks(reader, 0, payloads, threads)
            wall_s += time.perf_counter() - before
        return wall_s, reader.block_bytes(0, blocks)


def measure(
    path: Path, uri: str, corners: Corners, *, counter: Connection, threads: int, rounds: int
) -> dict[str, object]:
    """Decode the tiles' blocks and do nothing else, read the tiles from disk, and from the store by both, in turn."""
    decoding, near, far, peer = [], [], [], []
    for _ in range(rounds):
        wall_s, needed = decode_only(path, corners, threads)
        decoding.append(wall_s)
        near.append(read(open_source(str(path)), corners, path.parent, threads))
        peer.append(read(Boto3Source(uri), corners, path.parent / "scratch", threads))
        traffic_since(counter)
        far.append(read(open_source(uri), corners, path.parent / "scratch", threads))
        traffic = traffic_since(counter)
    near_s, far_s = (min(spent.wall_s for spent in given) for given in (near, far))
    by_round = [one.wall_s / other.wall_s for one, other in zip(near, far, strict=True)]
    return {
        "tiles": len(corners),
        "needed_share_of_object": round(needed / path.stat().st_size, 3),
        "local_tiles_per_s": round(len(corners) / near_s, 1),
        "s3_tiles_per_s": round(len(corners) / far_s, 1),
        "decode_only_tiles_per_s": round(len(corners) / min(decoding), 1),
        "local_to_decode_only": round(min(decoding) / near_s, 3),
        "s3_to_decode_only": round(min(decoding) / far_s, 3),
        "s3_to_local": round(statistics.median(by_round), 3),
        "s3_to_local_by_round": [round(ratio, 3) for ratio in by_round],
        "s3_to_local_best_of_each": round(near_s / far_s, 3),
        "s3_to_boto3": round(
            statistics.median(one.wall_s / other.wall_s for one, other in zip(peer, far, strict=True)), 3
        ),
        "cpu_s": {
            "reader, local": round(min(spent.reader_cpu_s for spent in near), 2),
            "reader, s3": round(min(spent.reader_cpu_s for spent in far), 2),
            "reader, s3 by boto3": round(min(spent.reader_cpu_s for spent in peer), 2),
            "server and proxy": round(min(spent.servers_cpu_s for spent in far), 2),
        },
        "requests": traffic.requests,
        "tiles_per_request": round(len(corners) / traffic.requests, 1),
        "bytes_to_needed": round(traffic.answered_bytes / needed, 3),
    }


RANGES = {
    "12 kB next to each other, a third of the object": [
        (at * 12_500, 12_000) for at in range(36_000) if at // 60 % 3 == 0
    ],
    "12 kB far from each other": [(at * 1_300_000, 12_000) for at in range(340)],
    "300 kB": [(at * 500_000, 300_000) for at in range(900)],
    "8 MB, all of the object": [(at * 8_000_000, 8_000_000) for at in range(56)],
}
OBJECT_BYTES = 450_000_000
FETCH_BYTES = 48_000_000


def ranges_alone(uri: str, rounds: int) -> dict[str, dict[str, float]]:
    """Read ranges in fetches as large as the reader's, by both in turn; seconds of processor time, the best of the rounds."""
    figures = {}
    with S3Source(uri) as ours, Boto3Source(uri) as theirs:
        for case, ranges in RANGES.items():
            at_once = FETCH_BYTES // ranges[0][1]
            fetches = [dict(enumerate(ranges[start : start + at_once])) for start in range(0, len(ranges), at_once)]
            spent: dict[Source, list[float]] = {ours: [], theirs: []}
            for _ in range(rounds):
                for source, times in spent.items():
                    before_s = time.process_time()
                    for fetch in fetches:
                        if sum(map(len, source.read_ranges(fetch).values())) != len(fetch) * ranges[0][1]:
                            raise SystemExit(f"{case}: bytes are missing")
                    times.append(time.process_time() - before_s)
            cpu_s, boto3_cpu_s = min(spent[ours]), min(spent[theirs])
            ratio = statistics.median(one / other for one, other in zip(spent[theirs], spent[ours], strict=True))
            figures[case] = {
                "cpu_s": round(cpu_s, 3),
                "boto3_cpu_s": round(boto3_cpu_s, 3),
                "boto3_to_ours": round(ratio, 2),
            }
    return figures


def main() -> None:
    """Read the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side-px", type=int, default=96_000)
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--endpoint", help="http URL of an S3 server; credentials come from the environment")
    parser.add_argument("--shared-cores", action="store_true", help="let reader and store have the same cores")
    options = parser.parse_args()
    if not options.shared_cores and options.threads >= (cores := len(os.sched_getaffinity(0))):
        parser.error(f"--threads {options.threads} leaves the store none of {cores} cores: fewer, or --shared-cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "slide.svs"
        make_slide(path, scanner_slide(options.side_px, 240, 70))
        (folder / "ranges.bin").write_bytes(np.random.default_rng(0).bytes(OBJECT_BYTES))
        with remote_store(folder / "ranges.bin", folder / "ranges", latency_s=0, endpoint=options.endpoint) as (uri, _):
            alone = ranges_alone(uri, options.rounds)
        everywhere = grid(options.side_px, options.side_px, "even")
        cases = {
            "tissue on a third": tissue(everywhere, options.side_px, radius=0.19),
            "tissue on over half": tissue(everywhere, options.side_px, radius=0.25),
            "tissue everywhere": everywhere,
        }
        with remote_store(path, folder, latency_s=options.latency_ms / 1000, endpoint=options.endpoint) as (
            uri,
            counter,
        ):
            if not options.shared_cores:
                part_cores(options.threads)
            settings = {"counter": counter, "threads": options.threads, "rounds": options.rounds}
            results = {
                "latency_ms": options.latency_ms,
                "threads": options.threads,
                "shared_cores": options.shared_cores,
                "server": options.endpoint or "versitygw",
                "ranges_alone": alone,
                **{case: measure(path, uri, corners, **settings) for case, corners in cases.items()},
            }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
