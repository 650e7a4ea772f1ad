"""Tiles a second from S3 at a given latency, against the same tiles from disk, with requests and bytes counted.

Two cases: tissue on a third of the slide, which is read by ranges, and tissue everywhere, where the object is
copied whole. The store is ``--endpoint`` behind a proxy that adds the latency, or, where none is given, a stand-in
within this script that answers HEAD and ranged GET of one file.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import tempfile
import time
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from histocast.slide import open_slide
from histocast.storage import open_source
from make_slide import make_slide
from tiling import LEVEL_PX, TILE_PX, UM_PER_PX, Corners, grid, scanner_slide

BUCKET, KEY = "benchmark", "slide.svs"


class Store(ThreadingHTTPServer):
    """Answers for one file, or asks ``endpoint``, each time after ``latency_s``."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path, *, latency_s: float, endpoint: str | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.path = path
        self.size_bytes = path.stat().st_size
        self.etag = f'"{md5(str(path).encode(), usedforsecurity=False).hexdigest()}"'
        self.latency_s = latency_s
        self.upstream = urlsplit(endpoint) if endpoint else None
        self.requests = self.sent_bytes = 0


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer what the object is; ``/counts`` answers what was asked so far, and begins anew."""
        if self.path == "/counts":
            self.send_response(200)
            self.send_header("X-Requests", str(self.server.requests))
            self.send_header("X-Bytes", str(self.server.sent_bytes))
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.server.requests = self.server.sent_bytes = 0
            return
        self._answer()

    def do_GET(self) -> None:
        """Answer a range of the object."""
        self._answer()

    def _answer(self) -> None:
        self.server.requests += 1
        time.sleep(self.server.latency_s)
        if self.server.upstream:
            self._pass_on()
            return
        start, end = 0, self.server.size_bytes - 1
        if asked := self.headers.get("Range"):
            start, end = (int(bound) for bound in asked.removeprefix("bytes=").split("-"))
        self.send_response(206 if asked else 200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(end - start + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end}/{self.server.size_bytes}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.flush()
            self.server.sent_bytes += end - start + 1
            with self.server.path.open("rb") as stream:
                while start <= end:
                    start += os.sendfile(self.connection.fileno(), stream.fileno(), start, end - start + 1)

    def _pass_on(self) -> None:
        upstream = self.server.upstream
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=60)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        self.server.sent_bytes += len(body)
        self.wfile.write(body)


def serve(path: Path, latency_s: float, endpoint: str | None, ready: Connection) -> None:
    """Run the store; a process of its own, so that it does not take the reader's interpreter lock."""
    store = Store(path, latency_s=latency_s, endpoint=endpoint)
    ready.send(store.server_address[1])
    store.serve_forever()


def tissue(corners: Corners, side_px: int) -> Corners:
    """Return the tiles of three round pieces of tissue, a third of the slide's area."""
    centres = corners + LEVEL_PX / 2
    inside = np.zeros(len(corners), bool)
    for x, y in ((0.3, 0.3), (0.7, 0.45), (0.4, 0.78)):
        inside |= np.hypot(*(centres - np.array([x, y]) * side_px).T) < 0.19 * side_px
    return corners[inside]


def read(uri: str, corners: Corners, scratch: Path, threads: int) -> tuple[float, int]:
    """Return seconds from opening to the last tile, and the bytes of the blocks they need."""
    started_s = time.perf_counter()
    with open_source(uri) as source, open_slide(source, sample="S", mpp=None, scratch=scratch) as slide:
        batches = slide.read_tiles(corners + LEVEL_PX / 2, tile_px=TILE_PX, um_per_px=UM_PER_PX, threads=threads)
        count = sum(int(batch.readable.sum()) for batch in batches)
    if count != len(corners):
        raise SystemExit(f"{count} of {len(corners)} tiles are readable")
    return time.perf_counter() - started_s, count


def needed_bytes(path: Path, corners: Corners) -> int:
    """Return the bytes of the blocks the tiles touch."""
    from histocast.slide.tiff import open_reader
    from histocast.slide.windows import blocks_of, place_windows

    with open_source(str(path)) as source:
        reader = open_reader(source, scratch=path.parent)
        windows = place_windows(corners + LEVEL_PX / 2, reader.levels[0], number=0, extent_level0_px=LEVEL_PX)
        return reader.block_bytes(0, blocks_of(windows, np.arange(len(corners)), reader.levels[0]))


def counts(url: str) -> tuple[int, int]:
    """Return requests and bytes since the last call."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("HEAD", "/counts")
    answer = connection.getresponse()
    return int(answer.headers["X-Requests"]), int(answer.headers["X-Bytes"])


def measure(path: Path, url: str, corners: Corners, *, threads: int, rounds: int) -> dict[str, object]:
    """Read the same tiles from disk and from the store, in turn."""
    near_s, far_s, asked = [], [], (0, 0)
    for _ in range(rounds):
        near_s.append(read(str(path), corners, path.parent, threads)[0])
        counts(url)
        far_s.append(read(f"s3://{BUCKET}/{KEY}", corners, path.parent / "scratch", threads)[0])
        asked = counts(url)
    needed = needed_bytes(path, corners)
    return {
        "tiles": len(corners),
        "needed_share_of_object": round(needed / path.stat().st_size, 3),
        "local_tiles_per_s": round(len(corners) / min(near_s), 1),
        "s3_tiles_per_s": round(len(corners) / min(far_s), 1),
        "s3_to_local": round(min(near_s) / min(far_s), 3),
        "requests": asked[0],
        "tiles_per_request": round(len(corners) / asked[0], 1),
        "bytes_to_needed": round(asked[1] / needed, 3),
    }


def main() -> None:
    """Read the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side-px", type=int, default=48_000)
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--endpoint", help="URL of a real S3 server; credentials come from the environment")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        make_slide(path, scanner_slide(options.side_px, 240, 70))
        if options.endpoint:
            import boto3

            client = boto3.client("s3", endpoint_url=options.endpoint)
            client.create_bucket(Bucket=BUCKET)
            client.upload_file(str(path), BUCKET, KEY)
        os.environ.setdefault("AWS_ACCESS_KEY_ID", "benchmark")
        os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "benchmark")
        ready, sender = multiprocessing.Pipe()
        arguments = (path, options.latency_ms / 1000, options.endpoint, sender)
        server = multiprocessing.get_context("spawn").Process(target=serve, args=arguments, daemon=True)
        server.start()
        url = os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{ready.recv()}"
        everywhere = grid(options.side_px, options.side_px, "even")
        settings = {"threads": options.threads, "rounds": options.rounds}
        results = {
            "latency_ms": options.latency_ms,
            "store": options.endpoint or "stand-in",
            "tissue on a third": measure(path, url, tissue(everywhere, options.side_px), **settings),
            "tissue everywhere": measure(path, url, everywhere, **settings),
        }
        server.terminate()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
