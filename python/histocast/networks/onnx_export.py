"""Any torch module as an ONNX graph: the same module gives the same bytes."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from histocast.artifacts import write_atomically

OPSET = 18
"""Understood by onnxruntime since 1.14 and by Triton since 23.03."""


def weights_file(file: str) -> str:
    """Name of the file with a graph's weights, where they lie beside it."""
    return f"{file}.data"


def onnx_bytes(
    module: nn.Module,
    arguments: tuple[torch.Tensor, ...],
    *,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    axis: str | Mapping[str, str],
) -> bytes:
    """The ONNX graph of a module, weights included.

    The first axis of each input is free and called ``axis``, or by the name ``axis`` gives for the input.
    """
    return program_bytes(export_program(module, arguments, inputs=inputs, outputs=outputs, axis=axis))


def export_program(
    module: nn.Module,
    arguments: tuple[torch.Tensor, ...],
    *,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    axis: str | Mapping[str, str],
) -> torch.onnx.ONNXProgram:
    """The exporter's program of a module; see `onnx_bytes`."""
    names = [axis if isinstance(axis, str) else axis[name] for name in inputs]
    free = {name: torch.export.Dim(name) for name in dict.fromkeys(names)}
    with quiet_exporter():
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: free[name]} for name in names),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise TypeError("torch.onnx.export with dynamo=True returns a program")
    return program


def program_bytes(program: torch.onnx.ONNXProgram) -> bytes:
    """A program as one file, weights included, without traces of the exporting machine."""
    model = program.model_proto
    # Node names and stack traces of the exporting machine are no part of the arithmetic.
    model.producer_version = ""
    del model.metadata_props[:]
    for part in (model.graph, *model.functions):
        del part.metadata_props[:]
        for node in part.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def write_with_weights_beside(program: torch.onnx.ONNXProgram, path: Path) -> None:
    """Write a program's graph to ``path`` and its weights to `weights_file`, never holding them twice in memory."""
    import onnx_ir

    model = program.model
    model.producer_version = None
    model.metadata_props.clear()
    parts: list[Any] = [model.graph, *model.functions.values()]
    for part in parts:
        part.metadata_props.clear()
        for node in part.all_nodes():
            node.doc_string = None
            node.metadata_props.clear()
            for value in (*node.inputs, *node.outputs):
                if value is not None:
                    value.metadata_props.clear()
    # The graph names its weights' file, so that one is written under its own name, and the graph last.
    beside = path.with_name(weights_file(path.name))
    path.unlink(missing_ok=True)
    with write_atomically(path) as temporary:
        beside.unlink(missing_ok=True)
        onnx_ir.save(model, temporary, external_data=beside.name)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's remarks on packages it does not need out of the task's log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)
            warnings.simplefilter("ignore", category=DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
