"""A torch module written as ONNX, and held to what torch computes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histocast.artifacts import write_atomically
from histocast.errors import ConfigError
from histocast.methods.onnx_export import onnx_bytes

TOLERANCE = 1e-4
"""Largest difference between torch and ONNX, relative to 1 + the value's size (float32 on both sides)."""


def write_onnx(
    module: torch.nn.Module,
    path: Path,
    *,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
    axis: str | Mapping[str, str],
) -> None:
    """Export ``module`` with the first axis of every input of any length.

    Parameters
    ----------
    inputs:
        Example tensors in the order of ``module.forward``; two rows or more.
    outputs:
        Names of what ``forward`` returns, in order.
    axis:
        Name of the first axis, or the name by input where they differ.
    """
    arguments = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in inputs.values())
    with warnings.catch_warnings():
        # The exporter remarks that the inputs share one free axis, which is what is asked of it.
        warnings.simplefilter("ignore", category=UserWarning)
        content = onnx_bytes(module.eval(), arguments, inputs=tuple(inputs), outputs=tuple(outputs), axis=axis)
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)


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
