"""Encoders whose arithmetic is one line, written without torch, and bundles that ship them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from histocast.artifacts import write_json
from histocast.bundle import Bundle, EncoderSpec, TensorSpec, TileGeometry, sha256_of_file
from histocast.encoders.encoder_cards import find_card
from histocast.encoders.exported_encoder import ExportedEncoder, write_exported
from sample_bundle import write_bundle

DIM = 6


def write_encoder(
    folder: Path,
    name: str = "morphology",
    *,
    tile_px: int = 32,
    scale: float = 1 / 255,
    logarithm: bool = False,
    output: str = "embedding",
) -> EncoderSpec:
    """``scale`` times the mean of red, green, blue of a tile's left and of its right half: [tile, 6].

    With ``logarithm`` the logarithm of that minus one half, which is NaN for a dark tile.
    """
    constants = {
        "pixels": np.array([-1, tile_px, 2, tile_px // 2, 3], np.int64),
        "axes": np.array([1, 3], np.int64),
        "flat": np.array([-1, DIM], np.int64),
        "scale": np.float32(scale),
        "half": np.float32(0.5),
    }
    nodes = [
        helper.make_node("Cast", ["tiles"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["f", "pixels"], ["p"]),
        helper.make_node("ReduceMean", ["p", "axes"], ["m"], keepdims=0),
        helper.make_node("Reshape", ["m", "flat"], ["v"]),
        helper.make_node("Mul", ["v", "scale"], ["s" if logarithm else output]),
    ]
    if logarithm:
        nodes += [helper.make_node("Sub", ["s", "half"], ["d"]), helper.make_node("Log", ["d"], [output])]
    shape = ["tile", tile_px, tile_px, 3]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["tile", DIM])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    path = folder / "encoders" / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return EncoderSpec(
        name=name,
        version="1",
        licence="Apache-2.0",
        file=f"encoders/{name}.onnx",
        sha256=sha256_of_file(path),
        inputs=(TensorSpec(name="tiles", dtype="uint8", shape=tuple(shape)),),
        outputs=(TensorSpec(name=output, dtype="float32", shape=("tile", DIM)),),
    )


def write_exported_encoder(folder: Path, *, tile_px: int, um_per_px: float = 0.5) -> EncoderSpec:
    """A folder as 'export-encoder' leaves it, with a graph whose arithmetic is one line and weights beside it."""
    spec = write_encoder(folder, "uni", tile_px=tile_px)
    path = folder / "encoders" / "uni.onnx"
    model = onnx.load(path)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "scale")
    onnx.external_data_helper.set_external_data(weight, "uni.onnx.data")
    onnx.save_model(model, path)
    beside = path.with_name("uni.onnx.data")
    spec = spec.model_copy(
        update={
            "sha256": sha256_of_file(path),
            "weights_file": "encoders/uni.onnx.data",
            "weights_sha256": sha256_of_file(beside),
            "licence": "CC BY-NC-ND 4.0",
            "gated": True,
            "source": "https://huggingface.co/MahmoodLab/UNI",
        }
    )
    record = ExportedEncoder(
        created_by="0",
        encoder=spec,
        um_per_px=um_per_px,
        card=find_card("uni"),
        precision="fp32",
        weights_sha256="0" * 64,
        difference=0.0,
    )
    write_exported(folder, record)
    return spec


def expected_embedding(tiles: np.ndarray, *, scale: float = 1 / 255) -> np.ndarray:
    """What `write_encoder`'s graph gives."""
    halves = tiles.reshape(len(tiles), tiles.shape[1], 2, -1, 3).astype(np.float64)
    return halves.mean(axis=(1, 3)).reshape(len(tiles), DIM) * scale


def write_shipped_bundle(
    folder: Path, *extra: EncoderSpec, encoder: EncoderSpec | None = None, um_per_px: float = 0.5
) -> Bundle:
    """A whole bundle: `sample_bundle`'s fusion graph and genes, and the encoders in the folder."""
    bundle = write_bundle(folder)
    first = encoder or write_encoder(folder)
    tile_px = first.inputs[0].shape[1]
    geometry = TileGeometry(tile_px=int(tile_px), um_per_px=um_per_px, pitch_um=bundle.geometry.pitch_um)
    shipped = bundle.model_copy(update={"encoders": (first, *extra), "geometry": geometry})
    write_json(folder / "bundle.json", shipped)
    return shipped
