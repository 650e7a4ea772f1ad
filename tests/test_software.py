"""What computed a result says in which image it ran, as far as anybody tells."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from histocast.software import software_versions

IMAGE = "registry.example.org/team/histocast/client:0.1.0"
DIGEST = "sha256:" + "d" * 64

Agent = Callable[[str], str]


@pytest.fixture(autouse=True)
def _uncontained(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HISTOCAST_IMAGE", "HISTOCAST_IMAGE_DIGEST", "ECS_CONTAINER_METADATA_URI_V4"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Starts what tells containers about themselves on AWS, and returns its address; it says what it is given."""
    servers = []

    def start(said: str) -> str:
        class Says(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(said.encode())

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Says))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v4/any"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_without_a_container_there_is_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOCAST_IMAGE_DIGEST", DIGEST)
    versions = software_versions()
    assert "image" not in versions
    assert "image_digest" not in versions
    assert versions["numpy"]


def test_the_machine_that_started_the_container_tells_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOCAST_IMAGE", IMAGE)
    assert "image_digest" not in software_versions()
    monkeypatch.setenv("HISTOCAST_IMAGE_DIGEST", DIGEST)
    assert software_versions() | {"image": IMAGE, "image_digest": DIGEST} == software_versions()


def test_a_digest_in_the_name_is_not_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOCAST_IMAGE", f"{IMAGE}@sha256:{'e' * 64}")
    monkeypatch.setenv("HISTOCAST_IMAGE_DIGEST", DIGEST)
    assert "image_digest" not in software_versions()


@pytest.mark.parametrize(
    ("said", "digest"),
    [(f'{{"Image": "{IMAGE}", "ImageID": "{DIGEST}"}}', DIGEST), ('{"Image": "any"}', None), ("<html>", None)],
)
def test_on_aws_the_agent_of_the_machine_tells_it(
    monkeypatch: pytest.MonkeyPatch, agent: Agent, said: str, digest: str | None
) -> None:
    monkeypatch.setenv("HISTOCAST_IMAGE", IMAGE)
    monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", agent(said))
    assert software_versions().get("image_digest") == digest


def test_an_agent_that_does_not_answer_costs_nothing_but_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOCAST_IMAGE", IMAGE)
    # Nothing listens on the port of discarding.
    monkeypatch.setenv("ECS_CONTAINER_METADATA_URI_V4", "http://127.0.0.1:9/v4/any")
    assert software_versions()["image"] == IMAGE
    assert "image_digest" not in software_versions()
