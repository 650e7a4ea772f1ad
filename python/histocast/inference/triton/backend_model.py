"""A graph of a bundle inside the Python backend of an inference server for CPUs.

`histocast.inference.triton.model_repository` copies this file beside ``model.onnx``. It runs in the server's own Python, which
holds onnxruntime and not histocast, so it stands alone. It cuts batches as `histocast.inference.onnx_predictor` does, which
makes its results the same to the last bit.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
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
        """Answer each request, or say why not; pieces of all of them run side by side."""
        begun = [self.begin(request) for request in requests]
        return [self.answer(pieces) for pieces in begun]

    def begin(self, request: Any) -> list[Future[list[Any]]]:
        """Run the graph on the tensors of one request; a batch of tiles is cut into pieces."""
        inputs = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        count = max(len(next(iter(inputs.values()))), 1)
        rows = PIECE_TILES if self.batched else count

        def run_piece(start: int) -> list[Any]:
            piece = {name: value[start : start + rows] for name, value in inputs.items()} if self.batched else inputs
            return list(self.session.run(self.outputs, piece))

        return [self.pool.submit(run_piece, start) for start in range(0, count, rows)]

    def answer(self, pieces: list[Future[list[Any]]]) -> Any:
        """Join the outputs of one request's pieces, in the order of the configuration."""
        try:
            parts = list(zip(*(piece.result() for piece in pieces), strict=True))
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions have no base; the server tells the client
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"onnxruntime gave up: {error}"))
        values = [part[0] if len(part) == 1 else np.concatenate(part) for part in parts]
        tensors = [pb_utils.Tensor(name, value) for name, value in zip(self.outputs, values, strict=True)]
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def finalize(self) -> None:
        """End the threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)
