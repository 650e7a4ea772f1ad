"""A model repository for inference servers, made from bundles: each graph one model, named by its content.

    <repository>/<graph>-<first 12 digits of its sha256>/config.pbtxt
                                                        /1/model.onnx
                                                        /1/model.py     Python backend alone

The name follows from ``bundle.json`` and nothing else, so client and server need no table between them. Bundles
of any number and version stand side by side and cannot clash; two that ship the same encoder share one model,
whose weights then lie in the GPU's memory once. The whole digest is published as the model's parameter
``sha256``, and the client compares it. The server's own version numbers stay at 1.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from histocast import __version__
from histocast.bundle import Bundle, GraphSpec, TensorSpec
from histocast.errors import ConfigError, OutputError
from histocast.fusion.panel import GENES_PER_CALL
from histocast.inference.graph_files import graph_path
from histocast.inference.predictor import FUSION, choose_graphs, graphs_of
from histocast.inference.triton.repository_options import RepositoryOptions

MODEL_VERSION = "1"
DIGEST_DIGITS = 12

SERVER_TYPES = {
    "uint8": "UINT8",
    "float16": "FP16",
    "float32": "FP32",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}


def model_name(name: str, graph: GraphSpec) -> str:
    """The model a server serves a graph as."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{graph.sha256[:DIGEST_DIGITS]}"


def is_batched(name: str, graph: GraphSpec) -> bool:
    """Whether rows do not depend on one another, so that a server may join requests: encoders, not the fusion graph."""
    axes = {tensor.shape[0] if tensor.shape else None for tensor in (*graph.inputs, *graph.outputs)}
    return name != FUSION and len(axes) == 1 and isinstance(next(iter(axes)), str)


def write_repository(
    folder: Path,
    bundle: Bundle,
    outdir: Path,
    *,
    options: RepositoryOptions,
    names: Sequence[str] | None = None,
    link: bool = False,
) -> list[str]:
    """Add a bundle's graphs to a model repository; models that are there already are written again.

    ``folder``: the bundle's folder. Graphs a licence keeps out of it are taken where the user put them.
    ``outdir``: the repository.
    ``names``: some of the bundle's graphs; all by default.
    ``link``: whether graphs are linked to rather than copied, for a server that lives shorter than the bundle.
    Returns: names of the models.
    Raises `MissingInputError` or `ConfigError`: a graph is absent, or not the one the bundle states; `OutputError`: the
    repository cannot be written.
    """
    models = []
    for name, graph in choose_graphs(bundle, names or tuple(graphs_of(bundle))).items():
        source = graph_path(folder, name, graph)
        try:
            outdir.mkdir(parents=True, exist_ok=True)
            _write_model(outdir, name, graph, bundle, source=source, options=options, link=link)
        except OSError as error:
            raise OutputError(
                f"cannot write a model here: {error.strerror}", where=str(outdir), advice="choose another --outdir"
            ) from error
        models.append(model_name(name, graph))
    return models


def _write_model(
    outdir: Path,
    name: str,
    graph: GraphSpec,
    bundle: Bundle,
    *,
    source: Path,
    options: RepositoryOptions,
    link: bool,
) -> None:
    # A server that watches the repository never sees half a model.
    folder = Path(mkdtemp(prefix=".writing-", dir=outdir))
    try:
        version = folder / MODEL_VERSION
        version.mkdir()
        # The graph names the file of its weights, which keeps its name.
        names = {source: "model.onnx", source.with_name(f"{source.name}.data"): f"{source.name}.data"}
        for given, called in names.items() if graph.weights_sha256 else [(source, "model.onnx")]:
            if link:
                (version / called).symlink_to(given.resolve())
            else:
                shutil.copyfile(given, version / called)
        if options.backend == "python":
            shutil.copyfile(Path(__file__).with_name("backend_model.py"), version / "model.py")
        (folder / "config.pbtxt").write_text(write_config(name, graph, bundle, options), encoding="utf-8")
        folder.chmod(0o755)
        target = outdir / model_name(name, graph)
        if target.exists():
            shutil.rmtree(target)
        folder.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_config(name: str, graph: GraphSpec, bundle: Bundle, options: RepositoryOptions) -> str:
    """``config.pbtxt`` of one graph: complete, so that the server guesses nothing."""
    from google.protobuf import json_format, text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    batched = is_batched(name, graph)
    config: dict[str, Any] = {
        "name": model_name(name, graph),
        "backend": options.backend,
        "max_batch_size": options.max_batch_tiles if batched else 0,
        "input": [_tensor(spec, batched=batched) for spec in graph.inputs],
        "output": [_tensor(spec, batched=batched) for spec in graph.outputs],
        "version_policy": {"specific": {"versions": [int(MODEL_VERSION)]}},
        "instance_group": [_instances(options, batched=batched)],
        "response_cache": {"enable": False},
        "parameters": {key: {"string_value": value} for key, value in _parameters(name, graph, options)},
    }
    if batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": options.queue_delay_us}
    lengths = _lengths(graph, bundle, rows=options.max_batch_tiles if batched else bundle.fusion.region_spots)
    if options.backend == "onnxruntime":
        config["optimization"] = {
            "execution_accelerators": {"gpu_execution_accelerator": _accelerators(name, graph, lengths, options)}
        }
    config["model_warmup"] = [_warm_up(graph, lengths, batch=options.max_batch_tiles if batched else None)]
    return str(text_format.MessageToString(json_format.ParseDict(config, ModelConfig())))


def _tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    dims = [axis if isinstance(axis, int) else -1 for axis in (spec.shape[1:] if batched else spec.shape)]
    return {"name": spec.name, "data_type": f"TYPE_{SERVER_TYPES[spec.dtype]}", "dims": dims}


def _instances(options: RepositoryOptions, *, batched: bool) -> dict[str, Any]:
    kind = "KIND_CPU" if options.backend == "python" else "KIND_GPU"
    # Copies on a CPU would fight for its cores: there a copy has threads instead. Fusion calls are few and short.
    return {"kind": kind, "count": options.instances if batched and options.backend != "python" else 1}


def _parameters(name: str, graph: GraphSpec, options: RepositoryOptions) -> Iterator[tuple[str, str]]:
    yield "graph", name
    yield "sha256", graph.sha256
    yield "precision", options.precision
    yield "histocast", __version__
    if options.backend == "python":
        yield "threads", str(options.threads)
        return
    # The backend reads these here and ignores them among a provider's options where a model has any parameters, as
    # these all do. HEURISTIC: to try all algorithms for each new batch size would take longer than the batch.
    yield "cudnn_conv_algo_search", "1"
    # kSameAsRequested
    yield "arena_extend_strategy", "1"
    if options.gpu_memory_mb:
        yield "gpu_mem_limit", str(options.gpu_memory_mb * 2**20)


def _lengths(graph: GraphSpec, bundle: Bundle, *, rows: int) -> dict[str, int]:
    """The most each named axis will hold."""
    named = {axis for spec in graph.inputs for axis in spec.shape if isinstance(axis, str)}
    known = {"tile": rows, "spot": rows, "gene": GENES_PER_CALL}
    if unknown := sorted(named - set(known)):
        raise ConfigError(
            f"axes {unknown} of an input",
            expected=f"a length, or one of {sorted(known)}",
            where=f"bundle {bundle.name}",
            advice="export the graph with fixed axes: a server prepares for the largest input",
        )
    return known


def _shape(spec: TensorSpec, lengths: Mapping[str, int]) -> list[int]:
    return [axis if isinstance(axis, int) else lengths[axis] for axis in spec.shape]


def _accelerators(
    name: str, graph: GraphSpec, lengths: Mapping[str, int], options: RepositoryOptions
) -> list[dict[str, Any]]:
    listed = [{"name": "cuda", "parameters": {"use_tf32": "1" if options.precision == "tf32" else "0"}}]
    if not options.tensorrt:
        return listed
    largest = ",".join(f"{spec.name}:{_times(_shape(spec, lengths))}" for spec in graph.inputs)
    ones = dict.fromkeys(lengths, 1)
    smallest = ",".join(f"{spec.name}:{_times(_shape(spec, ones))}" for spec in graph.inputs)
    tensorrt = {
        # TF32 is no mode of it but its default, which a server started for fp32 switches off as a whole.
        "precision_mode": "FP16" if options.precision == "fp16" else "FP32",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": f"{options.engine_cache}/{model_name(name, graph)}-{options.precision}",
        # Instances of a model share its cache: the first compiles, the others read.
        "trt_force_sequential_engine_build": "1",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": options.engine_cache,
        "trt_layer_norm_fp32_fallback": "1",
        # Without these an engine is compiled anew for each batch that is larger than any before it.
        "trt_profile_min_shapes": smallest,
        "trt_profile_opt_shapes": largest,
        "trt_profile_max_shapes": largest,
    }
    return [{"name": "tensorrt", "parameters": tensorrt}, *listed]


def _times(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _warm_up(graph: GraphSpec, lengths: Mapping[str, int], *, batch: int | None) -> dict[str, Any]:
    """The largest input a model takes, run when it is loaded, so that nothing is compiled within the first request."""
    inputs = {
        spec.name: {
            "data_type": f"TYPE_{SERVER_TYPES[spec.dtype]}",
            "dims": _shape(spec, lengths)[1 if batch else 0 :],
            "zero_data": True,
        }
        for spec in graph.inputs
    }
    # Also of a model without batches: a sample whose batch size is 0 is skipped.
    return {"name": "largest", "batch_size": batch or 1, "inputs": inputs}
