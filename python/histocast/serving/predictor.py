"""What runs a graph: one protocol, so that a stage does not know where inference happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from histocast.bundle import GraphSpec
from histocast.errors import ConfigError

Tensors = dict[str, NDArray[Any]]


class Predictor(Protocol):
    """Runs the graphs of one bundle by name: an encoder's name, or ``fusion``.

    Implementations agree within 1e-5 (fp32) on the same inputs. Use as a context manager.
    """

    def contract(self, name: str) -> GraphSpec:
        """Inputs and outputs of a graph, as the bundle states them."""
        ...

    def infer(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run a graph once and return its outputs by name.

        Raises
        ------
        ConfigError
            An input or output does not fit the contract, or an output holds NaN.
        TransientError
            The server did not answer (never raised in process).
        """
        ...

    def close(self) -> None:
        """Release sessions and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def check_tensors(
    tensors: Mapping[str, NDArray[Any]], specs: tuple[Any, ...], *, where: str, sizes: dict[str, int] | None = None
) -> dict[str, int]:
    """Compare tensors with their specs and return the length of every named axis.

    ``sizes`` carries axes already bound, so that outputs are held to the inputs' lengths.

    Raises
    ------
    ConfigError
        A tensor is absent or unknown, its dtype or shape differs, or an axis has two lengths.
    """
    bound = dict(sizes or {})
    names = {spec.name for spec in specs}
    if set(tensors) != names:
        raise ConfigError(f"tensors {sorted(tensors)}", expected=f"{sorted(names)}", where=where)
    for spec in specs:
        tensor = tensors[spec.name]
        place = f"{where}, tensor {spec.name!r}"
        if tensor.dtype != np.dtype(spec.dtype):
            raise ConfigError(f"dtype {tensor.dtype}", expected=spec.dtype, where=place)
        if tensor.ndim != len(spec.shape):
            raise ConfigError(f"shape {tensor.shape}", expected=f"{spec.shape}", where=place)
        for axis, length in zip(spec.shape, tensor.shape, strict=True):
            expected = axis if isinstance(axis, int) else bound.setdefault(axis, length)
            if length != expected:
                raise ConfigError(f"shape {tensor.shape}", expected=f"{spec.shape} with {bound}", where=place)
    return bound
