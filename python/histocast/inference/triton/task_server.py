"""A server of one task's own: started on loopback, waited for, and stopped in every way the task can end.

The server dies with the task even where the task can do nothing any more (``kill -9``, out of memory): a process
of its own watches the task and stops the server.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from histocast.bundle import Bundle
from histocast.errors import ConfigError, ServingUnavailable, TransientError, UsageError
from histocast.foreign_errors import device_unavailable, is_device_fault
from histocast.inference.predictor import asked_precision
from histocast.inference.triton.model_repository import write_repository
from histocast.inference.triton.repository_options import RepositoryOptions
from histocast.inference.triton.server_command import find_program, server_environment, server_options
from histocast.inference.triton.settings import TritonSettings
from histocast.inference.triton.shared_memory import Regions
from histocast.inference.triton.triton_predictor import TritonPredictor
from histocast.progress import log
from histocast.storage.lock import exclusive_lock

BACKEND = "HISTOCAST_TRITONSERVER_BACKEND"
"""Variable with the backend that runs graphs in it, ``onnxruntime`` by default, ``python`` without a GPU."""
CACHE = "HISTOCAST_CACHE"
"""Variable with a folder of this node that outlives the task."""

START_S = 900.0
"""TensorRT compiles for minutes where its cache is empty."""
STOP_S = 20.0
LOG_LINES = 25
LINE_LENGTH = 500
PORT_TRIES = 3

# Stands between task and server, with the end of a pipe whose other end the task holds: it is closed when the task is
# gone, however it went, and written to when the server is to end. A server that loads or compiles a model does not hear
# a gentle signal for minutes. What a server started may not notice that it is gone; both are of one process group, whose
# number nobody else can have while the server is not reaped.
WARDEN = """
import contextlib, ctypes, glob, os, signal, subprocess, sys, threading, time
signal.signal(signal.SIGTERM, lambda *_: None)
task, patience_s, regions = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
die_with_us = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)
server = subprocess.Popen(sys.argv[4:], process_group=0, preexec_fn=die_with_us)
def end():
    os.read(task, 1)
    os.killpg(server.pid, signal.SIGTERM)
    time.sleep(patience_s)
    os.killpg(server.pid, signal.SIGKILL)
threading.Thread(target=end, daemon=True).start()
os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
os.killpg(server.pid, signal.SIGKILL)
for name in glob.glob(regions):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
code = server.wait()
sys.exit(code if code >= 0 else 128 - code)
"""


class TaskServer:
    """A running server; use as a context manager, or call `stop`.

    ``repository``: its models.
    ``log_file``: what it prints goes here, and is shown when it does not come up.
    ``tf32``: whether TensorRT may compute float32 in TF32.
    Raises `MissingInputError`: there is no such program.
    """

    def __init__(self, repository: Path, log_file: Path, *, tf32: bool = False) -> None:
        self._log_file = log_file
        self.port = free_port()
        self._regions = Regions()
        command = find_program()
        watched, held = os.pipe()
        self._held: int | None = held
        with log_file.open("wb") as stream:
            self._process = subprocess.Popen(  # noqa: S603 - the operator's own command
                [
                    *(sys.executable, "-S", "-c", WARDEN, str(watched), str(STOP_S), self._regions.pattern),
                    *(*command, *self._options(repository)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(watched,),
                env=server_environment(tf32=tf32),
            )
        os.close(watched)

    def _options(self, repository: Path) -> list[str]:
        return [
            *server_options(str(repository), grpc=f"127.0.0.1:{self.port}"),
            f"--exit-timeout-secs={int(STOP_S / 2)}",
            self._regions.option,
        ]

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"grpc://127.0.0.1:{self.port}"

    @property
    def session(self) -> int:
        """Of its process and of all that it started."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process.poll() is None

    @property
    def lost_its_port(self) -> bool:
        """Whether somebody else took the port between the choice and the start."""
        return "already in use" in self.last_lines().lower()

    def last_lines(self) -> str:
        """The errors in its log, or its end where there is none: the rest is tables of settings."""
        lines = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if re.match(r"E\d|error", line)]
        return "\n".join(line[:LINE_LENGTH] for line in (errors or lines)[-LOG_LINES:])

    def wait(self, *, limit_s: float) -> None:
        """Return when its port answers, which is when every model is loaded.

        Raises `ConfigError` or `DeviceUnavailable`: it ended; its log is in the message; `ServingUnavailable`: it is
        not up in time.
        """
        until_s = time.monotonic() + limit_s
        while self.runs:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if time.monotonic() > until_s:
                raise ServingUnavailable(
                    f"the task's own server is not up after {limit_s:.0f} s; its log ends\n{self.last_lines()}"
                )
            time.sleep(0.1)
        ended = f"the task's own server ended with code {self._process.returncode}; its log ends\n{self.last_lines()}"
        if is_device_fault(ended):
            raise device_unavailable(ended)
        raise ConfigError(
            ended,
            expected="a server that loads the bundle's graphs",
            advice=f"see whether the task has a GPU; {BACKEND}=python needs none",
        )

    def stop(self) -> None:
        """Stop it, by force where it does not go, and every program it started."""
        if self._held is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._held, b"!")
            os.close(self._held)
            self._held = None
        self._process.wait()
        self._regions.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class TaskPredictor(TritonPredictor):
    """A `TritonPredictor` whose server ends with it."""

    def __init__(self, bundle: Bundle, *, names: Sequence[str], server: TaskServer, settings: TritonSettings) -> None:
        self._server = server
        super().__init__(bundle, names=names, url=server.url, settings=settings)

    def close(self) -> None:
        """End the connections, then the server."""
        try:
            super().close()
        finally:
            self._server.stop()


def open_task_predictor(
    folder: Path, bundle: Bundle, *, names: Sequence[str], threads: int, scratch: Path, start_s: float = START_S
) -> TaskPredictor:
    """Start a server of this task's own and connect to it; it stops when the predictor is closed.

    ``scratch``: folder for its repository, which links to the bundle, and its log.
    ``start_s``: how long it may take to load its models.
    Raises `UsageError`: a variable holds no option of a server; `MissingInputError`: a graph or the server's program is
    absent; `ConfigError` or `DeviceUnavailable`: the server ends before it is ready; its log is in the message;
    `ServingUnavailable`: it is not ready in time.
    """
    options = task_options(threads=threads)
    repository = scratch / "models"
    write_repository(folder, bundle, repository, names=names, options=options, link=True)
    # The server is next door: it is ready now or has ended, and nothing else stands in for it.
    settings = TritonSettings.from_environment().model_copy(update={"patience_s": 20.0, "ca": None, "cert": None})
    # Of tasks that start at once on a node one compiles, and the others find what it compiled.
    with exclusive_lock(Path(options.engine_cache) / "lock") if options.tensorrt else nullcontext():
        server = _start(repository, scratch / "tritonserver.log", tf32=options.precision == "tf32", start_s=start_s)
    try:
        return TaskPredictor(bundle, names=names, server=server, settings=settings)
    except BaseException:
        server.stop()
        raise


def _start(repository: Path, log_file: Path, *, tf32: bool, start_s: float) -> TaskServer:
    """A server that has loaded and warmed up its models; on another port where somebody else took the first."""
    for tries_left in reversed(range(PORT_TRIES)):
        server = TaskServer(repository, log_file, tf32=tf32)
        try:
            started_s = time.monotonic()
            server.wait(limit_s=start_s)
        except (ConfigError, TransientError):
            server.stop()
            if not (tries_left and server.lost_its_port):
                raise
        except BaseException:
            server.stop()
            raise
        else:
            log(f"a server of this task's own is up after {time.monotonic() - started_s:.1f} s at {server.url}")
            return server
    raise ServingUnavailable("no free port on loopback", advice="try again")


def task_options(*, threads: int, environment: Mapping[str, str] = os.environ) -> RepositoryOptions:
    """Options of a task's own server: those of ``histocast repository``, by ``HISTOCAST_TRITONSERVER_<OPTION>``.

    What TensorRT compiles is kept below ``HISTOCAST_CACHE`` where that is set and no other folder is named.

    Raises `UsageError`: a value is none of its option, or options do not fit together.
    """
    names = set(RepositoryOptions.model_fields) - {"precision", "threads"}
    given: dict[str, Any] = {
        name: value for name in names if (value := environment.get(f"HISTOCAST_TRITONSERVER_{name.upper()}"))
    }
    if cache := environment.get(CACHE):
        given.setdefault("engine_cache", f"{cache}/tensorrt")
    try:
        return RepositoryOptions(threads=threads, precision=asked_precision(environment), **given)
    except ValidationError as error:
        fault = error.errors()[0]
        variable = f"HISTOCAST_TRITONSERVER_{str(fault['loc'][0]).upper()}: " if fault["loc"] else ""
        raise UsageError(f"{variable}{fault['msg']}", where="environment") from error


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
