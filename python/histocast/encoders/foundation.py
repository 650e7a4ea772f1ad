"""Foundation encoders as torch modules: uint8 tiles in, an embedding and, where asked for, tokens out.

The network itself is timm's, built from a card's arguments. What stands around it is here: pixels are brought to
the network's size, scaled and normalised; its tokens are pooled as the card says.
"""

from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from histocast.encoders.encoder_cards import AttentionPooler, EncoderCard
from histocast.errors import UsageError

Precision = Literal["fp32", "fp16"]


def build_network(card: EncoderCard) -> nn.Module:
    """The card's architecture without weights, on the device torch stands on.

    Raises `UsageError`: timm is not installed.
    """
    timm = _import_timm()
    from timm.layers.mlp import SwiGLUPacked

    layers = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU}
    arguments: dict[str, Any] = dict(card.arguments)
    for key in ("mlp_layer", "act_layer"):
        if key in arguments:
            arguments[key] = layers[arguments[key]]
    if "norm_eps" in arguments:
        arguments["norm_layer"] = partial(nn.LayerNorm, eps=arguments.pop("norm_eps"))
    network: nn.Module = timm.create_model(card.architecture, pretrained=False, **arguments)
    return network


def _import_timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UsageError(
            "timm is not installed", expected="the extra 'train'", advice="pip install 'histocast[train]'"
        ) from error
    return timm


def resize_matrix(side_px: int, to_px: int) -> Float[Tensor, "to side"]:
    """Weights of a bicubic, antialiased resize along one axis, as the encoders' own transforms do it.

    As a matrix, because every runtime multiplies matrices alike, and few agree on resizing.
    """
    identity = torch.eye(side_px, device="cpu")[None, None]
    resized = nn.functional.interpolate(
        identity, size=(to_px, side_px), mode="bicubic", antialias=True, align_corners=False
    )
    return resized[0, 0]


class Pixels(nn.Module):
    """Tiles to what a network was trained to see.

    ``tile_px``: side of a tile; where it is not the network's, the whole tile is resized.
    """

    def __init__(self, card: EncoderCard, *, tile_px: int) -> None:
        super().__init__()
        mean, std = (torch.tensor(values, device="cpu").reshape(3, 1, 1) for values in (card.mean, card.std))
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", -mean / std, persistent=False)
        self.scale: Tensor
        self.shift: Tensor
        self.rows: Tensor | None
        matrix = None if tile_px == card.input_px else resize_matrix(tile_px, card.input_px)
        self.register_buffer("rows", matrix, persistent=False)

    def forward(self, tiles: UInt8[Tensor, "tile row column rgb"]) -> Float[Tensor, "tile rgb row2 column2"]:
        """Normalised colours."""
        pixels = tiles.permute(0, 3, 1, 2).to(torch.float32)
        if self.rows is not None:
            # Cut off after each axis, where bicubic weights overshoot, as images are. Not rounded as images are: a
            # value on the edge would be rounded one way by a CPU and the other by a GPU.
            pixels = torch.clamp(pixels @ self.rows.T, 0.0, 255.0)
            pixels = torch.clamp(self.rows @ pixels, 0.0, 255.0)
        return pixels * self.scale + self.shift


class AttentionPooling(nn.Module):
    """One learned query over all tokens (CONCH's ``attn_pool_contrast`` and ``ln_contrast``, before projection)."""

    def __init__(self, pooler: AttentionPooler, *, dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, pooler.dim))
        self.attn = nn.MultiheadAttention(pooler.dim, pooler.heads, kdim=dim, vdim=dim, batch_first=True)
        self.ln_q = nn.LayerNorm(pooler.dim)
        self.ln_k = nn.LayerNorm(dim)

    def forward(self, tokens: Float[Tensor, "tile token dim"]) -> Float[Tensor, "tile dim2"]:
        """What the query finds."""
        keys = self.ln_k(tokens)
        query = self.ln_q(self.query)[None].expand(tokens.shape[0], -1, -1)
        return self.attn(query, keys, keys, need_weights=False)[0][:, 0]  # type: ignore[no-any-return]


class FoundationEncoder(nn.Module):
    """Tiles uint8 [tile, tile_px, tile_px, 3] RGB to ``embedding`` float32 [tile, dim] and, if any, ``tokens``.

    ``card``: which encoder.
    ``tile_px``: side of a tile.
    ``tokens_side``: tokens a side to give besides the embedding, each the mean of a block of patches; 0 for none.
    Raises `UsageError`: ``tokens_side`` does not divide the patches a side, or timm is not installed.
    """

    def __init__(self, card: EncoderCard, *, tile_px: int, tokens_side: int = 0) -> None:
        super().__init__()
        if tokens_side and card.grid_side % tokens_side:
            raise UsageError(
                f"{tokens_side} x {tokens_side} tokens of {card.grid_side} x {card.grid_side} patches",
                expected=f"a divisor of {card.grid_side}",
                where=f"encoder {card.name}",
            )
        self.card = card
        self.tokens_side = tokens_side
        self.pixels = Pixels(card, tile_px=tile_px)
        self.network = build_network(card)
        self.pool: AttentionPooling | None = None
        self.norm: nn.LayerNorm | None = None
        if card.pooler is not None:
            self.pool = AttentionPooling(card.pooler, dim=int(self.network.num_features))  # type: ignore[arg-type]
            self.norm = nn.LayerNorm(card.pooler.dim)
        self.half_precision = False

    def use_half_precision(self) -> None:
        """Compute in float16 from the network's input to its tokens; pixels and pooled outputs stay float32."""
        for part in (self.network, self.pool, self.norm):
            if part is not None:
                part.half()
        self.half_precision = True

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` gives."""
        return ("embedding", "tokens") if self.tokens_side else ("embedding",)

    def forward(
        self, tiles: UInt8[Tensor, "tile row column rgb"]
    ) -> Float[Tensor, "tile dim"] | tuple[Float[Tensor, "tile dim"], Float[Tensor, "tile token width"]]:
        """Embedding, and tokens where there are any, row-major over the tile."""
        pixels = self.pixels(tiles)
        features = self.network.forward_features(pixels.half() if self.half_precision else pixels)  # type: ignore[operator]
        if features.ndim == 4:
            features = features.flatten(2).transpose(1, 2)
        patches = features[:, self.card.prefix_tokens :].to(torch.float32)
        embedding = self._pool(features, patches).to(torch.float32)
        return (
            (embedding, average_blocks(patches, self.card.grid_side, self.tokens_side))
            if self.tokens_side
            else embedding
        )

    def _pool(
        self, features: Float[Tensor, "tile all width"], patches: Float[Tensor, "tile token width"]
    ) -> Float[Tensor, "tile dim"]:
        if self.pool is not None and self.norm is not None:
            return self.norm(self.pool(features))  # type: ignore[no-any-return]
        if self.card.pooling == "mean":
            return patches.mean(dim=1)
        if self.card.pooling == "cls+mean":
            return torch.cat([features[:, 0].to(torch.float32), patches.mean(dim=1)], dim=1)
        return features[:, 0]


def average_blocks(
    patches: Float[Tensor, "tile token width"], grid_side: int, side: int
) -> Float[Tensor, "tile token2 width"]:
    """Means over the blocks that ``side`` x ``side`` tokens stand for; patches and tokens are row-major."""
    if side == grid_side:
        return patches
    step, width = grid_side // side, patches.shape[-1]
    return patches.reshape(-1, side, step, side, step, width).mean(dim=(2, 4)).reshape(-1, side * side, width)


def card_of_architecture(name: str, *, tile_px: int, um_per_px: float) -> EncoderCard:
    """A card for an architecture of timm that has none, as timm describes it; the weights are the user's.

    Raises `UsageError`: timm is not installed, knows no such architecture, or its features are neither tokens nor a
    map.
    """
    timm = _import_timm()
    if not timm.is_model(name):
        raise UsageError(f"no architecture {name!r} in timm", expected="a name of timm.list_models()")
    network: Any = timm.create_model(name, pretrained=False, num_classes=0).eval()
    facts = network.pretrained_cfg
    # A network for one size sees its own; a tile of another is resized within the graph.
    side = int(facts["input_size"][-1]) if facts.get("fixed_input_size") else tile_px
    with torch.inference_mode():
        shape = network.forward_features(torch.zeros(1, 3, side, side)).shape
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    grid = shape[-1] if len(shape) == 4 else round((shape[1] - prefix) ** 0.5)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] != network.num_features) or grid == 0:
        raise UsageError(
            f"features {list(shape)} of {name}", expected="[tile, token, width] or [tile, width, row, column]"
        )
    return EncoderCard(
        name=name,
        title=f"{name} of timm",
        source="the user",
        licence="as the user's weights",
        gated=False,
        reference="timm",
        architecture=name,
        arguments={"num_classes": 0},
        input_px=side,
        um_per_px=um_per_px,
        mean=facts["mean"],
        std=facts["std"],
        pooling="cls" if prefix else "mean",
        registers=max(prefix - 1, 0),
        # A map that is rounded up stands for a little more than the tile.
        patch_px=max(side // grid, 1),
        dim=int(network.num_features),
        parameters_m=sum(value.numel() for value in network.parameters()) / 1e6,
        ignored_keys=("fc.", "head.", "classifier."),
    )
