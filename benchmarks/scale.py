"""What thousands of slides cost before and around the work on them.

``check``: CHECK of many rows whose slides lie in S3. The server is versitygw on loopback, found on PATH, or
``--endpoint``; before it stands a proxy that holds each request back for the latency.

``stub``: ``nextflow run -stub`` of many samples, whose tasks do nothing: the head process's time and memory. Live memory
is the heap after a collection, so that what the collector has not freed yet is not taken for what is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from remote_store import BUCKET, proxy, versitygw

ROOT = Path(__file__).resolve().parents[1]
# Live heap in MiB after a pause: "[12.3s][info][gc] GC(4) Pause Young (...) 60M->21M(128M) 3.2ms"
_PAUSE = re.compile(r"^\[([\d.]+)s\].* Pause .* \d+M->(\d+)M\(", re.MULTILINE)


def write_sheet(path: Path, samples: int, slide: Callable[[int], str]) -> Path:
    """Write a samplesheet of this many rows."""
    rows = [f"S{number},{slide(number)}" for number in range(samples)]
    path.write_text("\n".join(["sample,slide", *rows]) + "\n")
    return path


def run(command: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Run a command and return its seconds, its processor seconds and its largest resident size."""
    log = folder / "log.txt"
    started_s = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, stdout=stream, stderr=stream, env={**os.environ, **(environment or {})}
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed:\n{log.read_text()[-2000:]}")
    return {
        "seconds": round(time.perf_counter() - started_s, 1),
        "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
        "largest_resident_mib": round(usage.ru_maxrss / 1024, 1),
    }


def fill(endpoint: str, samples: int) -> None:
    """Make the objects."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        client.create_bucket(Bucket=BUCKET)
    with ThreadPoolExecutor(8) as pool:
        put = [
            pool.submit(client.put_object, Bucket=BUCKET, Key=f"S{number}.svs", Body=b"slide")
            for number in range(samples)
        ]
    for answer in put:
        answer.result()


def measure_check(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """CHECK of ``--samples`` rows, and of a tenth of them for how memory grows."""
    with ExitStack() as stack:
        endpoint = options.endpoint or stack.enter_context(versitygw(folder))
        fill(endpoint, options.samples)
        port, _ = stack.enter_context(proxy(endpoint, options.latency_ms / 1000))
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        results: dict[str, object] = {"latency_ms": options.latency_ms, "server": options.endpoint or "versitygw"}
        for samples in (options.samples // 10, options.samples):
            sheet = write_sheet(folder / "sheet.csv", samples, lambda number: f"s3://{BUCKET}/S{number}.svs")
            command = [sys.executable, "-m", "histocast", "check", "--input", str(sheet)]
            results[f"{samples} rows"] = run([*command, "--bundle", str(options.bundle)], folder)
    return results


def live_heap_mib(log: Path) -> list[int]:
    """Return the live heap of the head process at each tenth of its run, the median of that tenth's collections."""
    pauses = [(float(at_s), int(mib)) for at_s, mib in _PAUSE.findall(log.read_text())]
    end_s = pauses[-1][0]
    tenths: list[list[int]] = [[] for _ in range(10)]
    for at_s, mib in pauses:
        tenths[min(9, int(10 * at_s / end_s))].append(mib)
    return [round(statistics.median(tenth)) for tenth in tenths if tenth]


def measure_stub(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """A stub run of ``--samples`` slides, four tasks each, as many at once as there are processors."""
    nextflow = shutil.which("nextflow")
    if nextflow is None:
        raise SystemExit("PATH has no nextflow")
    (folder / "slide.svs").touch()
    (folder / "bundle").mkdir()
    sheet = write_sheet(folder / "sheet.csv", options.samples, lambda _: "slide.svs")
    narrow = folder / "narrow.config"
    narrow.write_text("process.resourceLimits = [cpus: 1]\n")
    command = [nextflow, "-c", str(narrow), "run", str(ROOT), "-stub", "-ansi-log", "false", "--outdir", "results"]
    head = run(
        [*command, "--input", str(sheet), "--bundle", "bundle"],
        folder,
        {"NXF_OPTS": f"-Xmx{options.heap_mib}m -Xlog:gc:file={folder}/gc.log"},
    )
    trace = (folder / "results" / "pipeline_info" / "trace.txt").read_text().splitlines()
    return {
        "samples": options.samples,
        "heap_limit_mib": options.heap_mib,
        "tasks": len(trace) - 1,
        "tasks_per_s": round((len(trace) - 1) / head["seconds"], 1),
        # The largest of the head process and of every task that it waited for.
        **head,
        "live_heap_mib_by_tenth": live_heap_mib(folder / "gc.log"),
    }


def main() -> None:
    """Read the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "stub"))
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--endpoint", help="URL of a real S3 server; credentials come from the environment")
    parser.add_argument("--bundle", type=Path, default=ROOT / "assets" / "demo-bundle")
    parser.add_argument("--heap-mib", type=int, default=1024, help="limit of the head process")
    options = parser.parse_args()
    measure = {"check": measure_check, "stub": measure_stub}[options.what]
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options), indent=2))


if __name__ == "__main__":
    main()
