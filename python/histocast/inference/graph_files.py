"""The files of a graph: where they lie, and that it loads no other.

onnxruntime loads whatever file of its folder a graph names, which the digest of the graph does not hold. So the names are read
first: the messages of the file are walked, as ``onnx.proto`` numbers their fields, and what they hold is skipped. ONNX's
own library is not among what prediction imports.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from histocast.bundle import GraphSpec, check_within, sha256_of_file
from histocast.errors import ConfigError, MissingInputError

WITHIN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Messages that hold a tensor's external data, by the message and the number of the field they lie in."""
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def graph_path(folder: Path, name: str, graph: GraphSpec) -> Path:
    """Where a graph lies; one that a licence keeps out of the bundle may be put beside the others.

    Raises `MissingInputError`: the file, or its weights, are absent; `ConfigError`: a file put there by the user is not
    the one the bundle was made with, or the graph loads one that the bundle does not state.
    """
    path = folder / (graph.file or f"encoders/{name}.onnx")
    if not path.is_file():
        advice = "copy the bundle again"
        if graph.file is None:
            advice = f"its licence forbids shipping it: export it with your own access to {path}"
        raise MissingInputError(f"the graph {name!r} is absent", where=str(folder), advice=advice)
    beside = {path.with_name(f"{path.name}.data"): graph.weights_sha256} if graph.weights_sha256 else {}
    for file, expected in {path: graph.sha256, **beside}.items():
        if not file.is_file():
            raise MissingInputError(f"{file.name}, the weights of {name!r}, are absent", where=str(file.parent))
        check_within(file, folder)
        # Those that the bundle ships were compared with it when it was fetched or checked.
        if graph.file is None and (found := sha256_of_file(file)) != expected:
            raise ConfigError(
                f"{file.name} has sha256 {found}",
                expected=expected,
                where=str(folder),
                advice="export the encoder with the version the bundle names",
            )
    if unknown := external_files(path) - {file.name for file in beside}:
        raise ConfigError(
            f"the graph {name!r} loads {sorted(unknown)[:3]} from beside it",
            expected=f"{path.name}.data with its digest in bundle.json, or weights within the graph",
            where=str(folder),
            advice="export the graph again: nothing holds what it loads to what the bundle was measured with",
        )
    return path


def external_files(path: Path) -> set[str]:
    """Locations, from the graph's own folder, of what the tensors of a graph are loaded from.

    Raises `ConfigError`: the file is no ONNX graph.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return set(_locations(data))
    except (ValueError, IndexError) as error:
        raise ConfigError(
            f"cannot load {path.name}: {error}",
            expected="an ONNX graph",
            where=str(path.parent),
            advice="copy it again",
        ) from error


def _locations(data: mmap.mmap) -> Iterator[str]:
    # A list and no recursion: graphs within graphs may be nested as deeply as a file likes.
    waiting = [("model", 0, len(data))]
    while waiting:
        message, start, stop = waiting.pop()
        if message == "entry":
            parts = {number: data[first:last] for number, _, first, last in fields(data, start, stop)}
            if parts.get(_KEY) == b"location":
                yield parts.get(_VALUE, b"").decode("utf-8", "replace")
            continue
        inner = WITHIN[message]
        waiting += [
            (inner[number], first, last) for number, _, first, last in fields(data, start, stop) if number in inner
        ]


def fields(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the content and stop of each field of bytes within a message.

    Raises `ValueError` or `IndexError`: the bytes are no message.
    """
    position = start
    while position < stop:
        begun = position
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            _, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            length, position = _varint(data, position)
            yield tag >> 3, begun, position, position + length
            position += length
        else:
            raise ValueError("a field of no known kind")
    if position != stop:
        raise ValueError("a field that ends after its message")


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def write_varint(length: int) -> bytes:
    """A whole number in the variable length of protocol buffers: seven bits a byte, the lowest first."""
    found = bytearray()
    while length > 0x7F:
        found.append(length & 0x7F | 0x80)
        length >>= 7
    found.append(length)
    return bytes(found)
