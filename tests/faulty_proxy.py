"""A proxy before an S3 server that counts requests and fails on purpose."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import boto3
import pytest

BUCKET = "archive"

Fate = str
"""What becomes of a request: ``ok``, ``503``, ``500``, ``429``, ``403``, ``cut``, ``reset``, ``stall``, ``untagged``,
which is an answer without an ETag, ``longer``, which is more than was asked for, as where a store ignores ranges,
``elsewhere``, which is a store of the region `REGION`, or a key of `REFUSALS`."""

REGION = "eu-central-1"

REFUSALS = {
    "ExpiredToken": 400,
    "InvalidToken": 400,
    "RequestTimeTooSkewed": 403,
    "InvalidAccessKeyId": 403,
    "SignatureDoesNotMatch": 403,
    "AccessDenied": 403,
    "InvalidObjectState": 403,
    "AuthorizationHeaderMalformed": 400,
}
"""Codes of S3 and the status of each. Only the body says the code, and an answer to HEAD has none."""


class FaultyProxy(ThreadingHTTPServer):
    """Hands requests on to a store; `fate` decides what becomes of each, by its number from 0."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream)
        self.fate: Callable[[int], Fate] = lambda _: "ok"
        self.before: Callable[[int], None] = lambda _: None
        self.requests: list[tuple[str, str | None]] = []
        """Method and range of every request."""
        self.headers: list[Mapping[str, str]] = []
        self.lock = threading.Lock()
        self.open_now = self.most_open = 0
        self.stalled = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that went away is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        server = self.server
        with server.lock:
            number = len(server.requests)
            server.requests.append((self.command, self.headers.get("Range")))
            server.headers.append(dict(self.headers.items()))
            server.open_now += 1
            server.most_open = max(server.most_open, server.open_now)
        try:
            server.before(number)
            self._answer(server.fate(number))
        finally:
            with server.lock:
                server.open_now -= 1

    def _answer(self, fate: Fate) -> None:
        elsewhere = fate == "elsewhere" and f"/{REGION}/s3/" not in self.headers["Authorization"]
        if fate.isdigit() or elsewhere:
            self.send_response(301 if elsewhere else int(fate))
            self.send_header("x-amz-bucket-region", REGION)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fate in REFUSALS:
            body = f"<Error><Code>{fate}</Code><Message>No.</Message></Error>".encode()
            self.send_response(REFUSALS[fate])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)
            return
        if fate == "reset":
            self.close_connection = True
            return
        if fate == "stall":
            self.server.stalled.set()
            time.sleep(3)
            self.close_connection = True
            return
        connection = http.client.HTTPConnection(self.server.upstream.hostname, self.server.upstream.port, timeout=30)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if fate == "longer":
            body *= 2
        self.send_response(answer.status)
        dropped = {"connection", "transfer-encoding", "date", "server", "x-amz-bucket-region"}
        dropped |= {"etag"} if fate == "untagged" else set()
        self.send_header("x-amz-bucket-region", REGION)
        for name, value in answer.getheaders():
            if name.lower() == "content-length" and self.command == "GET":
                self.send_header(name, str(len(body)))
            elif name.lower() not in dropped:
                self.send_header(name, value)
        self.end_headers()
        if fate == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)


@pytest.fixture
def bucket(s3_endpoint: str):
    """The client of a store that holds one empty bucket."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@contextmanager
def faulty_proxy(upstream: str, *, fate: Fate = "ok") -> Iterator[FaultyProxy]:
    """A proxy before a store, on loopback, which answers in one way until its `FaultyProxy.fate` is changed."""
    server = FaultyProxy(upstream)
    server.fate = lambda _: fate
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def proxy(bucket: object, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The proxy, to which the environment points boto3; retries and time-outs are short."""
    with faulty_proxy(s3_endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr("histocast.storage.s3.BACKOFF_S", 0.01)
        monkeypatch.setattr("histocast.storage.s3_buckets.READ_TIMEOUT_S", 1)
        yield server
