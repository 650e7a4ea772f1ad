"""Inference servers and bundles they serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from histocast.bundle import Bundle
from histocast.inference.triton.settings import TritonSettings
from histocast.inference.triton.triton_predictor import TritonPredictor
from known_encoders import write_encoder, write_shipped_bundle
from triton_server import ENCODER, Connect, RealServer, Served, TcpProxy


def write_served_bundle(folder: Path) -> Bundle:
    """An encoder, one whose output is NaN for dark tiles, and a fusion graph."""
    return write_shipped_bundle(folder, write_encoder(folder, "logarithm", logarithm=True, output="map"))


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("served")
    bundle = write_served_bundle(folder / "bundle")
    server = RealServer(folder)
    server.add(folder / "bundle", bundle)
    try:
        yield Served(folder / "bundle", bundle, server.start())
    finally:
        server.kill()


@pytest.fixture
def start_server(tmp_path: Path, served: Served) -> Iterator[Callable[..., RealServer]]:
    """Start servers of this test's own; they serve one encoder of `served`, which is quick, unless ``fill`` says what."""
    servers: list[RealServer] = []

    def start(*options: str, fill: Callable[[RealServer], object] | None = None) -> RealServer:
        folder = tmp_path / f"server-{len(servers)}"
        folder.mkdir()
        server = RealServer(folder, *options)
        servers.append(server)
        if fill is None:
            server.add(served.folder, served.bundle, names=ENCODER)
        else:
            fill(server)
        return server.start()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def proxy(served: Served) -> Iterator[TcpProxy]:
    """A proxy before the server of `served`."""
    between = TcpProxy(served.server.port)
    yield between
    between.close()


@pytest.fixture
def connect(served: Served) -> Iterator[Connect]:
    """Connect to servers; settings are impatient, so that tests are quick."""
    opened: list[TritonPredictor] = []

    def open_one(
        url: str, *, bundle: Bundle | None = None, names: tuple[str, ...] | None = None, **settings: object
    ) -> TritonPredictor:
        known = {"deadline_s": 10, "patience_s": 30, "in_flight": 4}
        used = bundle or served.bundle
        predictor = TritonPredictor(
            used,
            names=names or (*(encoder.name for encoder in used.encoders), "fusion"),
            url=url,
            settings=TritonSettings.model_validate({**known, **settings}),
        )
        opened.append(predictor)
        return predictor

    yield open_one
    for predictor in opened:
        predictor.close()
