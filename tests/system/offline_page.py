"""Whether a page in a real browser asks anything of a network."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


class Listener(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 - one server

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def assert_no_request_leaves(browser: Any, page: Path, *, open_page: Callable[[], object]) -> None:
    """Open a page: it loads itself alone, and what its own scripts then ask of a server is refused before it leaves."""
    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser.get_log("performance")
    open_page()
    browser.set_script_timeout(10)
    refused = browser.execute_async_script(
        "const [url, done] = arguments;"
        "const picture = new Image(); picture.onerror = () => fetch(url + 'f').then(() => done(false), () => done(true));"
        "picture.onload = () => done(false); picture.src = url + 'i'",
        f"http://127.0.0.1:{server.server_port}/",
    )
    server.shutdown()
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert urls, "the page itself is a request"
    outside = {url for url in urls if not url.startswith(("data:", "blob:")) and url != page.as_uri()}
    assert all(url.startswith(f"http://127.0.0.1:{server.server_port}/") for url in outside), (
        "only what this test asked"
    )
    assert refused
    assert Listener.asked == []
