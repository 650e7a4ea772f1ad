"""Claims: tensors go through memory shared with a server of this host, where it is; nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from histocast.inference.predictor import Predictor
from histocast.inference.triton import shared_memory
from histocast.inference.triton.settings import TritonSettings, parse_servers
from histocast.inference.triton.shared_memory import SHARED_MEMORY, SharedMemory
from known_encoders import expected_embedding
from triton_server import ENCODER, Connect, RealServer, Served, TcpProxy

StartServer = Callable[..., RealServer]

TILES = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3)).astype(np.uint8)

CLIENT = """
import sys, time
import numpy as np
from pathlib import Path
from histocast.bundle import read_bundle
from histocast.inference import open_predictor
folder = Path(sys.argv[1])
predictor = open_predictor(folder, read_bundle(folder), names=("morphology",), threads=1, triton_url=sys.argv[2])
predictor.infer("morphology", {"tiles": np.zeros((4, 32, 32, 3), np.uint8)})
print("up", flush=True)
time.sleep(60)
"""


@contextmanager
def client_of(server: RealServer) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.url.removeprefix("grpc://")) as client:
        yield client


def blocks_of(server: RealServer) -> list[str]:
    """What clients share with a server now."""
    with client_of(server) as client:
        return sorted(client.get_system_shared_memory_status().regions)


def by_shared_memory(predictor: Predictor) -> int:
    return int(predictor.facts()["server_requests_by_shared_memory"])


def test_a_server_at_loopback_shares_memory_and_forgets_it_after(connect: Connect, start_server: StartServer) -> None:
    server = start_server()
    predictor = connect(server.url, names=ENCODER)
    for call in [predictor.submit("morphology", {"tiles": TILES}) for _ in range(6)]:
        np.testing.assert_allclose(call.result()["embedding"], expected_embedding(TILES), atol=1e-5)
    facts = predictor.facts()
    assert 1 <= by_shared_memory(predictor) <= int(facts["server_requests"])
    blocks = blocks_of(server)
    assert 1 <= len(blocks) <= 4
    assert not any((SHARED_MEMORY / block).exists() for block in blocks)
    owner = shared_memory.mark_of(blocks[0].rpartition("-")[0])
    assert owner.exists()
    predictor.close()
    assert blocks_of(server) == []
    assert not owner.exists()


def test_what_a_killed_client_left_the_next_one_clears_away(
    served: Served, connect: Connect, start_server: StartServer
) -> None:
    server = start_server()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "python")}
    program = [sys.executable, "-c", CLIENT, served.folder, server.url]
    clients = [subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [client.stdout.readline() for client in clients] == ["up\n", "up\n"]
        before = blocks_of(server)
        assert len(before) == 2, "both live"
        clients[0].send_signal(signal.SIGKILL)
        clients[0].wait()
        assert blocks_of(server) == before
        predictor = connect(server.url, names=ENCODER)
        predictor.infer("morphology", {"tiles": TILES[:4]})
        after = blocks_of(server)
        assert len(after) == 2, "that of the one that lives, and ours"
        (gone,) = set(before) - set(after)
        assert not shared_memory.mark_of(gone.rpartition("-")[0]).exists()
        assert by_shared_memory(predictor) == 1
    finally:
        for client in clients:
            client.kill()
            client.wait()
            client.stdout.close()


def test_a_server_that_was_started_again_is_sent_the_tensors(
    connect: Connect, start_server: StartServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server()
    predictor = connect(server.url, names=ENCODER)
    predictor.infer("morphology", {"tiles": TILES[:8]})
    server.kill()
    threading.Timer(0.2, server.start, kwargs={"wait": False}).start()
    found = predictor.infer("morphology", {"tiles": TILES[:8]})["embedding"]
    np.testing.assert_allclose(found, expected_embedding(TILES[:8]), atol=1e-5)
    server.wait()
    assert "no more memory shared" in capsys.readouterr().err
    assert blocks_of(server) == []


def test_memory_that_the_server_does_not_see_is_not_used(
    connect: Connect,
    served: Served,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As behind a tunnel, or in a container of its own."""
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
    predictor = connect(served.server.url)
    for _ in range(3):
        found = predictor.infer("morphology", {"tiles": TILES})["embedding"]
        np.testing.assert_allclose(found, expected_embedding(TILES), atol=1e-5)
    assert by_shared_memory(predictor) == 0
    assert capsys.readouterr().err.count("no more memory shared") == 1
    predictor.close()
    assert list(tmp_path.iterdir()) == []


def test_it_is_left_out_where_asked_or_where_servers_are_several(connect: Connect, served: Served) -> None:
    second = TcpProxy(served.server.port)
    for predictor in (
        connect(served.server.url, shared_memory=False),
        connect(f"{served.server.url},{second.url}"),
    ):
        assert predictor.infer("morphology", {"tiles": TILES})["embedding"].shape == (70, 6)
        assert "server_requests_by_shared_memory" not in predictor.facts()
    second.close()
    assert TritonSettings.from_environment({"HISTOCAST_TRITON_SHARED_MEMORY": "0"}).shared_memory is False


@pytest.mark.parametrize(
    ("url", "is_loopback"), [("localhost", True), ("127.0.0.1:9", True), ("[::1]:9", True), ("gpu-1", False)]
)
def test_addresses_of_this_host(url: str, is_loopback: bool) -> None:
    assert parse_servers(url)[0].is_loopback is is_loopback


def test_memory_that_is_not_there_is_not_used(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    settings = TritonSettings(in_flight=2)
    with client_of(served.server) as client:
        memory = SharedMemory(client, settings, largest_bytes=2**50)
        more_than_there_is = {"tiles": np.broadcast_to(np.uint8(0), (2**46,))}
        with memory.block(more_than_there_is) as block:
            assert block is None
        assert "no more memory shared" in capsys.readouterr().err
        with memory.block({"tiles": TILES}) as block:
            assert block is None, "one try is enough to know"
        small = SharedMemory(client, settings, largest_bytes=TILES.nbytes - 1)
        with small.block({"tiles": TILES}) as first, small.block({"tiles": TILES[1:]}) as second:
            assert first is None
            assert second is not None
        assert (memory.used, small.used) == (0, 1)
        for each in (memory, small):
            each.close(is_idle=True)
