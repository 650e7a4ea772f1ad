"""Claims: a task's own server comes up on a free port, answers, and is gone however the task ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from histocast.errors import ConfigError, DeviceUnavailable, MissingInputError, ServingUnavailable, UsageError
from histocast.inference import open_predictor
from histocast.inference.triton import shared_memory
from histocast.inference.triton.server_command import COMMAND
from histocast.inference.triton.task_server import BACKEND, TaskServer, open_task_predictor, task_options
from known_encoders import expected_embedding
from triton_server import Served, find_server

TILES = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3)).astype(np.uint8)

TASK = """
import sys, time
from pathlib import Path
from histocast.bundle import read_bundle
from histocast.inference import open_predictor
from histocast.inference.triton import shared_memory
folder, scratch, end = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with open_predictor(folder, read_bundle(folder), names=("morphology",), threads=1, own_server=scratch):
    print("up", flush=True)
    if end == "error":
        raise RuntimeError("the task's own fault")
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND, find_server())
    monkeypatch.setenv(BACKEND, "python")


def command_lines_over(scratch: Path) -> dict[int, list[str]]:
    """Processes whose command line names this task's repository, or a model in it."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(scratch) in (line := (entry / "cmdline").read_text(errors="replace")):
                found[int(entry.name)] = line.split("\0")
        except OSError:
            continue
    found.pop(os.getpid(), None)
    return found


def servers_over(scratch: Path) -> list[int]:
    return list(command_lines_over(scratch))


def regions_of_servers_over(scratch: Path) -> list[Path]:
    """The shared memory of their Python backend, by the prefix in their command lines."""
    option = "shm-region-prefix-name="
    lines = command_lines_over(scratch).values()
    prefixes = {word.partition(option)[2] for line in lines for word in line if option in word}
    return [path for prefix in prefixes for path in shared_memory.SHARED_MEMORY.glob(f"{prefix}*")]


def wait_until_gone(scratch: Path, *, limit_s: float = 15) -> None:
    until_s = time.monotonic() + limit_s
    while servers_over(scratch) and time.monotonic() < until_s:
        time.sleep(0.1)
    assert servers_over(scratch) == []


def test_it_answers_as_this_process_does_and_is_gone_after(served: Served, tmp_path: Path) -> None:
    with open_predictor(
        served.folder, served.bundle, names=("morphology",), threads=2, own_server=tmp_path
    ) as predictor:
        regions = regions_of_servers_over(tmp_path)
        assert len(regions) == 1
        found = predictor.infer("morphology", {"tiles": TILES})["embedding"]
    np.testing.assert_allclose(found, expected_embedding(TILES), atol=1e-5)
    assert servers_over(tmp_path) == []
    assert not regions[0].exists()
    assert [path.name[:11] for path in (tmp_path / "models").iterdir()] == ["morphology-"], "no graph but those needed"


def region(spots: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(spots)
    return {
        "target": random.normal(size=(spots, 6)).astype(np.float32),
        "neighbour": random.normal(size=(spots, 25, 6)).astype(np.float32),
        "neighbour_mask": random.random((spots, 25)) > 0.3,
    }


def test_tensors_go_through_shared_memory(served: Served, tmp_path: Path) -> None:
    """Also those of several inputs, of requests under way at once, and of requests that grow."""
    names = ("morphology", "fusion")
    batches = [
        np.random.default_rng(seed).integers(0, 256, (5 + seed, 32, 32, 3)).astype(np.uint8) for seed in range(30)
    ]
    with (
        open_predictor(served.folder, served.bundle, names=names, threads=2, own_server=tmp_path) as predictor,
        open_predictor(served.folder, served.bundle, names=names, threads=1) as here,
    ):
        calls = [predictor.submit("morphology", {"tiles": batch}) for batch in batches]
        for batch, call in zip(batches, calls, strict=True):
            np.testing.assert_allclose(call.result()["embedding"], expected_embedding(batch), atol=1e-5)
        for spots in (3, 1):
            expected = here.infer("fusion", region(spots))
            for name, value in predictor.infer("fusion", region(spots)).items():
                np.testing.assert_allclose(value, expected[name], atol=1e-5)
        facts = predictor.facts()
    assert 1 <= int(facts["server_requests_by_shared_memory"]) <= int(facts["server_requests"])
    same = [np.random.default_rng(seed).integers(0, 256, (64, 32, 32, 3)).astype(np.uint8) for seed in range(8)]
    with open_predictor(
        served.folder, served.bundle, names=("morphology",), threads=2, own_server=tmp_path / "again"
    ) as predictor:
        for batch in same:
            found = predictor.infer("morphology", {"tiles": batch})["embedding"]
            np.testing.assert_allclose(found, expected_embedding(batch), atol=1e-5)
        facts = predictor.facts()
    assert facts["server_requests_by_shared_memory"] == facts["server_requests"] == len(same)


def test_two_tasks_on_one_machine_have_two_servers(served: Served, tmp_path: Path) -> None:
    options = {"names": ("morphology",), "threads": 1}
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with (
        open_task_predictor(served.folder, served.bundle, scratch=folders[0], **options) as first,
        open_task_predictor(served.folder, served.bundle, scratch=folders[1], **options) as second,
    ):
        for predictor in (first, second):
            assert predictor.infer("morphology", {"tiles": TILES})["embedding"].shape == (70, 6)


@pytest.mark.parametrize("end", ["error", signal.SIGTERM, signal.SIGKILL])
def test_however_the_task_ends_its_server_does_too(served: Served, tmp_path: Path, end: str | signal.Signals) -> None:
    how = end if isinstance(end, str) else "signal"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    task = subprocess.Popen(
        [sys.executable, "-c", TASK, served.folder, scratch, how],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert task.stdout.readline() == "up\n"
        regions = []
        if not isinstance(end, str):
            regions = regions_of_servers_over(scratch)
            assert len(regions) == 1
            task.send_signal(end)
        assert task.wait(timeout=30) != 0
        wait_until_gone(scratch)
        assert not any(region.exists() for region in regions)
    finally:
        task.kill()
        task.stdout.close()


def test_of_a_server_that_is_killed_no_memory_is_left(served: Served, tmp_path: Path) -> None:
    with open_task_predictor(served.folder, served.bundle, names=("morphology",), threads=1, scratch=tmp_path):
        regions = regions_of_servers_over(tmp_path)
        for number in servers_over(tmp_path):
            os.kill(number, signal.SIGKILL)
        wait_until_gone(tmp_path)
        assert regions[0].exists(), "killed, a server leaves it"
    assert not regions[0].exists()


def test_a_server_that_does_not_hear_is_ended_by_force(served: Served, tmp_path: Path) -> None:
    """As one that compiles for minutes: the task is killed, and its server takes no notice of being asked to end."""
    program, scratch = tmp_path / "deaf", tmp_path / "scratch"
    program.write_text(
        "#!/bin/sh\ntrap '' TERM\nfor last; do :; done\ntouch /dev/shm/${last##*=}left\nwhile :; do sleep 1; done\n"
    )
    program.chmod(0o755)
    scratch.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python"), COMMAND: str(program)}
    quicker = "import histocast.inference.triton.task_server as t; t.STOP_S = 2.0\n" + TASK
    task = subprocess.Popen(
        [sys.executable, "-c", quicker, served.folder, scratch, "signal"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        until_s = time.monotonic() + 30
        # It is seen before it has come to leave anything.
        while not (regions := regions_of_servers_over(program)) and time.monotonic() < until_s:
            time.sleep(0.1)
        assert len(regions) == 1
        # The shell's own children look like it until they have become another program.
        assert len(servers_over(program)) >= 2, "what watches the task, and the server"
        task.kill()
        task.wait()
        wait_until_gone(program)
        assert not regions[0].exists()
    finally:
        task.kill()


def test_what_a_server_started_does_not_outlive_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends by itself, and nobody can ask the task to see to the rest."""
    program, left = tmp_path / "brief", tmp_path / "left"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {left}\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv(COMMAND, str(program))
    with TaskServer(tmp_path / "models", tmp_path / "log") as server:
        until_s = time.monotonic() + 30
        while (server.runs or runs(int(left.read_text()))) and time.monotonic() < until_s:
            time.sleep(0.1)
        assert not server.runs
        assert not runs(int(left.read_text()))


@pytest.mark.parametrize(
    ("said", "error"),
    [("CUDA failure 46: all CUDA-capable devices are busy", DeviceUnavailable), ("no such backend", ConfigError)],
)
def test_a_server_whose_gpu_fails_may_start_on_another_machine(
    said: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ends"
    program.write_text(f"#!/bin/sh\necho '{said}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv(COMMAND, str(program))
    with TaskServer(tmp_path / "models", tmp_path / "log") as server, pytest.raises(error, match=said):
        server.wait(limit_s=60)


def runs(number: int) -> bool:
    """Whether there is such a process; one that only waits to be reaped runs no more."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_server_that_does_not_load_shows_its_log(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BACKEND, "onnxruntime")
    with pytest.raises(ConfigError, match=r"ended with code 1; its log ends\n(?s:.*)onnxruntime") as raised:
        open_task_predictor(served.folder, served.bundle, names=("fusion",), threads=1, scratch=tmp_path)
    assert raised.value.exit_code == 78
    assert servers_over(tmp_path) == []


def test_a_server_that_is_never_ready_is_stopped(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "idle"
    program.write_text("#!/bin/sh\necho loading a large model\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv(COMMAND, str(program))
    with pytest.raises(ServingUnavailable, match="loading a large model"):
        open_task_predictor(served.folder, served.bundle, names=("fusion",), threads=1, scratch=tmp_path, start_s=1)
    assert servers_over(tmp_path) == []


TENSORRT = {"HISTOCAST_TRITONSERVER_TENSORRT": "1"}


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, {"backend": "onnxruntime", "precision": "fp32", "tensorrt": False}),
        ({**TENSORRT, "HISTOCAST_PRECISION": "fp16"}, {"tensorrt": True, "precision": "fp16"}),
        ({**TENSORRT, "HISTOCAST_CACHE": "/node"}, {"engine_cache": "/node/tensorrt"}),
        ({"HISTOCAST_TRITONSERVER_ENGINE_CACHE": "/here", "HISTOCAST_CACHE": "/node"}, {"engine_cache": "/here"}),
        ({"HISTOCAST_TRITONSERVER_MAX_BATCH_TILES": "8"}, {"max_batch_tiles": 8, "instances": 2}),
    ],
)
def test_it_takes_the_options_of_a_fleet(given: dict[str, str], options: dict[str, object]) -> None:
    assert options.items() <= task_options(threads=3, environment=given).model_dump().items()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"HISTOCAST_PRECISION": "fp16"}, "fp16 needs tensorrt"),
        ({"HISTOCAST_TRITONSERVER_INSTANCES": "many"}, "HISTOCAST_TRITONSERVER_INSTANCES: "),
        ({**TENSORRT, "HISTOCAST_TRITONSERVER_BACKEND": "python"}, "leave out tensorrt"),
        ({"HISTOCAST_TRITONSERVER_BACKEND": "pytorch"}, "HISTOCAST_TRITONSERVER_BACKEND: "),
    ],
)
def test_options_it_cannot_take_are_a_usage_error(given: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        task_options(threads=1, environment=given)


def test_no_program_is_a_missing_input(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND, "tritonserver-that-is-absent")
    with pytest.raises(MissingInputError, match=COMMAND):
        open_task_predictor(served.folder, served.bundle, names=("fusion",), threads=1, scratch=tmp_path)
