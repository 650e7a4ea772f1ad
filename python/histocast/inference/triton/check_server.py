"""Does a server serve exactly a bundle's graphs? Asked before the first slide, and of each server before its first call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonclient.utils import InferenceServerException

from histocast.bundle import GraphSpec, TensorSpec
from histocast.errors import ConfigError
from histocast.inference.predictor import Precision
from histocast.inference.triton.model_repository import MODEL_VERSION, SERVER_TYPES, model_name
from histocast.inference.triton.servers import ModelUnloaded, Server, translate
from histocast.inference.triton.settings import TritonSettings

CHECK_DEADLINE_S = 20.0
"""A server answers these at once, or not at all."""


def check_server(server: Server, graphs: Mapping[str, GraphSpec], settings: TritonSettings) -> dict[str, int]:
    """Hold a server's models to the bundle's graphs.

    Returns: by graph, the most rows a request may have; 0 where requests are never joined or cut.
    Raises `ConfigError`: a model is absent, has another digest or precision, or takes and gives other tensors; or the
    server refuses us; `TransientError`: the server does not answer, or is still loading a model.
    """
    limits = {name: _check_model(server, name, graph, settings) for name, graph in graphs.items()}
    server.is_checked = True
    return limits


def _check_model(server: Server, name: str, graph: GraphSpec, settings: TritonSettings) -> int:
    model = model_name(name, graph)
    where = f"server {server.address}, model {model}"
    options = {"headers": settings.headers(), "client_timeout": min(CHECK_DEADLINE_S, settings.deadline_s)}
    client = server.client
    try:
        metadata = client.get_model_metadata(model, MODEL_VERSION, **options)
        config = client.get_model_config(model, MODEL_VERSION, **options).config
        is_ready = client.is_model_ready(model, MODEL_VERSION, **options)
    except InferenceServerException as error:
        if "no available versions" in str(error.message()):
            raise ModelUnloaded("the model is not loaded", where=where, advice="load it on the server") from error
        if "NOT_FOUND" in str(error.status()):
            raise _absent(server, name, graph, options) from error
        raise translate(error, where=where) from error
    if not is_ready:
        raise ModelUnloaded("the model is not ready", where=where, advice="see the server's log")
    _check_digest(config.parameters, graph, where=where)
    _check_precision(config.parameters, settings.precision, where=where)
    for role, tensors, specs in (
        ("input", metadata.inputs, graph.inputs),
        ("output", metadata.outputs, graph.outputs),
    ):
        _check_tensors(role, tensors, specs, where=where)
    return int(config.max_batch_size)


def _absent(server: Server, name: str, graph: GraphSpec, options: dict[str, Any]) -> ConfigError:
    """Name what the server has of this graph instead."""
    model = model_name(name, graph)
    others = ""
    try:
        index = server.client.get_model_repository_index(**options).models
        same = sorted({entry.name for entry in index if entry.name.rpartition("-")[0] == model.rpartition("-")[0]})
        others = f", but {', '.join(same)}" if same else ""
    except InferenceServerException:
        # A server may keep its index to itself; what is missing is known without it.
        pass
    return ConfigError(
        f"the server does not serve {model}{others}",
        expected=f"graph {name!r} with sha256 {graph.sha256}",
        where=f"server {server.address}",
        advice="add the bundle with 'histocast repository' and load it on the server, or use the bundle it serves",
    )


def _check_digest(parameters: Mapping[str, Any], graph: GraphSpec, *, where: str) -> None:
    found = parameters["sha256"].string_value if "sha256" in parameters else "none"
    if found != graph.sha256:
        raise ConfigError(
            f"the served graph has sha256 {found}",
            expected=f"{graph.sha256}, as the bundle states",
            where=where,
            advice="write the model again with 'histocast repository', and load it again",
        )


def _check_precision(parameters: Mapping[str, Any], asked: Precision, *, where: str) -> None:
    found = parameters["precision"].string_value if "precision" in parameters else "unknown"
    if found != asked:
        raise ConfigError(
            f"the model computes in precision {found}",
            expected=asked,
            where=where,
            advice="say what is wanted by --precision (HISTOCAST_PRECISION), or write the model again with "
            "'histocast repository --precision'",
        )


def _check_tensors(role: str, tensors: Any, specs: tuple[TensorSpec, ...], *, where: str) -> None:
    found = {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in tensors}
    stated = {
        spec.name: (SERVER_TYPES[spec.dtype], [axis if isinstance(axis, int) else -1 for axis in spec.shape])
        for spec in specs
    }
    if found != stated:
        raise ConfigError(
            f"{role}s {_describe(found)}",
            expected=f"{_describe(stated)}, as the bundle states",
            where=where,
            advice="write the model again with 'histocast repository', and load it again",
        )


def _describe(tensors: Mapping[str, tuple[str, list[int]]]) -> str:
    return ", ".join(f"{name} {dtype} {shape}" for name, (dtype, shape) in sorted(tensors.items()))
