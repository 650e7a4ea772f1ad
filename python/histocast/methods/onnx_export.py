"""Encoders as ONNX graphs: which there are, and how each becomes a file of a bundle."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from histocast import bundle
from histocast.artifacts import write_atomically
from histocast.errors import UsageError
from histocast.methods.morphology import Morphology
from histocast.methods.nuclei import NucleiMap

OPSET = 18
"""Understood by onnxruntime since 1.14 and by Triton since 23.03."""


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
    made = find_recipe(recipe) if isinstance(recipe, str) else recipe
    module = made.build(tile_px, um_per_px).eval()
    tiles = torch.zeros((2, tile_px, tile_px, 3), dtype=torch.uint8)
    file = f"encoders/{made.name}.onnx"
    with write_atomically(folder / file) as temporary:
        temporary.write_bytes(onnx_bytes(module, (tiles,), inputs=("tiles",), outputs=made.outputs, axis="tile"))
    with torch.inference_mode():
        results = module(tiles)
    tensors = results if isinstance(results, tuple) else (results,)
    return bundle.EncoderSpec(
        file=file,
        sha256=bundle.sha256_of_file(folder / file),
        inputs=(bundle.TensorSpec(name="tiles", dtype="uint8", shape=("tile", tile_px, tile_px, 3)),),
        outputs=tuple(
            bundle.TensorSpec(name=name, dtype="float32", shape=("tile", *tensor.shape[1:]))
            for name, tensor in zip(made.outputs, tensors, strict=True)
        ),
        name=made.name,
        version=made.version,
        licence=made.licence,
        gated=made.gated,
    )


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
