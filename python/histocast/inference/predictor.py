"""What runs a graph: one protocol, so that a stage does not know where inference happens."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from histocast.bundle import Bundle, GraphSpec
from histocast.errors import ConfigError, UsageError

FUSION = "fusion"

Precision = Literal["fp32", "tf32", "fp16"]
"""Of the arithmetic with float32 values on GPUs: as it is, with factors of 10 bits, or in half precision."""

Tensors = dict[str, NDArray[Any]]
Facts = dict[str, float | int | str]


class Pending(Protocol):
    """A call that was begun."""

    def result(self) -> Tensors:
        """Wait for the outputs; raises as `Predictor.infer` does."""
        ...


@dataclass(frozen=True)
class Done:
    """A `Pending` whose outputs are there."""

    outputs: Tensors

    def result(self) -> Tensors:
        """The outputs."""
        return self.outputs


class Predictor(Protocol):
    """Runs the graphs of one bundle by name: an encoder's name, or ``fusion``.

    Implementations agree within 1e-5 (fp32) on the same inputs. Use as a context manager.
    """

    in_flight: int
    """Calls that are worth having under way at once: 1 where the work is done by this process."""

    def infer(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run a graph once and return its outputs by name.

        Raises `ConfigError`: an input or output does not fit the contract, or an output holds NaN; `TransientError`:
        the server did not answer (never raised in process).
        """
        ...

    def submit(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Pending:
        """Begin a call, whose inputs may not be changed before its result is there.

        In process the call is made at once, and its errors are raised here.
        """
        ...

    def facts(self) -> Facts:
        """What a stage's status should say of the calls so far; nothing where they were made in process."""
        ...

    def close(self) -> None:
        """Release sessions and connections; calls under way are cancelled."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def graphs_of(bundle: Bundle) -> dict[str, GraphSpec]:
    """Every graph of a bundle by the name it is run under."""
    return {**{encoder.name: encoder for encoder in bundle.encoders}, FUSION: bundle.fusion}


def choose_graphs(bundle: Bundle, names: Sequence[str]) -> dict[str, GraphSpec]:
    """Some graphs of a bundle by name.

    Raises `ConfigError`: a name is not one of the bundle's graphs.
    """
    graphs = graphs_of(bundle)
    if unknown := [name for name in names if name not in graphs]:
        raise ConfigError(f"graphs {unknown}", expected=f"some of {sorted(graphs)}", where=f"bundle {bundle.name}")
    return {name: graphs[name] for name in names}


def check_tensors(
    tensors: Mapping[str, NDArray[Any]], specs: tuple[Any, ...], *, where: str, sizes: dict[str, int] | None = None
) -> dict[str, int]:
    """Compare tensors with their specs and return the length of every named axis.

    ``sizes`` carries axes already bound, so that outputs are held to the inputs' lengths.

    Raises `ConfigError`: a tensor is absent or unknown, its dtype or shape differs, or an axis has two lengths.
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


def check_finite(tensors: Mapping[str, NDArray[Any]], *, where: str) -> None:
    """Refuse NaN and infinity, which would spread through every later stage.

    Raises `ConfigError`: names the first tensor that holds such a value, and how many there are.
    """
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.floating) and not (finite := np.isfinite(tensor)).all():
            raise ConfigError(
                f"{int(finite.size - finite.sum())} of {finite.size} values are NaN or infinite",
                expected="finite numbers",
                where=f"{where}, tensor {name!r}",
                advice="the graph cannot cope with these inputs: export it in float32, or report the bundle",
            )


def asked_precision(environment: Mapping[str, str] = os.environ) -> Precision:
    """The precision that ``HISTOCAST_PRECISION`` asks for, by default ``fp32``.

    Raises `UsageError`: it is none of `Precision`.
    """
    known: tuple[Precision, ...] = get_args(Precision)
    given = environment.get("HISTOCAST_PRECISION") or "fp32"
    for precision in known:
        if given == precision:
            return precision
    raise UsageError(f"HISTOCAST_PRECISION is {given!r}", expected=", ".join(known), where="environment")
