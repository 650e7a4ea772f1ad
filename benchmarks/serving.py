"""An encoder in this process against the same one on an inference server of this machine.

Both have the same cores, the server's threads being as many as those in process. The client's own work is the
processor time of this process while the server works. Tasks are processes, as in the pipeline, each with its
own connection; in process they share the cores.

    python benchmarks/serving.py --bundle assets/demo-bundle [--server grpc://host:8001] [--tiles 512] [--tasks 1 2 4]

Without --server one is started by HISTOCAST_TRITONSERVER, `tritonserver` by default, with the Python backend.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from histocast.bundle import Bundle, read_bundle
from histocast.serving import open_predictor
from histocast.serving.predictor import Predictor
from histocast.serving.repository import RepositoryOptions, write_repository
from histocast.serving.task_server import TaskServer

BATCH_TILES = 64


def run(predictor: Predictor, name: str, *, tiles: int, tile_px: int) -> dict[str, float]:
    """Encode tiles as ENCODE does, and say how long it took, what it cost here, and how long calls were."""
    batch = np.random.default_rng(0).integers(0, 256, (BATCH_TILES, tile_px, tile_px, 3), dtype=np.uint8)
    graph_input = predictor.contract(name).inputs[0].name
    predictor.infer(name, {graph_input: batch})
    under_way: deque[tuple[float, object]] = deque()
    seconds: list[float] = []

    def finish() -> None:
        began_s, call = under_way.popleft()
        call.result()
        seconds.append(time.perf_counter() - began_s)

    started_s, cpu_s = time.perf_counter(), time.process_time()
    for _ in range(tiles // BATCH_TILES):
        began_s = time.perf_counter()
        under_way.append((began_s, predictor.submit(name, {graph_input: batch})))
        if len(under_way) >= predictor.in_flight:
            finish()
    while under_way:
        finish()
    wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_s
    return {
        "tiles_per_s": tiles / wall_s,
        "cpu_ms_a_tile": 1000 * cpu_s / tiles,
        "p50_ms": 1000 * float(np.percentile(seconds, 50)),
        "p99_ms": 1000 * float(np.percentile(seconds, 99)),
    }


def task(folder: Path, name: str, url: str | None, threads: int, tiles: int, start, results) -> None:
    """One task of the pipeline, which waits for the others to be ready."""
    bundle = read_bundle(folder)
    with open_predictor(folder, bundle, names=(name,), threads=threads, triton_url=url) as predictor:
        start.wait()
        results.put(run(predictor, name, tiles=tiles, tile_px=bundle.geometry.tile_px))


def measure(folder: Path, name: str, *, url: str | None, threads: int, tiles: int, tasks: int) -> dict[str, float]:
    """Tasks side by side: their throughputs added, the rest averaged."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(tasks), context.Queue()
    given = (folder, name, url, max(threads // tasks, 1) if url is None else 1, tiles // tasks, start, results)
    processes = [context.Process(target=task, args=given) for _ in range(tasks)]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    figures = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
    figures["tiles_per_s"] *= tasks
    return {key: round(value, 3) for key, value in figures.items()}


def compare(folder: Path, bundle: Bundle, url: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Every figure, by number of tasks; the better of several runs, since other work only slows them."""
    name = arguments.encoder or bundle.encoders[0].name
    by_tasks: dict[str, object] = {}
    for tasks in arguments.tasks:
        found: dict[str, dict[str, float]] = {}
        for _ in range(arguments.runs):
            for where, place in (("in_process", None), ("server", url)):
                figures = measure(
                    folder, name, url=place, threads=arguments.threads, tiles=arguments.tiles, tasks=tasks
                )
                best = found.get(where)
                if best is None or figures["tiles_per_s"] > best["tiles_per_s"]:
                    found[where] = figures
        ratio = found["server"]["tiles_per_s"] / found["in_process"]["tiles_per_s"]
        by_tasks[str(tasks)] = {**found, "server_to_in_process": round(ratio, 3)}
    return {
        "encoder": name,
        "tile_px": bundle.geometry.tile_px,
        "batch_tiles": BATCH_TILES,
        "threads": arguments.threads,
        "tiles": arguments.tiles,
        "tasks": by_tasks,
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--encoder", help="the bundle's first without it")
    parser.add_argument("--server", help="a running server, in place of one of this benchmark's own")
    parser.add_argument("--tiles", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    bundle = read_bundle(arguments.bundle)
    if arguments.server:
        print(json.dumps(compare(arguments.bundle, bundle, arguments.server, arguments), indent=2))
        return
    with TemporaryDirectory() as name:
        options = RepositoryOptions(backend="python", threads=arguments.threads)
        write_repository(arguments.bundle, bundle, Path(name, "models"), options=options)
        with TaskServer(Path(name, "models"), Path(name, "server.log")) as server:
            server.wait(limit_s=120)
            print(json.dumps(compare(arguments.bundle, bundle, server.url, arguments), indent=2))


if __name__ == "__main__":
    main()
