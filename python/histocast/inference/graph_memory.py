"""How much memory a call of a graph takes at least, from what can be inferred of its tensors without running it.

Shapes are inferred by ONNX's own library, with the longest inputs that a bundle allows. What depends on the values of inputs,
and what loops gather, has no shape before the graph runs, and is left out.
"""

from __future__ import annotations

import math
import mmap
import resource
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from histocast.errors import ConfigError
from histocast.inference.graph_files import WITHIN, fields, write_varint

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TypeProto

MOST_DEPTH = 100
"""Graphs within graphs, as protobuf reads them."""
_VALUES = {4, 5, 6, 7, 9, 10, 11}
"""Fields of a tensor that hold its values; see ``onnx.proto``."""
_SHORT_BYTES = 4096
"""Values up to this many bytes are kept, because they may be a shape."""
_INFERENCE_BYTES = 2 << 30
"""Most memory for inferring shapes: what makes numbers in a row, such as Range, is computed for it."""


def least_call_bytes(path: Path, lengths: Mapping[str, int]) -> int:
    """Most bytes that the tensors of a graph whose shapes can be inferred hold at once in one call, without its weights.

    ``lengths``: length of each named axis of the inputs.
    Raises `ConfigError`: the file is no ONNX graph, or its shapes take too much memory to infer.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.inliner import inline_local_functions

    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = onnx.ModelProto.FromString(_without_values(data, "model", 0, len(data)))
        with _at_most(_INFERENCE_BYTES):
            model = inline_local_functions(model)
            _set_lengths(model, lengths)
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (ValueError, IndexError, RuntimeError, DecodeError, MemoryError) as error:
        reason = "out of memory" if isinstance(error, MemoryError) else str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"no shapes can be inferred for {path.name}: {reason}",
            expected=f"an ONNX graph whose shapes take at most {_INFERENCE_BYTES / 2**30:g} GiB",
            where=str(path.parent),
            advice="export the graph again",
        ) from error
    return _most_held(inferred.graph)


@contextmanager
def _at_most(more_bytes: int) -> Iterator[None]:
    """Have allocations of this process fail beyond what it has now and so much more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _without_values(data: mmap.mmap, message: str, start: int, stop: int, depth: int = 0) -> bytes:
    """A message without the values of its large tensors: a graph may hold gigabytes of weights, which tell no shape."""
    if depth > MOST_DEPTH:
        raise ValueError("graphs within graphs that do not end")
    parts, copied = [], start
    for number, tag, first, last in fields(data, start, stop):
        inner = WITHIN[message].get(number)
        is_values = message == "tensor" and number in _VALUES
        if last - first <= _SHORT_BYTES or not (inner or is_values):
            continue
        parts.append(data[copied:tag])
        copied = last
        if inner:
            content = _without_values(data, inner, first, last, depth + 1)
            parts += [write_varint(number << 3 | 2), write_varint(len(content)), content]
    return b"".join([*parts, data[copied:stop]])


def _set_lengths(model: ModelProto, lengths: Mapping[str, int]) -> None:
    """Give the named axes their lengths, where inputs have them and where the graph says so of others."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if length := lengths.get(axis.dim_param):
                axis.dim_value = length


def _most_held(graph: GraphProto) -> int:
    """Most bytes at once, in the order of the nodes: a tensor is held from where it is made to where it is last read."""
    sizes = {value.name: _size(value.type.tensor_type) for value in (*graph.value_info, *graph.output)}
    read_last = {name: place for place, node in enumerate(graph.node) for name in _names_read(node)}
    read_last |= {value.name: len(graph.node) for value in graph.output}
    # Sparse weights, whose size no file bounds.
    held = most = sum(_bytes(sparse.dims, sparse.values.data_type) for sparse in graph.sparse_initializer)
    let_go: dict[int, int] = {}
    for place, node in enumerate(graph.node):
        for name in node.output:
            held += sizes.get(name, 0)
            last = read_last.get(name, place)
            let_go[last] = let_go.get(last, 0) + sizes.get(name, 0)
        most = max(most, held + max(map(_most_held, _graphs_within(node)), default=0))
        held -= let_go.get(place, 0)
    return most


def _names_read(node: NodeProto) -> Iterator[str]:
    """Tensors that a node takes, those that graphs within it take from around them included."""
    yield from node.input
    for graph in _graphs_within(node):
        for inner in graph.node:
            yield from _names_read(inner)
        yield from (value.name for value in graph.output)


def _graphs_within(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else attribute.graphs)


def _size(kind: TypeProto.Tensor) -> int:
    """Bytes of a tensor; an axis of unknown length counts as one."""
    lengths = [max(axis.dim_value, 0) if axis.HasField("dim_value") else 1 for axis in kind.shape.dim]
    return _bytes(lengths, kind.elem_type)


def _bytes(lengths: Iterable[int], kind: int) -> int:
    from onnx.helper import tensor_dtype_to_np_dtype

    # 0: of a sequence, or not inferred.
    return math.prod(lengths) * tensor_dtype_to_np_dtype(kind).itemsize if kind else 0
