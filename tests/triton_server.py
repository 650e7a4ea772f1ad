"""Real inference servers on loopback, and a proxy that puts faults before one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from histocast.bundle import Bundle
from histocast.inference.triton.model_repository import write_repository
from histocast.inference.triton.repository_options import RepositoryOptions
from histocast.inference.triton.server_command import server_options
from histocast.inference.triton.shared_memory import Regions
from histocast.inference.triton.task_server import free_port
from histocast.inference.triton.triton_predictor import TritonPredictor

ROOT = Path(__file__).resolve().parents[1]
CPU = RepositoryOptions(backend="python", max_batch_tiles=32)
ENCODER = ("morphology",)
"""One graph of the bundles, for servers that need not serve all: each model costs a process and a second."""


def find_server() -> str:
    """The program `make triton` brings, or one on PATH; without it tests are skipped, in CI they fail."""
    brought = ROOT / ".tools" / "bin" / "tritonserver"
    program = str(brought) if brought.is_file() else shutil.which("tritonserver")
    if program is None:
        reason = "no tritonserver: run 'make triton'"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


class RealServer:
    """A tritonserver over a model repository, which can be killed and started again on its port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.repository = folder / "models"
        self.log = folder / "server.log"
        self.options = options
        self.port = free_port()
        self.regions = Regions()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def add(
        self,
        folder: Path,
        bundle: Bundle,
        options: RepositoryOptions = CPU,
        *,
        names: tuple[str, ...] | None = None,
    ) -> list[str]:
        return write_repository(folder, bundle, self.repository, options=options, names=names)

    def start(self, *, wait: bool = True) -> RealServer:
        command = [
            find_server(),
            *server_options(str(self.repository), grpc=f"127.0.0.1:{self.port}"),
            "--exit-timeout-secs=5",
            self.regions.option,
            *self.options,
        ]
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
        if wait:
            self.wait()
        return self

    def wait(self, limit_s: float = 60) -> None:
        until_s = time.monotonic() + limit_s
        while time.monotonic() < until_s and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"the server did not come up:\n{self.log.read_text()}")

    def kill(self) -> None:
        """As a lost machine: at once, with everything it started."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.regions.remove()


@dataclass(frozen=True)
class Served:
    """A bundle, and a server that serves it."""

    folder: Path
    bundle: Bundle
    server: RealServer


Connect = Callable[..., TritonPredictor]


class TcpProxy:
    """Hands bytes on to a server; `delay_s` and `stalled` act on what the server answers."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.delay_s = 0.0
        self.stalled = threading.Event()
        self.answers = 0
        """Pieces of answers so far."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.upstream))
            except OSError:
                near.close()
                continue
            self.sockets += [near, far]
            threading.Thread(target=self._copy, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(far, near, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        try:
            while data := source.recv(65536):
                if is_answer:
                    self.answers += 1
                    time.sleep(self.delay_s)
                    while self.stalled.is_set():
                        time.sleep(0.02)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            end.close()

    def close(self) -> None:
        self.stalled.clear()
        self.listener.close()
        for each in self.sockets:
            each.close()
