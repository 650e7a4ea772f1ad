"""The encoder of the target tile as part of the training: pixels in, tokens out, beside a network that takes them.

Neighbourhood and region stay frozen features, as in DomainST and DKAN: they take 25 and some hundred tiles a spot.
After training the two are parted again: the encoder becomes a graph of the bundle like any other, the network the
fusion graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor, nn

from histocast.encoders.encoder_cards import EncoderCard, card_names, find_card
from histocast.encoders.foundation import FoundationEncoder, Pixels, average_blocks, card_of_architecture
from histocast.encoders.resnet import PLANS, ResNetTokens, imagenet_card, load_torchvision
from histocast.errors import ConfigError
from histocast.networks.layers import Config, Spots
from histocast.networks.losses import Losses
from histocast.networks.network import Asked, Labels, Network, Rows

TIMM = "timm/"
"""What stands before the name of an architecture of timm that has no card."""

CHUNK = 64
"""Tiles encoded at once where no gradient is taken."""


class EncoderOptions(Config):
    """Which encoder is trained with the method, and how."""

    name: str = "frozen"
    """``frozen`` trains none. ``resnet18`` and ``resnet50_layer2`` are those of DKAN and DomainST; any card's name
    (``uni``, ``resnet50`` ...); or ``timm/<architecture>``."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of the encoder; the network keeps ``training.learning_rate``."""
    trained_blocks: int | None = Field(default=None, ge=1)
    """Train the last so many blocks and what follows them; all of the encoder by default."""
    tokens_side: int | None = Field(default=1, ge=1)
    """Tokens a side that the method is given, each the mean of a block of patches. 1 gives the encoder's embedding;
    ``None`` every patch, as published."""
    augment: bool = True
    """Show each tile in one of its eight symmetries, drawn anew every time."""
    checkpointing: bool = False
    """Compute activations again where the gradient needs them: less memory, a third more time."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "frozen" or name in PLANS or name in card_names() or name.startswith(TIMM):
            return name
        raise ValueError(f"no encoder {name!r}; frozen, {', '.join((*PLANS, *card_names()))} or {TIMM}<architecture>")

    @property
    def trained(self) -> bool:
        """Whether there is one to train."""
        return self.name != "frozen"


@dataclass(frozen=True)
class Tiles:
    """Pixels of a region's spots, read as they are needed."""

    pixels: NDArray[np.uint8]
    """[tile, row, column, rgb] of the section, mapped from disk."""
    place: NDArray[np.int64]
    """[spot] row of each spot of the region in ``pixels``."""

    def read(self, rows: Int[Tensor, " row"]) -> UInt8[Tensor, "row height width rgb"]:
        """The tiles of some spots of the region."""
        return torch.from_numpy(np.ascontiguousarray(self.pixels[self.place[rows.cpu().numpy()]]))


class TargetEncoder(nn.Module):
    """Tiles uint8 [tile, tile_px, tile_px, 3] to tokens [tile, token, width].

    ``weights``: file to start from, as `export-encoder` takes it (of torchvision's or timm's names for the two
        ResNets); random numbers without.
    Raises `MissingInputError` or `DataError`: the file is absent or holds no tensors; `ConfigError`: its tensors are
    not those of the encoder, or the encoder cannot be cut as the options say; `UsageError`: timm is not installed, or
    ``tokens_side`` does not divide the patches a side.
    """

    def __init__(self, options: EncoderOptions, *, tile_px: int, um_per_px: float, weights: Path | None = None) -> None:
        super().__init__()
        self.options = options
        self.card = _card(options.name, tile_px=tile_px, um_per_px=um_per_px)
        side = options.tokens_side or self.card.grid_side
        self.tokens_side = side
        self.body: ResNetTokens | FoundationEncoder
        self.pixels: Pixels | None = None
        if options.name in PLANS:
            self.pixels = Pixels(self.card, tile_px=tile_px)
            self.body = ResNetTokens(options.name)
            if weights is not None:
                load_torchvision(self.body, weights)
        else:
            self.body = FoundationEncoder(self.card, tile_px=tile_px, tokens_side=0 if side == 1 else side)
            if weights is not None:
                from histocast.encoders.weights_file import load_weights

                load_weights(self.body, weights)
                # What is mapped from a file cannot be trained in place.
                for value in (*self.body.parameters(), *self.body.buffers()):
                    value.data = value.data.clone()
        self.requires_grad_(True)
        self._frozen = tuple(_freeze(self.body, options)) if options.trained_blocks is not None else ()
        if options.checkpointing:
            self.recompute(True)
        self.train()

    @property
    def width(self) -> int:
        """Of a token."""
        if isinstance(self.body, ResNetTokens):
            return ResNetTokens.dim
        return self.card.dim if self.tokens_side == 1 else int(self.body.network.num_features)  # type: ignore[arg-type]

    @property
    def tokens(self) -> int:
        """Tokens of a tile."""
        return self.tokens_side**2

    def train(self, mode: bool = True) -> TargetEncoder:
        """Set the mode; frozen parts stay as at prediction, or their running means would move."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def recompute(self, on: bool) -> None:
        """Switch the recomputation of activations, which an exported graph does without."""
        network = self.body.network if isinstance(self.body, FoundationEncoder) else None
        switch = getattr(network, "set_grad_checkpointing", None)
        if switch is None:
            if on:
                raise ConfigError(
                    f"{self.options.name} with checkpointing",
                    expected="an encoder whose activations timm can recompute",
                    where="encoder.checkpointing",
                    advice="switch it off, or take fewer spots a step",
                )
            return
        switch(on)

    def forward(self, tiles: UInt8[Tensor, "tile row column rgb"]) -> Float[Tensor, "tile token width"]:
        """Tokens, row-major over the tile."""
        if isinstance(self.body, ResNetTokens) and self.pixels is not None:
            return average_blocks(self.body(self.pixels(tiles)), self.card.grid_side, self.tokens_side).float()
        found = self.body(tiles)
        return found[1] if isinstance(found, tuple) else found[:, None]  # type: ignore[no-any-return]


class FromPixels(Network):
    """A network and the encoder of its target tiles, trained as one."""

    def __init__(self, encoder: TargetEncoder, network: Network) -> None:
        super().__init__()
        self.encoder, self.network = encoder, network
        self.takes_genes, self.takes_nuclei = network.takes_genes, network.takes_nuclei

    def see(self, spots: Spots, tiles: Tiles, rows: Int[Tensor, " row"]) -> Spots:
        """The spots with tokens of ``rows``, and zeros for others: no network of this kind looks at another's."""
        device = spots.context.device
        parts = []
        for part in torch.split(rows, len(rows) if self.training else CHUNK):
            pixels = tiles.read(part)
            if self.training and self.encoder.options.augment:
                pixels = turned(pixels)
            parts.append(self.encoder(pixels.to(device)))
        tokens = torch.cat(parts)
        target = tokens.new_zeros((len(spots), *tokens.shape[1:])).index_copy(0, rows.to(device), tokens)
        return replace(spots, target=target)

    def forward(self, spots: Spots, gene: Tensor | None = None) -> Float[Tensor, "spot gene"]:
        """What the network says of spots that `see` gave tokens."""
        return self.network(spots, gene)

    def losses(self, spots: Spots, labels: Labels, *, rows: Rows, genes: Asked) -> Losses:
        """The network's losses."""
        return self.network.losses(spots, labels, rows=rows, genes=genes)


def turned(tiles: UInt8[Tensor, "tile row column rgb"]) -> UInt8[Tensor, "tile row column rgb"]:
    """Each tile in one of the eight symmetries of the square, drawn by torch's random numbers."""
    drawn = torch.randint(8, (len(tiles),))
    found = tiles.clone()
    for symmetry in range(1, 8):
        chosen = drawn == symmetry
        if chosen.any():
            part = torch.rot90(tiles[chosen], symmetry % 4, dims=(1, 2))
            found[chosen] = part.flip(2) if symmetry >= 4 else part
    return found


def _card(name: str, *, tile_px: int, um_per_px: float) -> EncoderCard:
    if name in PLANS:
        return imagenet_card(name, tile_px=tile_px, um_per_px=um_per_px)
    if name.startswith(TIMM):
        return card_of_architecture(name.removeprefix(TIMM), tile_px=tile_px, um_per_px=um_per_px)
    return find_card(name)


def _freeze(body: ResNetTokens | FoundationEncoder, options: EncoderOptions) -> Iterator[nn.Module]:
    """Freeze what comes before the last blocks, and yield the modules that hold it."""
    blocks = list(_blocks(body))
    count = options.trained_blocks or 0
    if count > len(blocks):
        raise ConfigError(
            f"the last {count} of {len(blocks)} blocks",
            expected=f"at most {len(blocks)}" if blocks else "an encoder made of blocks",
            where=f"encoder.trained_blocks of {options.name}",
            advice="take fewer, or leave it out to train the whole encoder",
        )
    first = next(blocks[-count].parameters())
    for value in body.parameters():
        # Modules register their parameters in the order pixels go through them.
        if value is first:
            break
        value.requires_grad_(False)
    for part in body.modules():
        values = list(part.parameters())
        if values and not any(value.requires_grad for value in values):
            yield part


def _blocks(body: ResNetTokens | FoundationEncoder) -> Iterator[nn.Module]:
    """Blocks of an encoder in the order pixels go through them, as far as they are known."""
    network: Any = body if isinstance(body, ResNetTokens) else body.network
    if isinstance(getattr(network, "blocks", None), nn.Sequential | nn.ModuleList):
        yield from network.blocks
        return
    for name in ("layer1", "layer2", "layer3", "layer4"):
        yield from getattr(network, name, ())
    for stage in getattr(network, "stages", ()):
        yield from getattr(stage, "blocks", (stage,))
