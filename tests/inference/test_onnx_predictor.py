"""Claims: a graph runs as its contract says or an error tells which tensor of which graph does not."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from histocast.bundle import Bundle, EncoderSpec, TensorSpec
from histocast.errors import ConfigError, DeviceUnavailable, MissingInputError, UsageError
from histocast.inference import open_predictor
from histocast.inference.cuda import (
    CPU,
    CUDA,
    CUDA_ERROR_NO_DEVICE,
    CUDA_ERROR_STUB_LIBRARY,
    CUDA_SUCCESS,
    DRIVER,
    choose_providers,
)
from histocast.inference.predictor import Precision
from known_encoders import expected_embedding, write_encoder, write_shipped_bundle

Change = dict[str, object]


def tiles(count: int, *, tile_px: int = 32, top: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, (count, tile_px, tile_px, 3)).astype(np.uint8)


def with_encoder(bundle: Bundle, **changes: object) -> Bundle:
    return bundle.model_copy(update={"encoders": (bundle.encoders[0].model_copy(update=changes),)})


def reshaped(spec: EncoderSpec, **changes: object) -> tuple[TensorSpec, ...]:
    return (spec.outputs[0].model_copy(update=changes),)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_graph_of_a_bundle_runs_by_its_name(tmp_path: Path, threads: int) -> None:
    bundle = write_shipped_bundle(tmp_path)
    with open_predictor(tmp_path, bundle, names=("morphology", "fusion"), threads=threads) as predictor:
        for count in (1, 8, 21):
            found = predictor.infer("morphology", {"tiles": tiles(count)})
            assert found["embedding"].dtype == np.float32
            np.testing.assert_allclose(found["embedding"], expected_embedding(tiles(count)), atol=1e-6)
        features = {"target": np.ones((3, 6), np.float32), "neighbour": np.ones((3, 25, 6), np.float32)}
        predicted = predictor.infer("fusion", {**features, "neighbour_mask": np.ones((3, 25), bool)})
        assert {name: value.shape for name, value in predicted.items()} == {"expression": (3, 30), "sd": (3, 30)}


def test_the_number_of_threads_changes_no_bit(tmp_path: Path) -> None:
    bundle = write_shipped_bundle(tmp_path)
    found = []
    for threads in (1, 3):
        with open_predictor(tmp_path, bundle, names=("morphology",), threads=threads) as predictor:
            found.append(predictor.infer("morphology", {"tiles": tiles(21)})["embedding"])
    assert found[0].tobytes() == found[1].tobytes()


def test_threads_may_share_a_predictor(tmp_path: Path) -> None:
    bundle = write_shipped_bundle(tmp_path)
    batches = [tiles(number + 1) for number in range(8)]
    with (
        open_predictor(tmp_path, bundle, names=("morphology",), threads=1) as predictor,
        ThreadPoolExecutor(4) as pool,
    ):
        found = list(pool.map(lambda batch: predictor.infer("morphology", {"tiles": batch})["embedding"], batches))
    for batch, embedding in zip(batches, found, strict=True):
        np.testing.assert_allclose(embedding, expected_embedding(batch), atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"tiles": tiles(2).astype(np.float32)}, "dtype float32"),
        ({"tiles": tiles(2, tile_px=30)}, "30, 30, 3"),
        ({"tiles": tiles(2)[0]}, "shape"),
        ({"pixels": tiles(2)}, "pixels"),
        ({}, "tiles"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tmp_path: Path, inputs: dict[str, np.ndarray], message: str) -> None:
    bundle = write_shipped_bundle(tmp_path)
    with (
        open_predictor(tmp_path, bundle, names=("morphology",), threads=1) as predictor,
        pytest.raises(ConfigError, match=message) as raised,
    ):
        predictor.infer("morphology", inputs)
    assert "morphology" in str(raised.value)


def test_axes_of_one_name_must_be_of_one_length(tmp_path: Path) -> None:
    bundle = write_shipped_bundle(tmp_path)
    uneven = {"target": np.ones((3, 6), np.float32), "neighbour": np.ones((2, 25, 6), np.float32)}
    with (
        open_predictor(tmp_path, bundle, names=("fusion",), threads=1) as predictor,
        pytest.raises(ConfigError, match="neighbour"),
    ):
        predictor.infer("fusion", {**uneven, "neighbour_mask": np.ones((3, 25), bool)})


def test_nan_is_an_error_that_names_graph_and_tensor(tmp_path: Path) -> None:
    bundle = write_shipped_bundle(tmp_path, encoder=write_encoder(tmp_path, logarithm=True))
    with open_predictor(tmp_path, bundle, names=("morphology",), threads=1) as predictor:
        assert np.isfinite(
            predictor.infer("morphology", {"tiles": np.full((1, 32, 32, 3), 255, np.uint8)})["embedding"]
        ).all()
        with pytest.raises(ConfigError, match=r"'morphology', tensor 'embedding': 12 of 12 values are NaN") as raised:
            predictor.infer("morphology", {"tiles": tiles(2, top=50)})
    assert raised.value.exit_code == 78


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: {"outputs": reshaped(spec, name="features")}, "embedding"),
        (lambda spec: {"outputs": reshaped(spec, dtype="float16")}, "dtype float32"),
        (lambda spec: {"outputs": reshaped(spec, shape=("tile", 7))}, r"\['tile', 6\]"),
        (lambda spec: {"outputs": reshaped(spec, shape=("spot", 6))}, r"\['tile', 6\]"),
        (lambda spec: {"outputs": reshaped(spec, shape=("tile", 6, 1))}, r"\['tile', 6\]"),
        (lambda spec: {"outputs": reshaped(spec, shape=(4, 6))}, r"\['tile', 6\]"),
    ],
)
def test_a_graph_that_differs_from_its_contract_is_not_opened(
    tmp_path: Path, change: Callable[[EncoderSpec], Change], message: str
) -> None:
    bundle = write_shipped_bundle(tmp_path)
    with pytest.raises(ConfigError, match=message):
        open_predictor(tmp_path, with_encoder(bundle, **change(bundle.encoders[0])), names=("morphology",), threads=1)


def test_a_name_the_bundle_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    bundle = write_shipped_bundle(tmp_path)
    with pytest.raises(ConfigError, match=r"\['fusion', 'morphology'\]"):
        open_predictor(tmp_path, bundle, names=("uni",), threads=1)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08\x12\x00" * 50])
def test_bytes_that_are_no_graph_are_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    bundle = write_shipped_bundle(tmp_path)
    (tmp_path / "encoders/morphology.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot load"):
        open_predictor(tmp_path, bundle, names=("morphology",), threads=1)


def test_a_graph_the_licence_keeps_out_is_asked_for_and_taken_when_it_is_the_right_one(tmp_path: Path) -> None:
    bundle = with_encoder(write_shipped_bundle(tmp_path), file=None, gated=True)
    with open_predictor(tmp_path, bundle, names=("morphology",), threads=1) as predictor:
        assert predictor.infer("morphology", {"tiles": tiles(2)})["embedding"].shape == (2, 6)
    write_encoder(tmp_path, scale=2.0)
    with pytest.raises(ConfigError, match="sha256"):
        open_predictor(tmp_path, bundle, names=("morphology",), threads=1)
    (tmp_path / "encoders/morphology.onnx").unlink()
    with pytest.raises(MissingInputError, match="licence") as raised:
        open_predictor(tmp_path, bundle, names=("morphology",), threads=1)
    assert raised.value.exit_code == 66


def test_importing_the_package_loads_no_runtime() -> None:
    program = "import sys, histocast.inference, histocast.encoders.encode_tiles; print(*(name in sys.modules for name in ('onnxruntime', 'torch', 'tritonclient')))"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert found.stdout.split() == ["False"] * 3


def give_driver(monkeypatch: pytest.MonkeyPatch, *, started: int, devices: int) -> None:
    """Let this machine seem to have NVIDIA's driver, which answers so."""
    load = ctypes.CDLL

    def count(address: Any) -> int:
        address._obj.value = devices
        return 0

    driver = SimpleNamespace(cuInit=lambda _flags: started, cuDeviceGetCount=count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        ctypes, "CDLL", lambda name, *given, **more: driver if name == DRIVER else load(name, *given, **more)
    )


def test_a_build_for_cuda_runs_graphs_on_the_cpu_where_no_device_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if not Path("/proc/driver/nvidia").exists():
        assert choose_providers([CUDA, CPU]) == [CPU]
    give_driver(monkeypatch, started=CUDA_SUCCESS, devices=1)
    assert choose_providers([CPU]) == [CPU]
    assert choose_providers([CUDA, CPU]) == [CUDA, CPU]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_providers([CUDA, CPU]) == [CPU]


@pytest.mark.parametrize(
    ("started", "devices", "chosen"),
    [
        # apptainer --nv gives the driver also where the scheduler gave no device.
        (CUDA_ERROR_NO_DEVICE, 0, [CPU]),
        (CUDA_SUCCESS, 0, [CPU]),
        (CUDA_ERROR_STUB_LIBRARY, 0, [CPU]),
        # 803: the driver is too old for what was installed. The device is there, so this is told and not hidden.
        (803, 0, [CUDA, CPU]),
    ],
)
def test_a_driver_without_a_device_leaves_graphs_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, started: int, devices: int, chosen: list[str]
) -> None:
    give_driver(monkeypatch, started=started, devices=devices)
    assert choose_providers([CUDA, CPU]) == chosen


def test_a_device_that_onnxruntime_cannot_use_is_no_silent_walk_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_shipped_bundle(tmp_path)
    # A device there is, and this build of onnxruntime knows nothing of CUDA.
    give_driver(monkeypatch, started=CUDA_SUCCESS, devices=1)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(DeviceUnavailable, match="cannot use the CUDA device"):
        open_predictor(tmp_path, bundle, names=("morphology",), threads=1)


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", {"0"}), ("tf32", {"0", "1"})])
def test_a_device_computes_encoders_in_the_precision_asked_for_and_the_fusion_graph_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, tf32: set[str]
) -> None:
    bundle = write_shipped_bundle(tmp_path)
    given: dict[str, dict[str, str]] = {}
    real = onnxruntime.InferenceSession

    def open_on_the_cpu(path: Path, options: object, providers: list[tuple[str, dict[str, str]]]) -> object:
        given[path.stem] = dict(providers)[CUDA]
        session = real(path, options, providers=[CPU])
        return SimpleNamespace(
            get_providers=lambda: [CUDA, CPU],
            get_inputs=session.get_inputs,
            get_outputs=session.get_outputs,
        )

    monkeypatch.setattr("histocast.inference.onnx_predictor.choose_providers", lambda _: [CUDA, CPU])
    monkeypatch.setattr("onnxruntime.InferenceSession", open_on_the_cpu)
    monkeypatch.setenv("HISTOCAST_PRECISION", precision)
    open_predictor(tmp_path, bundle, names=("morphology", "fusion"), threads=1).close()
    assert given["fusion"]["use_tf32"] == "0"
    assert {options["use_tf32"] for options in given.values()} == tf32
    assert {options["cudnn_conv_algo_search"] for options in given.values()} == {"HEURISTIC"}


@pytest.mark.parametrize(("precision", "told"), [("fp16", "fp16 within the task"), ("tf32", "tf32 without a CUDA")])
def test_a_precision_that_this_machine_has_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, told: str
) -> None:
    bundle = write_shipped_bundle(tmp_path)
    monkeypatch.setenv("HISTOCAST_PRECISION", precision)
    with pytest.raises(UsageError, match=told):
        open_predictor(tmp_path, bundle, names=("morphology",), threads=1)
    open_predictor(tmp_path, bundle, names=("fusion",), threads=1).close()
