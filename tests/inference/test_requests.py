"""Claims: a request is as large as is cheap to send, and whole pieces, so that where it is cut changes no bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histocast.inference import open_predictor
from histocast.inference.triton.repository_options import RepositoryOptions
from known_encoders import write_encoder, write_shipped_bundle
from triton_server import Connect, RealServer


@pytest.mark.parametrize(
    ("tile_px", "limit", "expected"),
    [(32, 256, 64), (32, 30, 24), (32, 3, 3), (640, 64, 8), (1024, 64, 5)],
    ids=[
        "no more than 64",
        "what the server takes",
        "less than a piece",
        "no more than 16 MB",
        "large tiles: less than a piece",
    ],
)
def test_a_batch_is_cut_by_tiles_by_bytes_and_by_what_the_server_takes(
    connect: Connect, start_server: Callable[..., RealServer], tmp_path: Path, tile_px: int, limit: int, expected: int
) -> None:
    folder = tmp_path / "bundle"
    bundle = write_shipped_bundle(folder, encoder=write_encoder(folder, tile_px=tile_px))
    options = RepositoryOptions(backend="python", max_batch_tiles=limit, threads=2)
    server = start_server(fill=lambda server: server.add(folder, bundle, options))
    predictor = connect(server.url, bundle=bundle, names=("morphology",))
    count = expected * 2 + 1
    batch = np.random.default_rng(0).integers(0, 256, (count, tile_px, tile_px, 3), dtype=np.uint8)
    found = predictor.infer("morphology", {"tiles": batch})["embedding"]
    assert predictor.facts()["server_requests"] == 3
    with open_predictor(folder, bundle, names=("morphology",), threads=2) as here:
        expected_rows = here.infer("morphology", {"tiles": batch})["embedding"]
    np.testing.assert_array_equal(found, expected_rows)
