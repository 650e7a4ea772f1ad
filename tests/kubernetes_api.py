"""As much of the Kubernetes API on loopback as runs pods: each at once, as a process of this machine."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOW = "2026-11-29T12:00:00Z"


class PodServer:
    """Pods that were asked for, and how those that are to fail do."""

    def __init__(self, absent_image: str | None = None) -> None:
        self.pods: list[dict[str, Any]] = []
        self.absent_image = absent_image
        self.url = ""

    def start(self, pod: dict[str, Any]) -> dict[str, Any]:
        """Run a pod's program to its end."""
        self.pods.append(pod)
        container = pod["spec"]["containers"][0]
        if container["image"] != self.absent_image:
            subprocess.run(container.get("command") or container["args"], capture_output=True, check=False)
        return pod

    def state(self, name: str) -> dict[str, Any]:
        """What became of a pod."""
        pod = next(pod for pod in self.pods if pod["metadata"]["name"] == name)
        state: dict[str, Any] = {"terminated": {"exitCode": 0, "startedAt": NOW, "finishedAt": NOW}}
        phase = "Succeeded"
        if pod["spec"]["containers"][0]["image"] == self.absent_image:
            phase, state = "Pending", {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        status = {"phase": phase, "containerStatuses": [{"name": name, "state": state}]}
        return {"kind": "Pod", "metadata": pod["metadata"], "status": status}


@contextmanager
def kubernetes_api(**options: Any) -> Iterator[PodServer]:
    """Serve on a free port of loopback."""
    pods = PodServer(**options)

    class Answers(BaseHTTPRequestHandler):
        def answer(self, body: dict[str, Any]) -> None:
            sent = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def do_POST(self) -> None:
            self.answer(pods.start(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def do_GET(self) -> None:
            parts = self.path.split("/")
            self.answer(pods.state(parts[parts.index("pods") + 1]))

        def do_DELETE(self) -> None:
            self.answer({"kind": "Status", "status": "Success"})

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    pods.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield pods
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
