"""ALIGN-ST: zero-shot prediction of genes by their descriptions (MICCAI 2025, 10.1007/978-3-032-04978-0_13).

Four steps: patch features that know the nuclei; prompts that carry what the region looks like into the text of a
gene, layer by layer; interaction of genes that are described alike; and patches, refined over the graph of spots,
dotted with the embedding of each gene. The paper is partly unavailable; where it leaves a step open it follows SGN, on
which it builds, and [I] marks what is inferred.

SGN reads direction and bias of a gene off the tokens of its description with a small transformer. Here a description is
one vector, which leaves it nothing to attend to: both are linear in the gene's embedding, whatever the configuration.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from histocast.networks.layers import Attention, Config, GeneTokens, Spots, stack
from histocast.networks.layers import Depth as BlockSize
from histocast.networks.losses import Losses, correlation_loss
from histocast.networks.network import Asked, Labels, Network, Rows
from histocast.networks.ridge import ScaleMeans

NUCLEI_CHANNELS = 2
ITSELF = 1e-5
"""Squared distance of unit-length texts below which two genes are the same one, which is no neighbour of itself."""


class AlignStConfig(Config):
    """Every part of ALIGN-ST, each an ablation by itself."""

    dim: int = Field(default=64, gt=0)
    scales: tuple[Literal["target", "3x3", "5x5"], ...] = ("target", "3x3", "5x5")
    """Features of a patch: its own (alone as published), and the means over its surroundings."""
    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    nuclei: bool = False
    """Attention of a patch to its map of nuclei; needs the recipe's ``nuclei`` feature."""
    nuclei_width: int = Field(default=16, gt=0)
    prompts: int = Field(default=4, ge=0)
    """Tokens that carry the region's look into the text; 0 for none."""
    prompt_rate: float = Field(default=0.1, ge=0, le=1)
    """alpha: share of the visual prompt in each update of the text prompt."""
    text_layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    gene_text: bool = True
    """Tokens from descriptions; else learned a gene, and no other gene can be predicted."""
    centre_text: bool = True
    """Standardise texts over the panel; not so as published."""
    interaction: bool = True
    """Attention among genes that are described alike."""
    alike: int = Field(default=8, ge=1)
    """Genes of the panel that a gene interacts with."""
    spot_graph: bool = True
    """GraphSAGE over spots near in space and in features."""
    graph_layers: int = Field(default=2, ge=1)
    radius: int = Field(default=1, ge=1)
    """Cells of the grid within which spots are neighbours."""
    nearest: int = Field(default=5, ge=0)
    """Neighbours in the space of features."""
    correlation: float = Field(default=0.5, ge=0)
    """Weight of 1 - Pearson in the loss."""


def faithful_alignst() -> AlignStConfig:
    """The published sizes, SGN's where ALIGN-ST's are not stated.

    Number and rate of prompts, genes alike and the width of the nuclei channel are those of the default [I].
    """
    return AlignStConfig(
        dim=256,
        scales=("target",),
        input_dropout=0.0,
        dropout=0.1,
        nuclei=True,
        text_layers=4,
        graph_layers=4,
        centre_text=False,
    )


class NucleiChannel(nn.Module):
    """Five 3 x 3 Conv-BN-ReLU over the map of nuclei, which the patch feature then attends to."""

    def __init__(self, dim: int, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for layer in range(5):
            inward = NUCLEI_CHANNELS if layer == 0 else width
            # Three of the five halve the map: a nucleus spans several of its pixels.
            stride = 2 if layer % 2 == 0 else 1
            maps = nn.Conv2d(inward, width, 3, stride=stride, padding=1, bias=False)
            steps += [maps, nn.BatchNorm2d(width), nn.ReLU()]
        self.maps = nn.Sequential(*steps)
        self.widen = nn.Linear(width, dim)
        self.attention = Attention(dim, heads=heads, dropout=dropout)

    def forward(
        self, patch: Float[Tensor, "spot dim"], nuclei: Float[Tensor, "spot 2 row column"]
    ) -> Float[Tensor, "spot dim"]:
        """The patch features with what their nuclei add."""
        tokens = self.widen(self.maps(nuclei).flatten(2).transpose(1, 2))
        return patch + self.attention(patch[:, None], tokens)[:, 0]  # type: ignore[no-any-return]


class GeneEncoder(nn.Module):
    """[CLS; P_text; T] of each gene through a transformer, beside a visual stream that feeds the prompts.

    After each layer: P_text <- (1 - alpha) P_text + alpha g * W P_visual, g a gate read from both [I]. The visual
    prompts attend to the patches of the region [I], so one pass serves all its genes.
    """

    def __init__(self, config: AlignStConfig) -> None:
        super().__init__()
        dim = config.dim
        size = BlockSize(depth=config.text_layers, heads=config.heads, ratio=2, dropout=config.dropout)
        self.rate = config.prompt_rate
        self.start = nn.Parameter(torch.randn(1, dim) * 0.02)
        self.text_prompt = nn.Parameter(torch.randn(config.prompts, dim) * 0.02)
        self.text = stack(dim, size)
        self.visual: nn.ModuleList | None = None
        if config.prompts:
            self.visual_prompt = nn.Parameter(torch.randn(config.prompts, dim) * 0.02)
            self.visual = stack(dim, size, cross=True)
            self.project = nn.ModuleList(nn.Linear(dim, dim) for _ in range(config.text_layers))
            self.gate = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(config.text_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, genes: Float[Tensor, "gene dim"], patches: Float[Tensor, "spot dim"]
    ) -> Float[Tensor, "gene dim"]:
        """The CLS token of every gene in the light of the region's patches."""
        count = genes.shape[0]
        parts = [self.start.expand(count, 1, -1), self.text_prompt.expand(count, -1, -1), genes[:, None]]
        tokens = torch.cat(parts, dim=1)
        prompts = self.text_prompt.shape[0]
        visual = self.visual_prompt if self.visual is not None else None
        for layer, block in enumerate(self.text):
            tokens = block(tokens)
            if visual is None or self.visual is None:
                continue
            visual = self.visual[layer](visual[None], patches[None])[0]
            own = tokens[:, 1 : 1 + prompts]
            brought = self.project[layer](visual).expand_as(own)
            gate = torch.sigmoid(self.gate[layer](torch.cat([own, brought], dim=-1)))
            own = (1 - self.rate) * own + self.rate * gate * brought
            tokens = torch.cat([tokens[:, :1], own, tokens[:, 1 + prompts :]], dim=1)
        return self.norm(tokens[:, 0] + genes)  # type: ignore[no-any-return]


class GeneInteraction(nn.Module):
    """F = W [Z; Z_N]: each gene beside a gated (tanh) attention to the panel genes described most alike."""

    def __init__(self, dim: int, *, alike: int) -> None:
        super().__init__()
        self.alike = alike
        self.score = nn.Sequential(nn.Linear(2 * dim, dim), nn.Tanh(), nn.Linear(dim, 1))
        self.out = nn.Linear(2 * dim, dim)

    def forward(
        self, genes: Float[Tensor, "gene dim"], panel: Float[Tensor, "known dim"], near: Int[Tensor, "gene alike"]
    ) -> Float[Tensor, "gene dim"]:
        """Genes that know their neighbours in the panel."""
        others = panel[near]
        pairs = torch.cat([genes[:, None].expand_as(others), others], dim=-1)
        weights = torch.softmax(self.score(pairs), dim=1)
        return self.out(torch.cat([genes, (weights * others).sum(dim=1)], dim=-1))  # type: ignore[no-any-return]


class SpotGraph(nn.Module):
    """GraphSAGE: each layer joins a patch with the mean of its neighbours."""

    def __init__(self, config: AlignStConfig) -> None:
        super().__init__()
        self.radius, self.nearest = config.radius, config.nearest
        self.layers = nn.ModuleList(nn.Linear(2 * config.dim, config.dim) for _ in range(config.graph_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(config.dim) for _ in range(config.graph_layers))
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self,
        patches: Float[Tensor, "spot dim"],
        features: Float[Tensor, "spot feature"],
        grid_xy: Int[Tensor, "spot 2"],
    ) -> Float[Tensor, "spot dim"]:
        """Patches refined by their neighbours in space and in ``features``."""
        weights = self.neighbours(features, grid_xy)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            joined = layer(torch.cat([patches, weights @ patches], dim=-1))
            patches = norm(patches + self.drop(torch.relu(joined)))
        return patches

    def neighbours(
        self, features: Float[Tensor, "spot feature"], grid_xy: Int[Tensor, "spot 2"]
    ) -> Float[Tensor, "spot spot"]:
        """Each row the weights of a mean: spots within the radius, and the nearest in features."""
        near = ((grid_xy[:, None] - grid_xy[None]).abs() <= self.radius).all(dim=-1)
        if self.nearest:
            unit = functional.normalize(features, dim=-1)
            # No spot is its own neighbour; columns of nobody keep the choice valid where there are few spots.
            alone = torch.diag(torch.full_like(unit[:, 0], 4.0))
            scores = functional.pad(unit @ unit.T - alone, (0, self.nearest), value=-3.0)
            last = scores.topk(self.nearest, dim=-1).values[:, -1:]
            near = near | ((scores[:, : features.shape[0]] >= last) & (scores[:, : features.shape[0]] > -2.0))
        itself = torch.diag(torch.ones_like(features[:, 0])).bool()
        weights = (near & ~itself).to(features.dtype)
        return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1.0)


class AlignSt(Network):
    """ALIGN-ST over frozen features; parameters are those of `Dkan`."""

    def __init__(self, config: AlignStConfig, *, features: int, genes: int, panel_text: Tensor | None) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.takes_genes, self.takes_nuclei = config.gene_text, config.nuclei
        self.means = ScaleMeans(config.scales)
        self.patch = nn.Sequential(
            nn.Dropout(config.input_dropout),
            nn.Linear(features * len(config.scales), dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(dim, dim),
        )
        self.nuclei = (
            NucleiChannel(dim, width=config.nuclei_width, heads=config.heads, dropout=config.dropout)
            if config.nuclei
            else None
        )
        text = panel_text if config.gene_text else None
        self.genes = GeneTokens(text, genes=genes, dim=dim, size=None, centre=config.centre_text)
        self.prompt = GeneEncoder(config)
        self.alike = min(config.alike, genes - 1)
        self.interaction = GeneInteraction(dim, alike=self.alike) if config.interaction and self.alike > 0 else None
        self.graph = SpotGraph(config) if config.spot_graph else None
        self.weight = nn.Linear(dim, dim)
        self.bias = nn.Linear(dim, 1)

    def forward(self, spots: Spots, gene: Float[Tensor, "gene text"] | None = None) -> Float[Tensor, "spot gene2"]:
        """Expression of the panel, or of the genes whose texts are given; 0 for spots of no region."""
        if spots.region is None:
            return self._predict(spots, gene)
        found, order = [], []
        for number in torch.unique(spots.region):
            rows = torch.nonzero(spots.region == number)[:, 0]
            values = self._predict(take_spots(spots, rows), gene)
            found.append(values if number >= 0 else torch.zeros_like(values))
            order.append(rows)
        return torch.cat(found)[torch.argsort(torch.cat(order))]

    def losses(self, spots: Spots, labels: Labels, *, rows: Rows, genes: Asked) -> Losses:
        """Losses on the spots ``rows`` and the panel genes ``genes``; all spots of the region give context."""
        predicted, truth = self._predict(spots, None)[rows][:, genes], labels[rows][:, genes]
        error = functional.mse_loss(predicted, truth)
        correlation = correlation_loss(predicted, truth)
        return Losses(error + self.config.correlation * correlation, {"error": error, "correlation": correlation})

    def _predict(self, spots: Spots, gene: Tensor | None) -> Float[Tensor, "spot gene"]:
        """One region: h . w + b, with w of unit length as in SGN; w and b linear in the gene's embedding [I]."""
        patches = self.patch(self.means(spots.target.mean(dim=1), spots.neighbour, spots.neighbour_mask))
        if self.nuclei is not None and spots.nuclei is not None:
            patches = self.nuclei(patches, spots.nuclei)
        if self.graph is not None:
            patches = self.graph(patches, spots.context, spots.grid_xy)
        embedding = self._embed(gene, patches)
        direction = functional.normalize(self.weight(embedding), dim=-1)
        return patches @ direction.T + self.bias(embedding)[:, 0]  # type: ignore[no-any-return]

    def _embed(self, gene: Tensor | None, patches: Tensor) -> Float[Tensor, "gene dim"]:
        panel: Tensor = self.prompt(self.genes(), patches)
        asked: Tensor = panel if gene is None else self.prompt(self.genes(gene), patches)
        if self.interaction is None:
            return asked
        known = self.genes.panel_text if self.genes.panel_text is not None else self.genes().detach()
        near = find_alike(known if gene is None else gene, known, count=self.alike)
        return self.interaction(asked, panel, near)  # type: ignore[no-any-return]


def find_alike(
    asked: Float[Tensor, "gene text"], panel: Float[Tensor, "known text"], *, count: int
) -> Int[Tensor, "gene count"]:
    """The panel genes whose texts are most alike, the gene itself left out."""
    likeness = functional.normalize(asked, dim=-1) @ functional.normalize(panel, dim=-1).T
    return likeness.masked_fill(2.0 - 2.0 * likeness < ITSELF, -2.0).topk(count, dim=-1).indices


def take_spots(spots: Spots, rows: Int[Tensor, " row"]) -> Spots:
    """Some spots, as one region."""
    kept = {name: value[rows] for name, value in vars(spots).items() if name != "region" and value is not None}
    return Spots(**kept)
