"""Encoders as ONNX graphs: which there are, and how each becomes a file of a bundle."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from histocast import bundle
from histocast.artifacts import write_atomically
from histocast.errors import UsageError
from histocast.methods.morphology import Morphology
from histocast.methods.nuclei import NucleiMap

OPSET = 18
"""Understood by onnxruntime since 1.14 and by Triton since 23.03."""

LARGEST_FILE_BYTES = 2**31 - 2**26
"""Of weights that go into the ONNX file itself, which cannot hold 2 GiB; more lie in a file beside it."""


@dataclass(frozen=True)
class EncoderRecipe:
    """How an encoder is made: everything `export_encoder` needs to know about it.

    ``build`` takes ``tile_px`` and ``um_per_px`` and returns a module from uint8 tiles
    [tile, tile_px, tile_px, 3] to one tensor for each name of ``outputs``. Colour normalisation and resizing
    happen inside it.
    """

    name: str
    version: str
    licence: str
    outputs: tuple[str, ...]
    build: Callable[[int, float], nn.Module]
    gated: bool = False
    """Whether its weights need the user's own access."""
    source: str = ""
    """Where its weights come from, where it has any."""


RECIPES: dict[str, EncoderRecipe] = {
    recipe.name: recipe
    for recipe in (
        EncoderRecipe(
            name="morphology",
            version="1",
            licence="Apache-2.0",
            outputs=("embedding",),
            build=lambda tile_px, um_per_px: Morphology(tile_px=tile_px, um_per_px=um_per_px),
        ),
        EncoderRecipe(
            name="nuclei",
            version="1",
            licence="Apache-2.0",
            outputs=("map",),
            build=lambda tile_px, um_per_px: NucleiMap(tile_px=tile_px, um_per_px=um_per_px),
        ),
    )
}


def find_recipe(name: str) -> EncoderRecipe:
    """The recipe called ``name``.

    Raises
    ------
    UsageError
        There is none.
    """
    if name not in RECIPES:
        raise UsageError(f"no encoder is called {name!r}", expected=f"one of {', '.join(sorted(RECIPES))}")
    return RECIPES[name]


def export_encoder(recipe: str | EncoderRecipe, *, tile_px: int, um_per_px: float, folder: Path) -> bundle.EncoderSpec:
    """Write ``<folder>/encoders/<name>.onnx`` and return its entry in ``bundle.json``.

    The graph's one free axis is the number of tiles. The same recipe, geometry and library versions give the
    same bytes.

    Parameters
    ----------
    recipe:
        A name of `RECIPES`, or a recipe of the caller's own.
    tile_px:
        Side of a tile.
    um_per_px:
        Resolution of a tile.
    folder:
        The bundle.

    Raises
    ------
    UsageError
        No recipe has that name.
    ConfigError
        The encoder cannot work on tiles of this geometry.
    """
    if isinstance(recipe, EncoderRecipe):
        return write_encoder(recipe, recipe.build(tile_px, um_per_px), tile_px=tile_px, folder=folder)
    spec, graph = _shipped_encoder(find_recipe(recipe).name, tile_px, um_per_px)
    with write_atomically(folder / graph_file(recipe)) as temporary:
        temporary.write_bytes(graph)
    return spec


@cache
def _shipped_encoder(name: str, tile_px: int, um_per_px: float) -> tuple[bundle.EncoderSpec, bytes]:
    """An encoder of `RECIPES` and its graph, made once in a process: that takes up to 20 s."""
    recipe = RECIPES[name]
    with tempfile.TemporaryDirectory() as folder:
        spec = write_encoder(recipe, recipe.build(tile_px, um_per_px), tile_px=tile_px, folder=Path(folder))
        return spec, (Path(folder) / graph_file(name)).read_bytes()


def graph_file(name: str) -> str:
    """Path of an encoder's graph within its bundle."""
    return f"encoders/{name}.onnx"


def write_encoder(
    recipe: EncoderRecipe,
    module: nn.Module,
    *,
    tile_px: int,
    folder: Path,
    largest_file_bytes: int = LARGEST_FILE_BYTES,
) -> bundle.EncoderSpec:
    """Write a module as the recipe's encoder and return its entry in ``bundle.json``; see `export_encoder`.

    Weights of more than ``largest_file_bytes`` go into ``<folder>/encoders/<name>.onnx.data``.
    """
    tiles = torch.zeros((2, tile_px, tile_px, 3), dtype=torch.uint8)
    file = graph_file(recipe.name)
    weights = sum(tensor.nbytes for tensor in module.state_dict().values()) > largest_file_bytes
    program = export_program(module.eval(), (tiles,), inputs=("tiles",), outputs=recipe.outputs, axis="tile")
    if weights:
        write_with_weights_beside(program, folder / file)
    else:
        with write_atomically(folder / file) as temporary:
            temporary.write_bytes(program_bytes(program))
    with torch.inference_mode():
        results = module(tiles)
    tensors = results if isinstance(results, tuple) else (results,)
    beside = weights_file(file) if weights else None
    return bundle.EncoderSpec(
        file=file,
        sha256=bundle.sha256_of_file(folder / file),
        weights_file=beside,
        weights_sha256=bundle.sha256_of_file(folder / beside) if beside else None,
        inputs=(bundle.TensorSpec(name="tiles", dtype="uint8", shape=("tile", tile_px, tile_px, 3)),),
        outputs=tuple(
            bundle.TensorSpec(name=name, dtype="float32", shape=("tile", *tensor.shape[1:]))
            for name, tensor in zip(recipe.outputs, tensors, strict=True)
        ),
        name=recipe.name,
        version=recipe.version,
        licence=recipe.licence,
        gated=recipe.gated,
        source=recipe.source,
    )


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
