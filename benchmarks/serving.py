"""An encoder in this process against the same one on an inference server of this machine.

Both have the same cores, the server's threads being as many as those in process. Tasks are processes, as in the
pipeline, each with its own connection; in process they share the cores. Rounds alternate between the two, and a ratio
is the median over rounds of what was measured side by side, so that other work on the machine meets both. A third place
is the server with tensors in shared memory, as tasks have it where the server is on their host.

    python benchmarks/serving.py [--bundle DIR] [--server grpc://host:8001] [--tiles 1024] [--tasks 1 2 4] [--rounds 5]

Without --bundle the encoder is some convolutions of 256-px tiles, more than 5 ms of one core each. Without --server one
is started by HISTOCAST_TRITONSERVER, `tritonserver` by default, with the Python backend; its processor time is known
then, too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from histocast.bundle import Bundle, FusionSpec, OutOfDistribution, read_bundle
from histocast.inference import open_predictor
from histocast.inference.predictor import Predictor
from histocast.inference.triton.model_repository import write_repository
from histocast.inference.triton.repository_options import RepositoryOptions
from histocast.inference.triton.settings import TritonSettings
from histocast.inference.triton.task_server import TaskServer
from histocast.inference.triton.triton_predictor import TritonPredictor

BATCH_TILES = 64
DEMO = Path(__file__).parents[1] / "assets" / "demo-bundle"

Figures = dict[str, float]


def write_slow_bundle(folder: Path, *, tile_px: int = 256) -> None:
    """A bundle whose one encoder takes more than 5 ms of one core per tile, with weights of no meaning."""
    import torch
    from torch import nn

    from histocast.artifacts import write_json
    from histocast.encoders.write_encoder import EncoderRecipe, export_encoder

    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 32, 7, stride=4, padding=3),
                nn.ReLU(),
                nn.Conv2d(32, 128, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(128, 128, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.Conv2d(128, 256, 3, padding=1),
            )

        def forward(self, tiles: torch.Tensor) -> torch.Tensor:
            return self.layers(tiles.permute(0, 3, 1, 2).float() / 255).mean((2, 3))

    recipe = EncoderRecipe(
        name="convolutions",
        version="1",
        licence="Apache-2.0",
        outputs=("embedding",),
        build=lambda *_: Convolutions(),
    )
    encoder = export_encoder(recipe, tile_px=tile_px, um_per_px=0.5, folder=folder)
    demo = read_bundle(DEMO)
    changes = {
        "encoders": (encoder,),
        "geometry": demo.geometry.model_copy(update={"tile_px": tile_px}),
        "fusion": FusionSpec(file=None, sha256="", inputs=(), outputs=(), method="none", feeds={}),
        "ood": OutOfDistribution(column="convolutions.embedding", mean=(), sd=(), threshold=0.0),
    }
    write_json(folder / "bundle.json", demo.model_copy(update=changes))


def encode(predictor: Predictor, name: str, batch: np.ndarray, *, batches: int) -> list[float]:
    """Encode as ENCODE does, as many calls under way as the predictor makes use of; seconds of each call."""
    graph_input = "tiles"
    under_way: deque[tuple[float, object]] = deque()
    seconds: list[float] = []

    def finish() -> None:
        began_s, call = under_way.popleft()
        call.result()
        seconds.append(time.perf_counter() - began_s)

    for _ in range(batches):
        began_s = time.perf_counter()
        under_way.append((began_s, predictor.submit(name, {graph_input: batch})))
        if len(under_way) >= predictor.in_flight:
            finish()
    while under_way:
        finish()
    return seconds


def open_place(place: str, folder: Path, bundle: Bundle, name: str, *, url: str, threads: int) -> Predictor:
    """In this process, or a client of the server."""
    if place == "in_process":
        return open_predictor(folder, bundle, names=(name,), threads=threads)
    settings = TritonSettings.from_environment().model_copy(update={"shared_memory": place == "shared_memory"})
    return TritonPredictor(bundle, names=(name,), url=url, settings=settings)


def task(place: str, folder: Path, name: str, url: str, threads: int, batches: int, together, results) -> None:
    """One task of the pipeline, which waits for the others to be ready, and with its end for theirs."""
    bundle = read_bundle(folder)
    tile_px = bundle.geometry.tile_px
    batch = np.random.default_rng(0).integers(0, 256, (BATCH_TILES, tile_px, tile_px, 3), dtype=np.uint8)
    with open_place(place, folder, bundle, name, url=url, threads=threads) as predictor:
        encode(predictor, name, batch, batches=1)
        together.wait()
        began_s, cpu_s = time.monotonic(), time.process_time()
        seconds = encode(predictor, name, batch, batches=batches)
        results.put((began_s, time.monotonic(), time.process_time() - cpu_s, seconds))
        together.wait()


def server_cpu_s(session: int | None) -> float:
    """Processor time of a server and of the interpreters it started; NaN of one that is not ours."""
    if session is None:
        return float("nan")
    ticks = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Bench:
    """What is measured, and on which server."""

    folder: Path
    name: str
    url: str
    session: int | None
    threads: int
    tiles: int

    def measure(self, place: str, *, tasks: int) -> Figures:
        """Tasks side by side, from the first one's start to the last one's end."""
        context = multiprocessing.get_context("spawn")
        together, results = context.Barrier(tasks + 1), context.Queue()
        batches = max(self.tiles // BATCH_TILES // tasks, 1)
        given = (self.folder, self.name, self.url, max(self.threads // tasks, 1), batches, together, results)
        processes = [context.Process(target=task, args=(place, *given)) for _ in range(tasks)]
        for process in processes:
            process.start()
        together.wait(timeout=120)
        before_s = server_cpu_s(self.session)
        began_s, ended_s, client_s, seconds = zip(*(results.get(timeout=600) for _ in processes), strict=True)
        server_s = 0.0 if place == "in_process" else server_cpu_s(self.session) - before_s
        together.wait(timeout=120)
        for process in processes:
            process.join()
        done = batches * BATCH_TILES * tasks
        calls_ms = 1000 * np.concatenate(seconds)
        return {
            "tiles_per_s": done / (max(ended_s) - min(began_s)),
            "client_cpu_ms_a_tile": 1000 * sum(client_s) / done,
            "server_cpu_ms_a_tile": 1000 * server_s / done,
            "p50_ms": float(np.percentile(calls_ms, 50)),
            "p99_ms": float(np.percentile(calls_ms, 99)),
        }

    def compare(self, places: tuple[str, ...], *, tasks: int, rounds: int) -> dict[str, object]:
        """Medians over rounds, and of the ratios within rounds."""
        # The first of a round is the last of the next: what changes slowly meets all alike.
        orders = [places if number % 2 else places[::-1] for number in range(rounds)]
        return summarise([{place: self.measure(place, tasks=tasks) for place in order} for order in orders])


def summarise(rounds: list[dict[str, Figures]]) -> dict[str, object]:
    """Medians of each place; and to in process, ratios of throughput and of all processor time of both sides."""

    def cpu_ms(figures: Figures) -> float:
        return figures["client_cpu_ms_a_tile"] + figures["server_cpu_ms_a_tile"]

    found: dict[str, object] = {}
    for place in sorted(rounds[0]):
        figures: dict[str, object] = {
            key: round(statistics.median(each[place][key] for each in rounds), 3) for key in rounds[0][place]
        }
        if place != "in_process":
            throughput = [each[place]["tiles_per_s"] / each["in_process"]["tiles_per_s"] for each in rounds]
            processor = [cpu_ms(each["in_process"]) / cpu_ms(each[place]) for each in rounds]
            figures["throughput_to_in_process"] = round(statistics.median(throughput), 3)
            best = {key: max(each[key]["tiles_per_s"] for each in rounds) for key in (place, "in_process")}
            figures["best_to_best_in_process"] = round(best[place] / best["in_process"], 3)
            figures["by_round"] = [round(each, 3) for each in throughput]
            figures["in_process_cpu_to_this"] = round(statistics.median(processor), 3)
        found[place] = figures
    return found


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="convolutions of this benchmark's own without it")
    parser.add_argument("--encoder", help="the bundle's first without it")
    parser.add_argument("--server", help="a running server that has the bundle, in place of one started here")
    parser.add_argument("--tiles", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory()))
        folder = arguments.bundle
        if folder is None:
            folder = scratch / "bundle"
            write_slow_bundle(folder)
        bundle = read_bundle(folder)
        url, session, places = arguments.server, None, ("in_process", "server")
        if url is None:
            places = (*places, "shared_memory")
            write_repository(
                folder,
                bundle,
                scratch / "models",
                names=tuple(encoder.name for encoder in bundle.encoders),
                options=RepositoryOptions(backend="python", threads=arguments.threads),
            )
            server = stack.enter_context(TaskServer(scratch / "models", scratch / "server.log"))
            server.wait(limit_s=120)
            url, session = server.url, server.session
        name = arguments.encoder or bundle.encoders[0].name
        bench = Bench(folder, name, url, session, arguments.threads, arguments.tiles)
        found = {
            "encoder": name,
            "tile_px": bundle.geometry.tile_px,
            "batch_tiles": BATCH_TILES,
            "threads": arguments.threads,
            "tiles": arguments.tiles,
            "rounds": arguments.rounds,
            "tasks": {
                str(tasks): bench.compare(places, tasks=tasks, rounds=arguments.rounds) for tasks in arguments.tasks
            },
        }
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
