"""Foundation encoders as data: one card each, as its authors published it.

``cards/<name>.json`` holds what `export-encoder` needs to build the architecture, to feed it as it was trained, and
to say whose it is. The weights are the user's own.
"""

from __future__ import annotations

from importlib import resources
from typing import Any, Literal

from pydantic import Field

from histocast.bundle import Spec
from histocast.errors import UsageError

Pooling = Literal["cls", "mean", "cls+mean", "attention"]


class AttentionPooler(Spec):
    """A head in which one learned query attends to all tokens (CONCH's contrastive pooler)."""

    dim: int
    heads: int


class EncoderCard(Spec):
    """What is published of one encoder."""

    name: str
    title: str
    source: str
    """Where its weights are asked for."""
    licence: str
    """Of the weights."""
    gated: bool
    """Whether its weights need the user's own access."""
    reference: str
    architecture: str
    """Name of the architecture in timm."""
    arguments: dict[str, Any]
    """Arguments of the architecture as published; layers and the norm's epsilon by name (see `foundation`)."""
    input_px: int = Field(gt=0)
    """Side of what the network sees; tiles of another side are resized to it within the graph."""
    um_per_px: float = Field(gt=0)
    """Resolution the authors extract features at."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of red, green, blue in 0 to 1: the network sees ``(value - mean) / std``."""
    pooling: Pooling
    """``cls``: the class token; ``mean``: of the patch tokens; ``cls+mean``: both, one after the other;
    ``attention``: ``pooler``."""
    registers: int = Field(ge=0)
    """Tokens between the class token and the patches that stand for no place and are left out of every output."""
    patch_px: int = Field(gt=0)
    """Side of the square one token stands for."""
    dim: int = Field(gt=0)
    """Length of the embedding."""
    parameters_m: float = Field(gt=0)
    """Parameters in millions, as published, of the part that is exported."""
    pooler: AttentionPooler | None = None
    naming: Literal["timm", "transformers"] = "timm"
    """Library whose names the tensors of the weights file carry."""
    key_prefix: str = ""
    """Prefix that some or all files put before every name."""
    ignored_keys: tuple[str, ...] = ()
    """Beginnings of names of tensors that the file may hold and the encoder has no use for: heads, text towers."""

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: none in a convolutional network."""
        return 0 if self.pooling == "mean" else 1 + self.registers

    @property
    def grid_side(self) -> int:
        """Patches a side."""
        return self.input_px // self.patch_px


def card_names() -> tuple[str, ...]:
    """Names of the encoders there are cards for."""
    folder = resources.files(__package__) / "cards"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")))


def find_card(name: str) -> EncoderCard:
    """The card called ``name``.

    Raises `UsageError`: there is none.
    """
    if name not in card_names():
        raise UsageError(f"no card of an encoder {name!r}", expected=f"one of {', '.join(card_names())}")
    text = (resources.files(__package__) / "cards" / f"{name}.json").read_text(encoding="utf-8")
    return EncoderCard.model_validate_json(text)
