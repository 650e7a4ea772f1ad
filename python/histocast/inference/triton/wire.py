"""Inference calls as bytes.

``tritonclient`` copies tensors three times before they are sent, which costs 0.34 ms of processor time a 224-px tile;
one copy costs 0.07 ms (both measured). So the head of a request is written by its generated code, the tensors are
joined to it as the protocol has them, and gRPC is handed the whole.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import np_to_triton_dtype

from histocast.bundle import GraphSpec
from histocast.errors import ConfigError
from histocast.inference.graph_files import write_varint
from histocast.inference.predictor import Tensors
from histocast.inference.triton.model_repository import MODEL_VERSION
from histocast.inference.triton.shared_memory import Block

METHOD = "/inference.GRPCInferenceService/ModelInfer"

# Field number and kind of ModelInferRequest.raw_input_contents, which comes once for each input, in their order.
RAW_INPUT_CONTENTS = bytes([7 << 3 | 2])

# Numbers of mallopt(3), and the most that it takes for the second.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD_BYTES = 32 * 2**20
KEPT_BYTES = 128 * 2**20


@cache
def keep_memory_of_requests() -> None:
    """Have the allocator use the memory of sent requests for the next ones, instead of returning it each time.

    Pages that the kernel hands out and clears anew were half of the client's processor time a tile (docs/serving.md).
    An allocator that is not glibc's stays as it is.
    """
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    if choose is not None:
        choose(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD_BYTES)
        choose(TRIM_THRESHOLD, KEPT_BYTES)


def write_request(
    model: str, graph: GraphSpec, inputs: Mapping[str, NDArray[Any]], block: Block | None = None
) -> bytes:
    """A request for all outputs of a graph; its tensors are written to ``block`` where there is one."""
    head = service_pb2.ModelInferRequest(model_name=model, model_version=MODEL_VERSION)
    places = block.write(inputs) if block else {}
    parts: list[Any] = []
    for name, value in inputs.items():
        tensor = head.inputs.add()
        tensor.name, tensor.datatype = name, np_to_triton_dtype(value.dtype)
        tensor.shape.extend(value.shape)
        if block:
            start, length = places[name]
            tensor.parameters["shared_memory_region"].string_param = block.region
            tensor.parameters["shared_memory_offset"].int64_param = start
            tensor.parameters["shared_memory_byte_size"].int64_param = length
        else:
            content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            parts += [RAW_INPUT_CONTENTS, write_varint(content.nbytes), content.data]
    for spec in graph.outputs:
        head.outputs.add().name = spec.name
    return b"".join([head.SerializeToString(), *parts])


def read_response(response: Any, graph: GraphSpec, *, where: str) -> Tensors:
    """Outputs by name.

    Raises `ConfigError`: an output is absent, or its bytes do not fill its shape.
    """
    result = InferResult(response)
    try:
        outputs = {spec.name: result.as_numpy(spec.name) for spec in graph.outputs}
    except ValueError as error:
        raise ConfigError(f"an output that cannot be read: {error}", where=where) from error
    if missing := [name for name, value in outputs.items() if value is None]:
        raise ConfigError(f"no output {missing}", expected=f"{sorted(outputs)}", where=where)
    return outputs
