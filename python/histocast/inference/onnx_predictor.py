"""Graphs run in process by onnxruntime: on a CUDA device where its build and this machine have one, else on the CPU.

On the CPU an encoder's batch is cut into pieces that run side by side, one thread each: a tile does not depend on
the tiles beside it, a piece stays near its core's cache, and small operations do not wait for one another. The
fusion graph, whose spots do depend on one another, runs whole and with all threads inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from histocast.bundle import Bundle, GraphSpec, TensorSpec
from histocast.errors import ConfigError, UsageError
from histocast.foreign_errors import device_unavailable, is_device_fault, is_out_of_memory, out_of_memory
from histocast.inference.cuda import CPU, CUDA, choose_providers, provider_options
from histocast.inference.graph_files import graph_path
from histocast.inference.predictor import (
    FUSION,
    Done,
    Facts,
    Pending,
    Precision,
    Tensors,
    check_finite,
    check_tensors,
    choose_graphs,
)

ERROR_LEVEL = 3

PIECE_TILES = 8
"""Tiles in a piece. Fixed, so that the number of threads cannot change the last bit of a feature."""

# onnxruntime's exceptions have no base of their own.
OnnxErrors = (
    state.EPFail, state.EngineError, state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf,
    state.NoModel, state.NoSuchFile, state.NotImplemented, state.RuntimeException,
)  # fmt: skip

DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def open_session(
    path: Path, *, threads: int, optimise: bool = True, precision: Precision = "fp32"
) -> onnxruntime.InferenceSession:
    """Load a graph.

    ``threads``: threads one call may use.
    ``optimise``: whether the graph is prepared for speed; a look at its contract does not need it.
    ``precision``: of a CUDA device; a CPU computes in float32.
    Raises `ConfigError`: the file is not a graph this onnxruntime can run; `DeviceUnavailable`: there is a CUDA device
    that it cannot use; `OutOfMemory`: there is no memory for it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERROR_LEVEL
    # Threads that spin while they wait for work would take the cores that decode the next tiles.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = choose_providers(onnxruntime.get_available_providers()) if optimise else [CPU]
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(path, options, providers=provider_options(providers, precision))
    except OnnxErrors as error:
        _raise_machine_fault(error, where=path.name)
        raise ConfigError(
            f"onnxruntime {onnxruntime.__version__} cannot load {path.name}: {first_line(error)}",
            expected="an ONNX graph",
            where=str(path.parent),
            advice="copy the bundle again, or use the version of histocast it was exported with",
        ) from error
    if providers[0] not in session.get_providers():
        # A driver that is too old looks like one that is broken, and only one machine may have it.
        raise device_unavailable(
            f"onnxruntime {onnxruntime.__version__} cannot use the CUDA device: see the lines above"
        )
    return session


def _raise_machine_fault(error: Exception, *, where: str) -> None:
    if is_out_of_memory(error):
        raise out_of_memory(error, where=where) from error
    if is_device_fault(str(error)):
        raise device_unavailable(f"a GPU failed: {first_line(error)}", where=where) from error


def first_line(error: BaseException) -> str:
    """An exception's first line: the rest of onnxruntime's messages is its own source."""
    return str(error).strip().partition("\n")[0]


def check_contract(session: onnxruntime.InferenceSession, graph: GraphSpec, *, where: str) -> None:
    """Compare what a graph takes and gives with what the bundle states.

    Raises `ConfigError`: a tensor's name, dtype or shape differs; a named axis must be free in the graph, under the
    same name where the graph names it.
    """
    for role, nodes, specs in (
        ("input", session.get_inputs(), graph.inputs),
        ("output", session.get_outputs(), graph.outputs),
    ):
        found = {node.name: node for node in nodes}
        stated = {spec.name: spec for spec in specs}
        if set(found) != set(stated):
            raise ConfigError(f"{role}s {sorted(found)}", expected=f"{sorted(stated)}", where=where)
        for name, spec in stated.items():
            check_tensor(found[name], spec, where=f"{where}, {role} {name!r}")


def check_tensor(node: Any, spec: TensorSpec, *, where: str) -> None:
    """Compare one tensor of a graph with its spec; see `check_contract`."""
    dtype = DTYPES.get(node.type, node.type)
    if dtype != spec.dtype:
        raise ConfigError(f"dtype {dtype}", expected=spec.dtype, where=where)
    fits = len(node.shape) == len(spec.shape) and all(
        found == stated or (found is None and isinstance(stated, str))
        for found, stated in zip(node.shape, spec.shape, strict=True)
    )
    if not fits:
        raise ConfigError(f"shape {node.shape}", expected=f"{list(spec.shape)}", where=where)


class OnnxPredictor:
    """`Predictor` in this process.

    ``folder``: the bundle's folder.
    ``bundle``: what its ``bundle.json`` says.
    ``names``: graphs to load: names of encoders, or ``fusion``.
    ``threads``: threads for all calls together.
    ``precision``: of encoders on a CUDA device. The fusion graph, which is small, is always computed in float32.
    Raises `MissingInputError` or `ConfigError`: as for `graph_path`, `open_session` and `check_contract`; or a name is
    not one of the bundle's graphs; `UsageError`: ``precision`` is one that onnxruntime alone, or a machine without a
    CUDA device, cannot compute in.
    """

    in_flight = 1

    def __init__(
        self, folder: Path, bundle: Bundle, *, names: Sequence[str], threads: int, precision: Precision = "fp32"
    ) -> None:
        if precision == "fp16" and set(names) != {FUSION}:
            raise UsageError(
                "precision fp16 within the task",
                expected="fp32 or tf32",
                advice="fp16 needs TensorRT, which servers have: see docs/serving.md",
            )
        self._graphs = choose_graphs(bundle, names)
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="onnx")
        for name, graph in self._graphs.items():
            session = open_session(
                graph_path(folder, name, graph),
                threads=threads if name == FUSION else 1,
                precision="fp32" if name == FUSION else precision,
            )
            check_contract(session, graph, where=f"graph {name!r}")
            if precision == "tf32" and name != FUSION and CUDA not in session.get_providers():
                raise UsageError(
                    "precision tf32 without a CUDA device",
                    expected="fp32, which CPUs compute in",
                    advice="leave out --precision, or see docs/usage.md, GPUs",
                )
            self._sessions[name] = session

    def infer(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run a graph once and return its outputs by name; may be called by several threads.

        Raises `ConfigError`: an input or output does not fit the contract, an output is not finite, or onnxruntime gave
        up; `DeviceUnavailable`: the GPU failed; `OutOfMemory`: there is no memory left.
        """
        graph = self._graphs[name]
        where = f"graph {name!r}"
        sizes = check_tensors(inputs, graph.inputs, where=where)
        try:
            outputs = self._run(name, inputs)
        except OnnxErrors as error:
            _raise_machine_fault(error, where=where)
            raise ConfigError(
                f"onnxruntime gave up: {first_line(error)}",
                where=where,
                advice="export the bundle again",
            ) from error
        check_tensors(outputs, graph.outputs, where=where, sizes=sizes)
        check_finite(outputs, where=where)
        return outputs

    def _run(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        session = self._sessions[name]
        names = [spec.name for spec in self._graphs[name].outputs]
        count = len(next(iter(inputs.values())))
        if name == FUSION or count <= PIECE_TILES or CUDA in session.get_providers():
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))

        def run_piece(start: int) -> list[NDArray[Any]]:
            piece = {key: value[start : start + PIECE_TILES] for key, value in inputs.items()}
            results: list[NDArray[Any]] = session.run(names, piece)
            return results

        pieces = list(self._pool.map(run_piece, range(0, count, PIECE_TILES)))
        return {key: np.concatenate(parts) for key, parts in zip(names, zip(*pieces, strict=True), strict=True)}

    def submit(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Pending:
        """Run a graph now; see `infer` for what it raises."""
        return Done(self.infer(name, inputs))

    def facts(self) -> Facts:
        """Nothing: the stage's own clock has it all."""
        return {}

    def close(self) -> None:
        """Release sessions and threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._sessions.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
