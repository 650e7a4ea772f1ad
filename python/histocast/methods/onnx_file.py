"""A torch module written as ONNX, and held to what torch computes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histocast.artifacts import write_atomically
from histocast.bundle import DType, TensorSpec
from histocast.errors import ConfigError

TOLERANCE = 1e-4
"""Largest difference between torch and ONNX, relative to 1 + the value's size (float32 on both sides)."""


def write_onnx(
    module: torch.nn.Module, path: Path, *, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], axis: str
) -> None:
    """Export ``module`` with its first axis of any length, named ``axis``.

    What the exporter notes beside the graph (source lines, class names) is removed: it holds paths of the
    machine and would make equal graphs differ.

    Parameters
    ----------
    inputs:
        Example tensors in the order of ``module.forward``; two rows or more.
    outputs:
        Names of what ``forward`` returns, in order.
    """
    rows = torch.export.Dim(axis)
    with _quiet_exporter():
        program = torch.onnx.export(
            module.eval(),
            tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: rows} for _ in inputs),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ConfigError("torch returned no ONNX program", expected="an exported graph", where=path.name)
    model = program.model_proto
    _remove_notes(model)
    with write_atomically(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence remarks about operators we do not use; errors are still raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _remove_notes(model: Any) -> None:
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]


def tensor_specs(tensors: Mapping[str, NDArray[Any]], *, axis: str) -> tuple[TensorSpec, ...]:
    """Contracts of tensors whose first axis is ``axis`` and whose other axes are fixed."""
    return tuple(
        TensorSpec(name=name, dtype=_dtype(value), shape=(axis, *value.shape[1:])) for name, value in tensors.items()
    )


def _dtype(value: NDArray[Any]) -> DType:
    name: DType = value.dtype.name  # type: ignore[assignment]
    return name


def run_torch(
    module: torch.nn.Module, inputs: Mapping[str, NDArray[Any]], *, outputs: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Outputs of a module by name."""
    with torch.no_grad():
        found = module(*(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values()))
    values = found if isinstance(found, tuple) else (found,)
    return {name: value.numpy() for name, value in zip(outputs, values, strict=True)}


def check_against_torch(
    module: torch.nn.Module, path: Path, *, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]
) -> float:
    """Run both on ``inputs`` and return the largest difference, relative to 1 + the value's size.

    Raises
    ------
    ConfigError
        They differ by more than `TOLERANCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    expected = run_torch(module, inputs, outputs=outputs)
    found = dict(zip(outputs, session.run(list(outputs), dict(inputs)), strict=True))
    worst = 0.0
    for name in outputs:
        difference = float(np.max(np.abs(found[name] - expected[name]) / (1.0 + np.abs(expected[name])), initial=0.0))
        # Written so that NaN, which compares false to everything, is refused too.
        if not difference <= TOLERANCE:
            raise ConfigError(
                f"output {name!r} differs from torch by {difference:g}",
                expected=f"at most {TOLERANCE:g}",
                where=path.name,
                advice="export again; report this with the versions of torch and onnxruntime",
            )
        worst = max(worst, difference)
    return worst
