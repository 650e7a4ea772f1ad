"""Claims: a task is shown the GPU that was granted to it, and tasks of one host that nobody granted one have one each."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

LOCKS = Path("/tmp/histocast-gpus")
SAYS = """
. "$1" "$2"
echo "${CUDA_VISIBLE_DEVICES-unset}|${HISTOCAST_DOCKER_GPU-unset}|${HISTOCAST_PODMAN_GPU-unset}"
read -r _ || true
"""


class Host:
    """Two GPUs, of which ``nvidia-smi`` tells."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.gpus = [f"GPU-{uuid4()}" for _ in range(2)]
        self.program = program
        self.folder = folder
        listed = "".join(f"{index}, {name}\n" for index, name in enumerate(self.gpus))
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{listed}'\n")
        (folder / "nvidia-smi").chmod(0o755)

    def start(self, executor: str, visible: str | None) -> subprocess.Popen[str]:
        """A task's shell, which ends when its input does."""
        environment = {"PATH": f"{self.folder}:{os.environ['PATH']}"}
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible.format(*self.gpus)
        return subprocess.Popen(
            ["bash", "-eu", "-c", SAYS, "task", str(self.program), executor],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, executor: str, visible: str | None) -> str:
        return self.start(executor, visible).communicate("\n", timeout=30)[0].strip()


@pytest.fixture
def host(root: Path, tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path, root / "bin" / "grant-gpu")
    yield host
    for name in host.gpus:
        (LOCKS / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("visible", "granted", "docker", "podman"),
    [
        ("1", "{1}", '--gpus "device={1}"', "--device nvidia.com/gpu={1}"),
        ("{1}", "{1}", '--gpus "device={1}"', "--device nvidia.com/gpu={1}"),
        ("0,1", "{0},{1}", '--gpus "device={0},{1}"', "--device nvidia.com/gpu={0} --device nvidia.com/gpu={1}"),
        ("MIG-7", "MIG-7", '--gpus "device=MIG-7"', "--device nvidia.com/gpu=MIG-7"),
        ("", "", "", ""),
    ],
)
def test_what_a_scheduler_granted_is_what_the_task_is_shown(
    host: Host, visible: str, granted: str, docker: str, podman: str
) -> None:
    told = [part.strip() for part in host.ask("slurm", visible).split("|")]
    assert told == [each.format(*host.gpus) for each in (granted, docker, podman)]


def test_of_two_gpus_of_a_host_each_task_has_one_and_the_third_task_waits(host: Host) -> None:
    first, second = host.start("local", None), host.start("local", "0,1")
    shown = [task.stdout.readline().partition("|")[0] for task in (first, second)]
    assert set(shown) == set(host.gpus)
    third = host.start("local", None)
    with pytest.raises(subprocess.TimeoutExpired):
        third.wait(timeout=0.5)
    first.communicate("\n", timeout=30)
    assert third.stdout.readline().partition("|")[0] == shown[0]
    for task in (second, third):
        task.communicate("\n", timeout=30)


def test_without_a_driver_nothing_is_said(host: Host) -> None:
    (host.folder / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert host.ask("local", None) == "unset|unset|unset"
    assert host.ask("slurm", "0") == "0|unset|unset"
