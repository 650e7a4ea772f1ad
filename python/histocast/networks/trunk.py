"""The multi-scale trunk of DomainST and DKAN: target tile, 5 x 5 neighbourhood, and the whole region."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from histocast.networks.layers import (
    LATTICE,
    Branch,
    Config,
    CrossEncoder,
    Depth,
    GlobalEncoder,
    NeighbourEncoder,
    Spots,
)

TargetEncoder = Literal["frozen", "resnet18", "resnet50_layer2"]


class Sizes(Config):
    """Fusion, global and neighbour encoder, in the order METHODS tabulates them."""

    fusion: Depth
    context: Depth
    neighbour: Depth


def _sizes(depth: str, heads: str, ratio: str, dropout: str) -> Sizes:
    columns = [text.split("/") for text in (depth, heads, ratio, dropout)]
    fusion, context, neighbour = (
        Depth(depth=int(d), heads=int(h), ratio=float(r), dropout=float(p)) for d, h, r, p in zip(*columns, strict=True)
    )
    return Sizes(fusion=fusion, context=context, neighbour=neighbour)


PUBLISHED: dict[str, Sizes] = {
    "her2st": _sizes("1/5/4", "4/8/4", "4/4/4", ".4/.3/.3"),
    "cscc": _sizes("2/2/4", "8/16/16", "4/1/1", ".1/.1/.3"),
    "stnet": _sizes("3/3/4", "16/8/8", "4/2/4", ".4/.1/.3"),
}
"""By data set, as published: fusion/global/neighbour of depth, heads, ratio and dropout."""

SMALL = _sizes("1/1/1", "4/4/4", "2/2/2", ".2/.2/.2")
"""For embeddings of about a hundred features and a few thousand spots."""


class TrunkConfig(Config):
    """The parts of the trunk."""

    dim: int = Field(default=64, gt=0)
    sizes: Sizes = SMALL
    target_encoder: TargetEncoder = "frozen"
    """``frozen`` takes features of an encoder of the bundle; the others are published as trained with the network,
    from pixels (`target_encoder.TargetEncoder`)."""
    multi_scale: bool = True
    """Neighbourhood and region beside the target; without it a spot is its own tile alone."""
    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of input features left out in training; the same ones for every scale of a spot."""


@dataclass(frozen=True)
class Scales:
    """What the trunk made of each spot."""

    fused: Float[Tensor, "spot dim"]
    target: Float[Tensor, "spot token dim"]
    neighbour: Float[Tensor, "spot 25 dim"] | None
    neighbour_mask: Bool[Tensor, "spot 25"]
    context: Float[Tensor, "spot dim"] | None
    branches: dict[str, Float[Tensor, "spot gene"]]
    """Each scale's own prediction of the panel, for the losses."""


class Trunk(nn.Module):
    """Spots to a fused vector, with the tokens of every scale and their own predictions.

    ``features``: width of an input embedding.
    ``genes``: panel that branches predict.
    ``branches``: scales with a linear head of their own.
    ``target_features``: width of the target's tokens, where an encoder of their own makes them.
    """

    def __init__(
        self,
        config: TrunkConfig,
        *,
        features: int,
        genes: int,
        branches: tuple[Branch, ...],
        target_features: int | None = None,
    ) -> None:
        super().__init__()
        dim, sizes = config.dim, config.sizes
        width = target_features or features
        self.transform = nn.Identity() if width == dim else nn.Linear(width, dim)
        self.drop = nn.Dropout(config.input_dropout)
        self.multi_scale = config.multi_scale
        if self.multi_scale:
            self.project = nn.Identity() if features == dim else nn.Linear(features, dim)
            self.neighbour = NeighbourEncoder(dim, sizes.neighbour)
            self.context = GlobalEncoder(dim, sizes.context)
            self.fusion = CrossEncoder(dim, sizes.fusion)
        else:
            self.norm = nn.LayerNorm(dim)
        kept = branches if self.multi_scale else tuple(name for name in branches if name in ("target", "fused"))
        self.heads = nn.ModuleDict({name: nn.Linear(dim, genes) for name in kept})

    def forward(self, spots: Spots, rows: Int[Tensor, " row"] | None = None) -> Scales:
        """Every scale of every spot, or of ``rows`` alone; all spots of a region give context either way."""

        def of_rows(values: Tensor) -> Tensor:
            return values if rows is None else values[rows]

        target = self.transform(self.drop(of_rows(spots.target)))
        pooled: dict[str, Tensor] = {"target": target.mean(dim=1)}
        neighbour = context = None
        centre = torch.arange(LATTICE, device=target.device) == LATTICE // 2
        mask = of_rows(spots.neighbour_mask) | centre
        if self.multi_scale:
            neighbour = self.neighbour(self.project(self.drop(of_rows(spots.neighbour))), mask)
            shown = mask.unsqueeze(-1).to(neighbour.dtype)
            pooled["neighbour"] = (neighbour * shown).sum(dim=1) / shown.sum(dim=1)
            everywhere = self.project(self.drop(spots.context))
            context = of_rows(self.context(everywhere, spots.grid_xy, spots.together()))
            pooled["context"] = context
            # One encoder with one set of weights looks at both scales; its own last norm is the LN of the sum.
            query = context[:, None]
            fused = self.fusion.norm(self._look(query, target) + self._look(query, neighbour, mask))[:, 0]
        else:
            fused = self.norm(pooled["target"])
        pooled["fused"] = fused
        branches = {name: head(pooled[name]) for name, head in self.heads.items()}
        return Scales(fused, target, neighbour, mask, context, branches)

    def _look(self, query: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        bias = None if mask is None else mask[:, None, None]
        for block in self.fusion.blocks:
            query = block(query, keys, bias)
        return query
