"""A graph of a bundle inside the Python backend of an inference server for CPUs.

`histocast.serving.repository` copies this file beside ``model.onnx``. It runs in the server's own Python, which
holds onnxruntime and not histocast, so it stands alone. It cuts batches as `histocast.serving.onnx` does, which
makes its results the same to the last bit.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

PIECE_TILES = 8


class TritonPythonModel:
    """One instance of a graph; the server calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph, unless its bytes are others than the configuration says."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != parameters["sha256"]:
            raise pb_utils.TritonModelException(f"model.onnx has sha256 {found}, expected {parameters['sha256']}")
        threads = int(parameters["threads"])
        self.batched = config["max_batch_size"] > 0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1 if self.batched else threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.pool = ThreadPoolExecutor(threads)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request, or say why not."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Run the graph on the tensors of one request."""
        inputs = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        try:
            values = self.run(inputs)
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base; the server tells the client
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"onnxruntime gave up: {error}"))
        tensors = [pb_utils.Tensor(name, value) for name, value in zip(self.outputs, values, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def run(self, inputs: dict[str, Any]) -> list[Any]:
        """Outputs in the order of the configuration; a batch of tiles is cut into pieces that run side by side."""
        count = len(next(iter(inputs.values())))
        if not self.batched or count <= PIECE_TILES:
            return list(self.session.run(self.outputs, inputs))

        def run_piece(start: int) -> list[Any]:
            piece = {name: value[start : start + PIECE_TILES] for name, value in inputs.items()}
            return list(self.session.run(self.outputs, piece))

        pieces = list(self.pool.map(run_piece, range(0, count, PIECE_TILES)))
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def finalize(self) -> None:
        """End the threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)
