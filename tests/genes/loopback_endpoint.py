"""A server on loopback that speaks as much of OpenAI's API as is asked, and misbehaves as told."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STALL_S = 30.0


@dataclass
class Reply:
    """What the server does with one request."""

    text: str = ""
    status: int = 200
    stall: bool = False
    finish_reason: str = "stop"


@dataclass
class Asked:
    """What the server has seen."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    """Digest of each request that was answered with 200."""
    headers: list[dict[str, str]] = field(default_factory=list)


def symbol_of(body: dict[str, Any]) -> str:
    return str(body["messages"][1]["content"]).split("Gene symbol: ")[1].split("\n")[0]


def fit_answer(body: dict[str, Any]) -> Reply:
    symbol = symbol_of(body)
    return Reply(
        json.dumps({"gene_symbol": symbol, "functionality": f"binds {symbol.lower()}x", "phenotype": "none known"})
    )


@contextmanager
def serve(reply: Callable[[dict[str, Any]], Reply]) -> Iterator[tuple[str, Asked]]:
    """Yield the base URL of a server that answers each request by ``reply``, and what it was asked."""
    asked = Asked()
    lock = threading.Lock()
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            body = json.loads(content)
            with lock:
                asked.bodies.append(body)
                asked.headers.append({key.lower(): value for key, value in self.headers.items()})
                answer = reply(body)
            if answer.stall:
                stop.wait(STALL_S)
                return
            payload = json.dumps(_embeddings(body) if "input" in body else _completion(answer)).encode()
            if answer.status == 200:
                with lock:
                    asked.answered.append(hashlib.sha256(content).hexdigest())
            else:
                payload = b'{"error": {"message": "as told"}}'
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            # The client's own pauses would make the tests slow.
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        stop.set()
        server.shutdown()
        server.server_close()


def _completion(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "m",
        "choices": [{"index": 0, "finish_reason": reply.finish_reason, "message": message}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for index, text in enumerate(body["input"]):
        seed = hashlib.sha256(text.encode()).digest()
        rows.append({"object": "embedding", "index": index, "embedding": [byte / 255 for byte in seed[:8]]})
    # In another order, which the index puts right.
    return {
        "object": "list",
        "model": "m",
        "data": rows[::-1],
        "usage": {"prompt_tokens": 7 * len(rows), "total_tokens": 7 * len(rows)},
    }
