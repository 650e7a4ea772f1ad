"""Encoders as ONNX graphs: which there are, and how each becomes a file of a bundle."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from histocast import bundle
from histocast.artifacts import write_atomically
from histocast.encoders.morphology import Morphology
from histocast.encoders.nuclei_map import NucleiMap
from histocast.errors import UsageError
from histocast.networks.onnx_export import export_program, program_bytes, weights_file, write_with_weights_beside

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

    Raises `UsageError`: there is none.
    """
    if name not in RECIPES:
        raise UsageError(f"no encoder is called {name!r}", expected=f"one of {', '.join(sorted(RECIPES))}")
    return RECIPES[name]


def export_encoder(recipe: str | EncoderRecipe, *, tile_px: int, um_per_px: float, folder: Path) -> bundle.EncoderSpec:
    """Write ``<folder>/encoders/<name>.onnx`` and return its entry in ``bundle.json``.

    The graph's one free axis is the number of tiles. The same recipe, geometry and library versions give the
    same bytes.

    ``recipe``: a name of `RECIPES`, or a recipe of the caller's own.
    ``tile_px``: side of a tile.
    ``um_per_px``: resolution of a tile.
    ``folder``: the bundle.
    Raises `UsageError`: no recipe has that name; `ConfigError`: the encoder cannot work on tiles of this geometry.
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
