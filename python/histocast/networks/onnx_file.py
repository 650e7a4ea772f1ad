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
from histocast.networks.onnx_export import onnx_bytes

TOLERANCE = 1e-4
"""Largest difference between torch and ONNX, relative to 1 + the value's size (float32 on both sides)."""

DRAWN_SIZES = ({"spot": 1, "gene": 7}, {"spot": 3, "gene": 1}, {"spot": 40, "gene": 60})
"""Numbers of spots and genes that a graph is tried with: whatever it was exported with, most of them differ."""

GRID_COLUMNS = 8


def write_onnx(
    module: torch.nn.Module,
    path: Path,
    *,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
    axis: str | Mapping[str, str],
) -> None:
    """Export ``module`` with the first axis of every input of any length.

    ``inputs``: example tensors in the order of ``module.forward``; two rows or more.
    ``outputs``: names of what ``forward`` returns, in order.
    ``axis``: name of the first axis, or the name by input where they differ.
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

    Raises `ConfigError`: they differ by more than `TOLERANCE`.
    """
    return _check_session(module, open_graph(path), inputs, outputs=outputs, where=path.name)


def check_on_drawn_inputs(module: torch.nn.Module, path: Path, *, outputs: Sequence[str]) -> float:
    """`check_against_torch` of a fusion graph on random inputs of other lengths than it was exported with."""
    session = open_graph(path)
    return max(
        _check_session(module, session, drawn_inputs(session, sizes, seed=number), outputs=outputs, where=path.name)
        for number, sizes in enumerate(DRAWN_SIZES)
    )


def open_graph(graph: Path | bytes) -> Any:
    """An onnxruntime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Remarks on what it cannot work out beforehand are no news.
    options.log_severity_level = 3
    content = graph.read_bytes() if isinstance(graph, Path) else graph
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def drawn_inputs(session: Any, sizes: Mapping[str, int], *, seed: int, spread: float = 1.0) -> dict[str, NDArray[Any]]:
    """Random inputs of a fusion graph: features of sd ``spread``, spots on a grid, neighbours of which some are absent.

    ``sizes``: length of each free axis, by its name.
    """
    random = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {}
    for each in session.get_inputs():
        shape = [sizes[side] if isinstance(side, str) else side for side in each.shape]
        if each.type == "tensor(bool)":
            found[each.name] = random.random(shape) < 0.7
            # A spot's own tile is always there.
            found[each.name][:, shape[1] // 2] = True
        elif each.type == "tensor(int64)":
            place = np.arange(shape[0])
            found[each.name] = np.stack([place % GRID_COLUMNS, place // GRID_COLUMNS], axis=1)
        else:
            found[each.name] = (spread * random.normal(size=shape)).astype(np.float32)
    return found


def largest_difference(
    expected: Mapping[str, NDArray[Any]],
    found: Mapping[str, NDArray[Any]],
    *,
    tolerance: float,
    where: str,
    advice: str,
) -> float:
    """The largest difference of any output, relative to 1 + the value's size.

    Raises `ConfigError`: it is above the tolerance.
    """
    worst = 0.0
    for name, values in expected.items():
        difference = float(np.max(np.abs(found[name] - values) / (1.0 + np.abs(values)), initial=0.0))
        # Written so that NaN, which compares false to everything, is refused too.
        if not difference <= tolerance:
            raise ConfigError(
                f"output {name!r} differs by {difference:g}",
                expected=f"at most {tolerance:g}",
                where=where,
                advice=advice,
            )
        worst = max(worst, difference)
    return worst


def _check_session(
    module: torch.nn.Module, session: Any, inputs: Mapping[str, NDArray[Any]], *, outputs: Sequence[str], where: str
) -> float:
    return largest_difference(
        run_torch(module, inputs, outputs=outputs),
        dict(zip(outputs, session.run(list(outputs), dict(inputs)), strict=True)),
        tolerance=TOLERANCE,
        where=f"{where}, compared with torch",
        advice="export again; report this with the versions of torch and onnxruntime",
    )
