"""Layers that the networks share: attention blocks, the three scales of a spot, and gene tokens.

A network sees the spots of one region, or of several laid one after another with `Spots.region` to tell them
apart; a spot never looks beyond its region. At prediction no layer mixes spots in any other way, so neither their
order nor what lies in other regions changes a result.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from histocast.bundle import NEIGHBOUR_SIDE
from histocast.records import Record

LATTICE = NEIGHBOUR_SIDE**2

LOWEST = -1e4
"""Score of what is not seen: its share is exactly 0 in half precision too."""


class Config(Record):
    """Base of the configurations of networks."""


class Depth(Config):
    """Size of a stack of attention blocks."""

    depth: int = Field(ge=1)
    heads: int = Field(ge=1)
    ratio: float = Field(gt=0)
    """Width of the feed-forward layer over that of the block."""
    dropout: float = Field(ge=0, lt=1)


@dataclass(frozen=True)
class Spots:
    """What a network is given about spots, as `histocast.fusion.fusion_inputs.FusionInputs` gathers it."""

    target: Float[Tensor, "spot token feature"]
    """Tokens of the spot's own tile (one, where its encoder gives an embedding)."""
    neighbour: Float[Tensor, "spot 25 feature"]
    neighbour_mask: Bool[Tensor, "spot 25"]
    context: Float[Tensor, "spot feature"]
    grid_xy: Int[Tensor, "spot 2"]
    """Column and row, unique within a region."""
    nuclei: Float[Tensor, "spot channel row column"] | None = None
    region: Int[Tensor, " spot"] | None = None
    """Number of each spot's region, -1 for padding; ``None`` where all are of one."""

    def __len__(self) -> int:
        return int(self.context.shape[0])

    def together(self) -> Bool[Tensor, "spot spot"]:
        """Which spots may see each other; each sees itself, padding too."""
        count = self.context.shape[0]
        if self.region is None:
            return torch.ones(count, count, dtype=torch.bool, device=self.context.device)
        same = (self.region[:, None] == self.region[None]) & (self.region >= 0)[None]
        return same | torch.eye(count, dtype=torch.bool, device=self.context.device)


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values without bias (as published)."""

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        queries: Float[Tensor, "*batch query dim"],
        keys: Float[Tensor, "*batch key dim"],
        bias: Tensor | None = None,
    ) -> Float[Tensor, "*batch query dim"]:
        """Each query's mean of the values; ``bias`` is added to the scores, or a mask of the keys seen."""
        key, value = (self._split(part) for part in self.key_value(keys).chunk(2, dim=-1))
        query = self._split(self.query(queries))
        # Written out: torch's fused attention returns strides that its ONNX exporter cannot follow.
        scores = query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5
        if bias is not None:
            scores = scores.masked_fill(~bias, LOWEST) if bias.dtype == torch.bool else scores + bias
        found = torch.softmax(scores, dim=-1) @ value
        return self.dropout(self.out(found.transpose(-3, -2).flatten(-2)))  # type: ignore[no-any-return]

    def _split(self, values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:-1], self.heads, -1).transpose(-3, -2)


class Block(nn.Module):
    """Pre-LN transformer block: attention to itself or to ``keys``, then a GELU feed-forward layer."""

    def __init__(self, dim: int, *, heads: int, ratio: float, dropout: float, cross: bool = False) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.norm = nn.LayerNorm(dim)
        self.norm_keys = nn.LayerNorm(dim) if cross else None
        self.attention = Attention(dim, heads=heads, dropout=dropout)
        self.feed = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )

    def forward(
        self,
        tokens: Float[Tensor, "*batch token dim"],
        keys: Float[Tensor, "*batch key dim"] | None = None,
        bias: Tensor | None = None,
    ) -> Float[Tensor, "*batch token dim"]:
        """The tokens after one round."""
        queries = self.norm(tokens)
        # Without a norm of their own, keys are of the same kind as the tokens and share theirs.
        norm_keys = self.norm if self.norm_keys is None else self.norm_keys
        seen = queries if keys is None else norm_keys(keys)
        tokens = tokens + self.attention(queries, seen, bias)
        return tokens + self.feed(tokens)  # type: ignore[no-any-return]


def stack(dim: int, size: Depth, *, cross: bool = False) -> nn.ModuleList:
    """``size.depth`` blocks."""
    return nn.ModuleList(
        Block(dim, heads=size.heads, ratio=size.ratio, dropout=size.dropout, cross=cross) for _ in range(size.depth)
    )


class NeighbourEncoder(nn.Module):
    """Transformer over the 5 x 5 tiles round a spot, with a learned bias per head and (|dx|, |dy|)."""

    def __init__(self, dim: int, size: Depth) -> None:
        super().__init__()
        self.blocks = stack(dim, size)
        self.norm = nn.LayerNorm(dim)
        self.bias = nn.Parameter(torch.zeros(size.heads, LATTICE))
        places = torch.arange(LATTICE)
        row, column = places // NEIGHBOUR_SIDE, places % NEIGHBOUR_SIDE
        step = (row[:, None] - row).abs() * NEIGHBOUR_SIDE + (column[:, None] - column).abs()
        self.register_buffer("step", step, persistent=False)
        self.step: Tensor

    def forward(
        self, tokens: Float[Tensor, "spot 25 dim"], mask: Bool[Tensor, "spot 25"]
    ) -> Float[Tensor, "spot 25 dim"]:
        """Tokens after attention; those the mask leaves out are seen by none."""
        hidden = torch.zeros_like(mask, dtype=tokens.dtype).masked_fill(~mask, LOWEST)
        bias = self.bias[:, self.step] + hidden[:, None, None]
        for block in self.blocks:
            tokens = block(tokens, bias=bias)
        return self.norm(tokens)  # type: ignore[no-any-return]


class PositionStep(nn.Module):
    """Depthwise 3 x 3 convolution over the grid, added to each spot's token.

    Equal to scattering tokens to a map, convolving and gathering, but written as one product a neighbour, so that
    neither the extent of the grid nor the order of spots enters.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(9, dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.uniform_(self.weight, -1 / 3, 1 / 3)

    def forward(
        self,
        tokens: Float[Tensor, "spot dim"],
        grid_xy: Int[Tensor, "spot 2"],
        together: Bool[Tensor, "spot spot"],
    ) -> Float[Tensor, "spot dim"]:
        """Each token and the weighted sum of those on the nine cells round it."""
        across = grid_xy[None, :, 0] - grid_xy[:, None, 0]
        down = grid_xy[None, :, 1] - grid_xy[:, None, 1]
        total = tokens + self.bias
        for place in range(9):
            at = together & (across == place % 3 - 1) & (down == place // 3 - 1)
            total = total + (at.to(tokens.dtype) @ tokens) * self.weight[place]
        return total


class GlobalEncoder(nn.Module):
    """Attention among all spots of a region; the position step follows the first block."""

    def __init__(self, dim: int, size: Depth) -> None:
        super().__init__()
        self.blocks = stack(dim, size)
        self.position = PositionStep(dim)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        tokens: Float[Tensor, "spot dim"],
        grid_xy: Int[Tensor, "spot 2"],
        together: Bool[Tensor, "spot spot"],
    ) -> Float[Tensor, "spot dim"]:
        """Tokens that know their region."""
        for place, block in enumerate(self.blocks):
            tokens = block(tokens[None], bias=together[None, None])[0]
            if place == 0:
                tokens = self.position(tokens, grid_xy, together)
        return self.norm(tokens)  # type: ignore[no-any-return]


class CrossEncoder(nn.Module):
    """Blocks whose queries look at given keys."""

    def __init__(self, dim: int, size: Depth) -> None:
        super().__init__()
        self.blocks = stack(dim, size, cross=True)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        queries: Float[Tensor, "#spot query dim"],
        keys: Float[Tensor, "spot key dim"],
        mask: Bool[Tensor, "spot key"] | None = None,
    ) -> Float[Tensor, "spot query dim"]:
        """The queries after looking at those keys that ``mask`` shows; queries that all spots share are given once."""
        bias = None if mask is None else mask[:, None, None]
        for block in self.blocks:
            queries = block(queries, keys, bias)
        return self.norm(queries)  # type: ignore[no-any-return]


class GeneTokens(nn.Module):
    """Tokens of genes, from their descriptions, or learned a gene where there is no text.

    Genes of the training panel attend to one another; any other gene asked for attends to the panel and is seen
    by none. So a gene's token does not depend on what else is asked for, and a panel gene asked for by its text
    gets the token it has within the panel.

    ``panel_text``: [gene, text] embeddings of the panel's descriptions; ``None`` learns one token per gene, and then
        the panel is all that can be predicted.
    ``size``: blocks over the tokens; ``None`` for a projection alone.
    ``centre``: bring texts to mean 0 and sd 1 over the panel first. Sentence embeddings share a large common part,
        beside which what tells genes apart is small.
    """

    def __init__(
        self, panel_text: Tensor | None, *, genes: int, dim: int, size: Depth | None, centre: bool = True
    ) -> None:
        super().__init__()
        mean = None if panel_text is None or not centre else panel_text.mean(dim=0)
        sd = None if panel_text is None or not centre else panel_text.std(dim=0, correction=0).clamp(min=1e-4)
        self.register_buffer("text_mean", mean)
        self.register_buffer("text_sd", sd)
        self.text_mean: Tensor | None
        self.text_sd: Tensor | None
        self.register_buffer("panel_text", panel_text)
        self.panel_text: Tensor | None
        self.learned = nn.Parameter(torch.randn(genes, dim)) if panel_text is None else None
        width = dim if panel_text is None else panel_text.shape[1]
        self.project = nn.Identity() if width == dim else nn.Linear(width, dim)
        self.blocks = nn.ModuleList() if size is None else stack(dim, size)
        self.norm = nn.Identity() if size is None else nn.LayerNorm(dim)

    def forward(self, gene: Float[Tensor, "gene text"] | None = None) -> Float[Tensor, "gene2 dim"]:
        """Tokens of the panel, or of the genes whose texts are given."""
        known = self.learned if self.panel_text is None else self.project(self._centred(self.panel_text))
        asked = known if gene is None else self.project(self._centred(gene))
        for block in self.blocks:
            if gene is not None:
                asked = block(asked, known)
            known = block(known)
        asked = known if gene is None else asked
        return self.norm(asked)  # type: ignore[no-any-return]

    def _centred(self, text: Float[Tensor, "gene text"]) -> Float[Tensor, "gene text"]:
        return text if self.text_mean is None or self.text_sd is None else (text - self.text_mean) / self.text_sd


Branch = Literal["target", "neighbour", "context", "fused"]


class Projection(nn.Module):
    """h = Linear(x); LN(h + Drop(Linear(GELU(h))))."""

    def __init__(self, features: int, dim: int, *, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(features, dim)
        self.second = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(dim)

    def forward(self, values: Float[Tensor, "spot feature"]) -> Float[Tensor, "spot dim"]:
        """One vector per spot."""
        hidden = self.first(values)
        return self.norm(hidden + self.second(hidden))  # type: ignore[no-any-return]
