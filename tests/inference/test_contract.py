"""Claim: torch, this process's onnxruntime and a real server give one result for every encoder that is shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="encoders are written in torch, which the predict path lacks")

from histocast.artifacts import write_json  # noqa: E402
from histocast.bundle import Bundle, TileGeometry  # noqa: E402
from histocast.encoders.write_encoder import RECIPES, export_encoder  # noqa: E402
from histocast.inference import open_predictor  # noqa: E402
from sample_bundle import write_bundle  # noqa: E402
from triton_server import Connect, RealServer  # noqa: E402

TILE_PX = 224
UM_PER_PX = 0.5
TOLERANCE = 1e-5


def stained_tiles(count: int) -> np.ndarray:
    """Pink tissue of uneven stain with dark nuclei: [tile, row, column, 3]."""
    random = np.random.default_rng(7)
    tiles = np.empty((count, TILE_PX, TILE_PX, 3), np.uint8)
    for tile in tiles:
        uneven = cv2.GaussianBlur(random.normal(0, 40, (TILE_PX, TILE_PX, 3)), (0, 0), 9)
        canvas = (np.array([205, 130, 172]) + 12 * uneven).clip(0, 255).astype(np.uint8)
        for x, y in random.integers(0, TILE_PX, (40, 2)):
            cv2.ellipse(canvas, (int(x), int(y)), (9, 6), int(random.integers(180)), 0, 360, (88, 55, 132), -1)
        tile[:] = (canvas + random.normal(0, 4, canvas.shape)).clip(0, 255)
    return tiles


def export_all(folder: Path) -> Bundle:
    bundle = write_bundle(folder)
    encoders = tuple(
        export_encoder(name, tile_px=TILE_PX, um_per_px=UM_PER_PX, folder=folder) for name in sorted(RECIPES)
    )
    geometry = TileGeometry(tile_px=TILE_PX, um_per_px=UM_PER_PX, pitch_um=100)
    shipped = bundle.model_copy(update={"encoders": encoders, "geometry": geometry})
    write_json(folder / "bundle.json", shipped)
    return shipped


def test_torch_onnxruntime_and_a_server_agree(
    connect: Connect, start_server: Callable[..., RealServer], tmp_path: Path
) -> None:
    bundle = export_all(tmp_path / "bundle")
    server = start_server(fill=lambda server: server.add(tmp_path / "bundle", bundle))
    names = tuple(encoder.name for encoder in bundle.encoders)
    tiles = stained_tiles(11)
    served = connect(server.url, bundle=bundle, names=names)
    with open_predictor(tmp_path / "bundle", bundle, names=names, threads=2) as here:
        for encoder in bundle.encoders:
            output = encoder.outputs[0].name
            with torch.inference_mode():
                expected = RECIPES[encoder.name].build(TILE_PX, UM_PER_PX)(torch.from_numpy(tiles)).numpy()
            in_process = here.infer(encoder.name, {"tiles": tiles})[output]
            on_server = served.infer(encoder.name, {"tiles": tiles})[output]
            np.testing.assert_allclose(on_server, in_process, rtol=0, atol=TOLERANCE)
            scale = max(float(np.abs(expected).max()), 1.0)
            np.testing.assert_allclose(on_server / scale, expected / scale, rtol=0, atol=TOLERANCE)
