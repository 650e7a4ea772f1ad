"""An S3 server that seems to be far away: versitygw, and a proxy that holds every request back and counts.

The proxy works on TCP, so that it neither signs nor understands anything: what a client sends waits for
the latency, and once more on a new connection, as a handshake would; what the server sends is passed on by the
kernel at once, so that the proxy takes next to nothing of the machine it shares with the reader.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

BUCKET = "benchmark"
INSTALL = "go install github.com/versity/versitygw/cmd/versitygw@latest"
START_S = 20
_PIPE_BYTES = 1 << 20
_END_OF_HEADERS = b"\r\n\r\n"


@dataclass
class Traffic:
    """What went through the proxy."""

    requests: int = 0
    answered_bytes: int = 0
    """Bodies and headers."""


@contextmanager
def remote_store(
    slide: Path, folder: Path, *, latency_s: float, endpoint: str | None
) -> Iterator[tuple[str, Connection]]:
    """Put a slide into a bucket ``latency_s`` away; yield its URI and who tells the traffic since it was asked last.

    boto3 is pointed there by the environment. ``endpoint`` is an S3 server reached by plain HTTP, whose credentials
    the environment holds; without it versitygw runs on loopback until the block ends.
    """
    with ExitStack() as stack:
        if endpoint is None:
            endpoint = stack.enter_context(versitygw(folder))
        upload(slide, endpoint)
        port, traffic = stack.enter_context(proxy(endpoint, latency_s))
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        yield f"s3://{BUCKET}/{slide.name}", traffic


@contextmanager
def versitygw(folder: Path) -> Iterator[str]:
    """Run versitygw on loopback over a folder, and yield its URL."""
    program = shutil.which("versitygw", path=f"{os.environ['PATH']}:{Path.home() / 'go' / 'bin'}")
    if program is None:
        raise SystemExit(f"no versitygw on PATH: {INSTALL}, or name another server by --endpoint")
    os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "benchmark"
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    objects, sidecar = folder / "objects", folder / "sidecar"
    for place in (objects, sidecar):
        place.mkdir(parents=True)
    login = ["--access", "benchmark", "--secret", "benchmark"]
    # Connections are kept, as S3 keeps them. What it remembers of objects goes beside them: not every disk has attributes.
    serve = ["--port", f"127.0.0.1:{port}", "--keep-alive", "--quiet"]
    server = subprocess.Popen([program, *login, *serve, "posix", "--sidecar", sidecar, objects])
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def upload(slide: Path, endpoint: str) -> None:
    """Put a slide into the bucket, which is made where it is absent."""
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        client.create_bucket(Bucket=BUCKET)
    client.upload_file(str(slide), BUCKET, slide.name)


@contextmanager
def proxy(endpoint: str, latency_s: float) -> Iterator[tuple[int, Connection]]:
    """Run the proxy, and yield its port and its count; a process of its own, so that no lock is shared."""
    address = urlsplit(endpoint)
    if address.scheme != "http":
        raise SystemExit(f"the endpoint {endpoint}: only plain http can be held back")
    ours, theirs = multiprocessing.Pipe()
    arguments = ((address.hostname, address.port or 80), latency_s, theirs)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.terminate()
        process.join()


def traffic_since(counter: Connection) -> Traffic:
    """Return what went through the proxy since the last call."""
    counter.send("?")
    traffic: Traffic = counter.recv()
    return traffic


def servers_cpu_s() -> float:
    """Return the processor time that server and proxy, this process's only children, have taken."""
    ticks = 0
    for child in _children():
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def part_cores(ours: int) -> None:
    """Keep so many cores for this process and leave server and proxy the others, as a store elsewhere has its own."""
    cores = sorted(os.sched_getaffinity(0))
    for process, part in [("self", cores[:ours]), *((child, cores[ours:]) for child in _children())]:
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), part)


def _children() -> list[str]:
    lists = Path("/proc/self/task").glob("*/children")
    return [child for children in lists for child in children.read_text().split()]


def _serve(upstream: tuple[str, int], latency_s: float, counter: Connection) -> None:
    traffic = Traffic()
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=_accept, args=(listener, upstream, latency_s, traffic), daemon=True).start()
    counter.send(listener.getsockname()[1])
    while counter.recv():
        counter.send(traffic)
        traffic.requests = traffic.answered_bytes = 0


def _accept(listener: socket.socket, upstream: tuple[str, int], latency_s: float, traffic: Traffic) -> None:
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(upstream)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for work, arguments in ((_ask, (client, server, latency_s, traffic)), (_answer, (server, client, traffic))):
            threading.Thread(target=work, args=arguments, daemon=True).start()


def _ask(client: socket.socket, server: socket.socket, latency_s: float, traffic: Traffic) -> None:
    time.sleep(latency_s)
    # A request to read has no body, so that each ends with its headers.
    tail = b""
    with suppress(OSError):
        while data := client.recv(1 << 16):
            traffic.requests += (tail + data).count(_END_OF_HEADERS)
            tail = data[-len(_END_OF_HEADERS) + 1 :]
            time.sleep(latency_s)
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)


def _answer(server: socket.socket, client: socket.socket, traffic: Traffic) -> None:
    outlet, inlet = os.pipe()
    fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    with suppress(OSError), closing(server), closing(client):
        while count := os.splice(server.fileno(), inlet, _PIPE_BYTES):
            traffic.answered_bytes += count
            while count:
                count -= os.splice(outlet, client.fileno(), count)
    os.close(outlet)
    os.close(inlet)


def _wait_for(port: int) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit("versitygw did not start")
