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
def sheet(tmp_path: Path, make_slide: Callable[..., Path]) -> Path:
    make_slide(tmp_path / "one.tiff", seed=1)
    make_slide(tmp_path / "two.tiff", seed=2)
    return write_samplesheet(tmp_path / "sheet.csv", {"S1": "one.tiff", "S2": "two.tiff"})


@pytest.fixture
def server(tmp_path: Path, bundle: Path) -> Iterator[RealServer]:
    """A server that somebody else runs."""
    (tmp_path / "elsewhere").mkdir()
    server = RealServer(tmp_path / "elsewhere")
    server.add(bundle, read_bundle(bundle))
    yield server.start()
    server.kill()


def test_results_are_those_of_a_run_in_process_and_no_server_is_left(
    launch: Launcher, tmp_path: Path, sheet: Path, bundle: Path, own_servers: dict[str, str], server: RealServer
) -> None:
    def run(name: str, *more: str) -> Path:
        folders = ("--outdir", tmp_path / name, "-work-dir", tmp_path / f"work-{name}")
        done = launch("--input", sheet, "--bundle", bundle, *folders, *more, env=own_servers)
        assert done.code == 0, done.output
        assert servers_below(tmp_path / f"work-{name}") == []
        return tmp_path / name

    here = run("here")
    for served in (run("task", "--serving", "task"), run("servers", "--triton_url", server.url)):
        for sample in ("S1", "S2"):
            assert_same_results(served / sample, here / sample, sample)
            status = read_record(served / sample / "status.json", SampleStatus)
            facts = {stage.stage: stage.facts for stage in status.stages}
            # A task's own server is for encoders.
            stages = ("encode",) if served.name == "task" else ("encode", "predict")
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
    """A real server whose models take 15 s a batch, also to warm up, so that a task is surely at work when it is ended."""
    program = tmp_path / "slow-tritonserver"
    program.write_text(
        "#!/bin/sh\n"
        "for argument; do case $argument in --model-repository=*) models=${argument#*=} ;; esac; done\n"
        'sed -i "s/^        begun = /        __import__(\'time\').sleep(15); begun = /" "$models"/*/1/model.py\n'
        'grep -q "sleep(15)" "$models"/*/1/model.py || exit 1\n'
        f'exec {own_servers["HISTOCAST_TRITONSERVER"]} "$@"\n'
    )
    program.chmod(0o755)
    return {**own_servers, "HISTOCAST_TRITONSERVER": str(program)}


@pytest.mark.parametrize("end", ["time limit", "aborted", "killed"])
def test_a_task_that_is_ended_takes_its_server_along(
    end: str, launch: Launcher, tmp_path: Path, sheet: Path, bundle: Path, slow_servers: dict[str, str]
) -> None:
    config = tmp_path / "more.config"
    limit = "withName: ENCODE { time = '25s' }" if end == "time limit" else ""
    config.write_text(f"process {{ errorStrategy = 'terminate'\n{limit} }}\n")
    run = subprocess.Popen(
        [
            *(launch.nextflow, "run", launch.root, "-ansi-log", "false", "-c", config),
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
        stdout=(tmp_path / "log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert wait_until(lambda: bool(servers_below(tmp_path)), limit_s=APPEARS_WITHIN_S), (
            tmp_path / "log"
        ).read_text()
        if end == "aborted":
            run.send_signal(signal.SIGTERM)
        elif end == "killed":
            # As the kernel does where memory runs out: the tasks themselves, without a word.
            for number in processes_below(tmp_path, b"\0encode\0"):
                os.kill(number, signal.SIGKILL)
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
