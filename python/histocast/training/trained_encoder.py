"""A target encoder that is trained with the method: the pixels it sees, its tokens of a section, its graph.

One network is trained with it, in place of an ensemble of several: networks that shared one trained encoder would not
be scored on spots it has not seen, and one encoder a network would multiply what encoding a slide costs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histocast.artifacts import PIXELS_FILE
from histocast.bundle import EncoderSpec, FusionSpec, TensorSpec, sha256_of_file
from histocast.encoders.foundation_export import TOLERANCE, example_tiles, largest_difference
from histocast.encoders.target_encoder import CHUNK, EncoderOptions, TargetEncoder
from histocast.encoders.write_encoder import EncoderRecipe, write_encoder
from histocast.errors import ConfigError, DataError
from histocast.resources import scratch_array
from histocast.sections.section import Section, refuse_exchanged
from histocast.training.training_set import TrainingSet

TRAINED, TOKENS = "trained", "tokens"
COLUMN = f"{TRAINED}.{TOKENS}"
"""Feature column of the encoder in a bundle."""

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Tiles [tile, row, column, rgb] to tokens [tile, token, width]."""


@dataclass(frozen=True)
class TrainedEncoder:
    """What was trained, and what its graph is held to."""

    module: TargetEncoder
    tiles: NDArray[np.uint8]
    """Some of the training set's, to compare torch with ONNX on."""
    weights: Path | None
    """What it started from."""

    def describe(self) -> dict[str, Any]:
        """What is recorded of it."""
        values = list(self.module.parameters())
        return {
            **self.module.options.model_dump(mode="json"),
            "parameters": sum(value.numel() for value in values),
            "trained_parameters": sum(value.numel() for value in values if value.requires_grad),
            "weights_sha256": None if self.weights is None else sha256_of_file(self.weights),
        }

    def write(self, folder: Path) -> tuple[EncoderSpec, float]:
        """Write its graph into a model's folder; its contract, and the largest difference from torch.

        Raises `ConfigError`: the graph differs from torch by more than 1e-4.
        """
        module, card = self.module.eval(), self.module.card
        module.recompute(False)
        recipe = EncoderRecipe(
            name=TRAINED,
            version=_digest(module)[:12],
            licence="Apache-2.0" if self.weights is None else card.licence,
            outputs=(TOKENS,),
            build=lambda *_: module,
            gated=card.gated and self.weights is not None,
            source="" if self.weights is None else card.source,
        )
        side = self.tiles.shape[1]
        spec = write_encoder(recipe, module, tile_px=side, folder=folder)
        tiles = np.concatenate([example_tiles(side), self.tiles])
        expected = [encode_with(module)(tiles)]
        return spec, largest_difference(folder, spec, tiles, expected, tolerance=TOLERANCE["fp32"])


def build_encoder(training: TrainingSet, options: EncoderOptions) -> TargetEncoder:
    """The encoder of a recipe, from its weights file or from random numbers."""
    geometry = training.recipe.geometry
    return TargetEncoder(
        options, tile_px=geometry.tile_px, um_per_px=geometry.um_per_px, weights=training.recipe.encoder_weights
    )


def open_pixels(section: Section) -> NDArray[np.uint8]:
    """Pixels [spot, row, column, rgb] of a section's spots in the order of its store, mapped from disk.

    Raises `DataError`: they were not kept, or the file was changed.
    """
    record, path = section.record, section.folder / PIXELS_FILE
    where = f"sample {record.sample}"
    if PIXELS_FILE not in record.digests or not path.is_file():
        raise DataError(
            "a section without the pixels of its tiles",
            expected=f"{PIXELS_FILE}, to train an encoder on",
            where=where,
            advice="run prepare again with --keep-pixels",
        )
    refuse_exchanged(path.name, f"sha256:{sha256_of_file(path)}", record.digests[PIXELS_FILE], where=where)
    pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pixels


def without_target(fusion: FusionSpec) -> FusionSpec:
    """The contract of what is gathered from frozen features."""
    return fusion.model_copy(update={"inputs": tuple(each for each in fusion.inputs if each.name != "target")})


def target_tensor(encoder: TargetEncoder) -> TensorSpec:
    """What the fusion graph is given of the target."""
    return TensorSpec(name="target", dtype="float32", shape=("spot", encoder.tokens, encoder.width))


def encode_with(encoder: TargetEncoder) -> Encode:
    """The encoder as a function of arrays, at most `CHUNK` tiles at a time."""

    def encode(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            parts = [encoder(torch.from_numpy(tiles[start : start + CHUNK])) for start in range(0, len(tiles), CHUNK)]
        return torch.cat(parts).numpy()

    return encode


def with_tokens(section: Section, encode: Encode, *, shape: tuple[int, ...], folder: Path) -> Section:
    """The section with the column that the trained encoder makes, in half precision as encoded slides hold it.

    ``shape``: [token, width].
    ``folder``: where the column lies as long as the section is used.
    Raises `ConfigError`: a token is too large for half precision, or not a number.
    """
    store, pixels = section.store, open_pixels(section)
    name = f"{section.record.sample}-{COLUMN}"
    column = scratch_array(folder, name, shape=(len(store), *shape), dtype=np.float16)
    readable = np.flatnonzero(store.readable)
    for start in range(0, len(readable), CHUNK):
        rows = readable[start : start + CHUNK]
        with np.errstate(over="ignore"):
            column[rows] = encode(np.ascontiguousarray(pixels[rows])).astype(np.float16)
        if not np.isfinite(column[rows]).all():
            raise ConfigError(
                "tokens that half precision cannot hold",
                expected="at most 65504",
                where=f"the trained encoder, sample {section.record.sample}",
                advice="lower encoder.learning_rate, or train longer",
            )
    return replace(section, store=replace(store, columns={**store.columns, COLUMN: column}))


def _digest(module: TargetEncoder) -> str:
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.cpu().numpy()).tobytes())
    return digest.hexdigest()
