"""Claims: a run on servers gives what it gives in process; one that starts its own leaves none, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest

from histocast import predict_slide
from histocast.bundle import read_bundle
from histocast.records import SampleStatus, read_record
from pipeline_runs import Launcher, write_samplesheet
from triton_server import RealServer, find_server

# Whole runs of the pipeline, on a machine that may have other work to do.
pytestmark = pytest.mark.timeout(900)

WATCH_S = 0.05
APPEARS_WITHIN_S = 180


def processes_below(folder: Path, *words: bytes) -> list[int]:
    """Processes that work in a folder and whose command line has one of these words."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            place = (entry / "cwd").readlink() if any(word in arguments for word in words) else None
        except OSError:
            continue
        if place is not None and place.is_relative_to(folder):
            found.append(int(entry.name))
    return found


def servers_below(folder: Path) -> list[int]:
    """Servers, what starts them and what they start."""
    return processes_below(folder, b"tritonserver", b"triton_python_backend_stub")


def wait_until(condition: Callable[[], bool], *, limit_s: float) -> bool:
    until_s = time.monotonic() + limit_s
    while not (met := condition()) and time.monotonic() < until_s:
        time.sleep(WATCH_S)
    return met


@pytest.fixture
def own_servers() -> dict[str, str]:
    return {"HISTOCAST_TRITONSERVER": find_server(), "HISTOCAST_TRITONSERVER_BACKEND": "python"}


@pytest.fixture
def slides(tmp_path: Path, make_slide: Callable[..., Path]) -> dict[str, Path]:
    return {f"S{seed}": make_slide(tmp_path / f"{seed}.tiff", seed=seed) for seed in (1, 2, 3)}


@pytest.fixture
def server(tmp_path: Path, bundle: Path) -> Iterator[RealServer]:
    """A server that somebody else runs."""
    (tmp_path / "elsewhere").mkdir()
    server = RealServer(tmp_path / "elsewhere")
    server.add(bundle, read_bundle(bundle))
    yield server.start()
    server.kill()


def test_results_are_those_of_the_verb_in_process_and_no_server_is_left(
    launch: Launcher,
    tmp_path: Path,
    slides: dict[str, Path],
    bundle: Path,
    own_servers: dict[str, str],
    server: RealServer,
) -> None:
    def run(name: str, samples: tuple[str, ...], *more: str) -> Path:
        sheet = write_samplesheet(tmp_path / f"{name}.csv", {sample: slides[sample] for sample in samples})
        folders = ("--outdir", tmp_path / name, "-work-dir", tmp_path / f"work-{name}")
        done = launch("--input", sheet, "--bundle", bundle, *folders, *more, env=own_servers)
        assert done.code == 0, done.output
        assert servers_below(tmp_path / f"work-{name}") == []
        return tmp_path / name

    for sample in ("S1", "S2"):
        predict_slide(slides[sample], bundle=bundle, outdir=tmp_path / "here" / sample, sample=sample)
    # A task's own server is for encoders.
    for served, samples, stages in (
        (run("task", ("S1",), "--serving", "task"), ("S1",), ("encode",)),
        (run("servers", ("S1", "S2"), "--triton_url", server.url), ("S1", "S2"), ("encode", "predict")),
    ):
        for sample in samples:
            assert_same_results(served / sample, tmp_path / "here" / sample, sample)
            status = read_record(served / sample / "status.json", SampleStatus)
            facts = {stage.stage: stage.facts for stage in status.stages}
            assert ("server_requests" in facts["predict"]) == ("predict" in stages)
            for stage in stages:
                assert facts[stage]["server_requests"] >= 1
                assert facts[stage]["server_retries"] == 0
                assert facts[stage]["starting_s"] > 0
        summary = (served / "summary.html").read_text()
        assert "Encoding spent most time on" in summary
        assert "Predicting spent most time on" in summary


def assert_same_results(found: Path, expected: Path, sample: str) -> None:
    ours, theirs = (anndata.read_h5ad(folder / f"{sample}.h5ad") for folder in (found, expected))
    assert ours.obs_names.equals(theirs.obs_names)
    assert ours.var_names.equals(theirs.var_names)
    np.testing.assert_allclose(ours.X, theirs.X, atol=1e-5)
    for layer in ("sd", "lower", "upper"):
        np.testing.assert_allclose(ours.layers[layer], theirs.layers[layer], atol=1e-5)
    tables = [pq.read_table(folder / f"{sample}.parquet") for folder in (found, expected)]
    assert tables[0].schema.names == tables[1].schema.names
    assert tables[0].num_rows == tables[1].num_rows > 0


@pytest.fixture
def slow_servers(tmp_path: Path, own_servers: dict[str, str]) -> dict[str, str]:
    """A real server whose models take two minutes a batch, also to warm up, so that a task is surely at work when it is ended."""
    program = tmp_path / "slow-tritonserver"
    program.write_text(
        "#!/bin/sh\n"
        "for argument; do case $argument in --model-repository=*) models=${argument#*=} ;; esac; done\n"
        'sed -i "s/^        begun = /        __import__(\'time\').sleep(120); begun = /" "$models"/*/1/model.py\n'
        'grep -q "sleep(120)" "$models"/*/1/model.py || exit 1\n'
        f'exec {own_servers["HISTOCAST_TRITONSERVER"]} "$@"\n'
    )
    program.chmod(0o755)
    return {**own_servers, "HISTOCAST_TRITONSERVER": str(program)}


def encode_folder(work: Path, sample: str) -> Path | None:
    """Where the ENCODE of a sample works, once it was started."""
    scripts = (path for path in work.rglob(".command.run") if f"ENCODE ({sample})'" in path.read_text())
    return next((path.parent for path in scripts), None)


def serves(work: Path, sample: str) -> bool:
    """Whether a sample's ENCODE has a server at this moment."""
    folder = encode_folder(work, sample)
    return folder is not None and bool(servers_below(folder))


# Two at once, of whatever order. S1 is ended by its time limit; S2 and S3 by the test.
ENDS = """
process {
    errorStrategy = 'ignore'
    withName: ENCODE { time = { task.tag == 'S1' ? '40s' : '1h' } }
}
"""


def test_a_task_that_is_ended_takes_its_server_along(
    launch: Launcher, tmp_path: Path, slides: dict[str, Path], bundle: Path, slow_servers: dict[str, str]
) -> None:
    """By its time limit, killed as where memory runs out, and with the whole run."""
    config, log, work = tmp_path / "more.config", tmp_path / "log", tmp_path / "work"
    config.write_text(ENDS)
    sheet = write_samplesheet(tmp_path / "sheet.csv", slides)
    run = subprocess.Popen(
        [
            *(launch.nextflow, "run", launch.root, "-ansi-log", "false", "-c", config, "--max_cpus", "1"),
            *("--input", sheet, "--bundle", bundle, "--serving", "task", "--outdir", tmp_path / "results"),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{launch.root / '.venv' / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(launch.root / "python"),
            "NXF_OFFLINE": "true",
            **slow_servers,
        },
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        seen: set[str] = set()

        def all_but_s3_are_ended() -> bool:
            up = {sample for sample in slides if serves(work, sample)}
            if "S2" in up - seen:
                # As the kernel does: the task itself, without a word.
                for number in processes_below(encode_folder(work, "S2"), b"\0encode\0"):
                    os.kill(number, signal.SIGKILL)
            seen.update(up)
            return seen == {*slides} and up == {"S3"}

        assert wait_until(all_but_s3_are_ended, limit_s=APPEARS_WITHIN_S), (seen, log.read_text())
        assert "Process exceeded running time limit (40s)" in (tmp_path / ".nextflow.log").read_text()
        assert "ENCODE (S2)` terminated with an error exit status (137)" in log.read_text()
        assert run.poll() is None
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=240) != 0
        # Ending the tasks is Nextflow's part, which may leave one behind where it is aborted itself.
        for number in processes_below(tmp_path, b"\0encode\0"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
        if not wait_until(lambda: not servers_below(tmp_path), limit_s=60):
            commands = [Path(f"/proc/{number}/cmdline") for number in processes_below(tmp_path, b"")]
            pytest.fail(f"a server outlived its task; there are {[command.read_bytes() for command in commands]}")
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        for number in servers_below(tmp_path):
            os.kill(number, signal.SIGKILL)
