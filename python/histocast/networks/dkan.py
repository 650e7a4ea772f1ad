"""DKAN: dual-path knowledge-augmented contrastive alignment (arXiv 2511.17685).

Gene tokens, made from descriptions, look at the image of a spot (image path) and, in training, at its measured
expression (expression path). The two results of a gene are drawn together by contrast; one linear layer that all
genes share reads the expression off the first. So a new gene needs its description only.

As released, each path has a single key, whose softmax is always 1: every gene is given the same image vector.
The default looks at the tokens of the target and its neighbourhood too; ``keys="fused"`` is theirs.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from histocast.networks.layers import Branch, Config, CrossEncoder, Depth, GeneTokens, Projection, Spots
from histocast.networks.losses import Losses, Weights, contrastive_loss, correlation_loss, loss_weights, supervised_loss
from histocast.networks.network import Asked, Labels, Network, Rows
from histocast.networks.trunk import PUBLISHED, Scales, Trunk, TrunkConfig

BRANCHES: tuple[Branch, ...] = ("target", "neighbour", "context", "fused")


class DkanConfig(Config):
    """Every part of DKAN, each an ablation by itself."""

    trunk: TrunkConfig = TrunkConfig()
    image: Depth = Depth(depth=1, heads=4, ratio=2, dropout=0.1)
    expression: Depth = Depth(depth=1, heads=4, ratio=2, dropout=0.1)
    text: Depth = Depth(depth=1, heads=4, ratio=2, dropout=0.1)
    gene_text: bool = True
    """Tokens from descriptions; else learned a gene, and no other gene can be predicted."""
    centre_text: bool = True
    """Standardise texts over the panel; not so as published."""
    keys: Literal["tokens", "fused"] = "tokens"
    """What genes look at: the fused vector and the tokens of target and neighbourhood, or the fused vector alone (as
    released). The region comes in by the fused vector, whose query it makes."""
    direct: bool = True
    """Add the product of fused image and gene token to what is read off the image path; not so as published. It
    gives each gene a pattern of its own from the first step on, which attention has to find out."""
    contrastive: bool = True
    """The expression path and its loss."""
    temperature: float = Field(default=0.1, gt=0)
    weights: Weights = "fixed"
    """How the two losses are weighed; ``adaptive`` as published. That depends on how large the losses are, and ours are
    others: with standardised labels and a correlation loss it gave a memorised contrast most of the weight."""
    contrast_weight: float = Field(default=0.1, ge=0, le=1)
    """Share of the contrast where weights are ``fixed``."""
    contrast_rows: int | None = Field(default=1024, gt=1)
    """(spot, gene) rows drawn for the contrast, whose cost grows with their square; ``None`` takes all, as
    published."""
    distillation: float = Field(default=0.3, ge=0, le=1)
    correlation: float = Field(default=0.5, ge=0)
    """Weight of 1 - Pearson in the supervised loss; 0 as published."""


def faithful_dkan(data_set: str) -> DkanConfig:
    """The configuration released for ``her2st``, ``cscc`` or ``stnet``."""
    deep, heads = ("4/3/3", 4) if data_set == "her2st" else ("4/4/4", 8)
    image, expression, text = (Depth(depth=int(depth), heads=heads, ratio=4, dropout=0.3) for depth in deep.split("/"))
    return DkanConfig(
        trunk=TrunkConfig(dim=1024, sizes=PUBLISHED[data_set], target_encoder="resnet18"),
        image=image,
        expression=expression,
        text=text,
        keys="fused",
        temperature=0.08 if data_set == "cscc" else 0.1,
        weights="adaptive",
        contrast_rows=None,
        correlation=0.0,
        centre_text=False,
        direct=False,
    )


class ExpressionEncoder(Projection):
    """Measured expression of the panel to one vector per spot.

    A last linear layer brings it to the space of the gene tokens; with it the size is the one METHODS adds up.
    """

    def __init__(self, genes: int, dim: int, *, dropout: float) -> None:
        super().__init__(genes, dim, dropout=dropout)
        self.out = nn.Linear(dim, dim)

    def forward(self, values: Float[Tensor, "spot gene"]) -> Float[Tensor, "spot dim"]:
        """One vector per spot."""
        return self.out(super().forward(values))  # type: ignore[no-any-return]


class Dkan(Network):
    """DKAN over frozen features, or over those of a target encoder that is trained with it.

    ``features``: width of an input embedding.
    ``genes``: genes of the training panel.
    ``panel_text``: [gene, text] embeddings of their descriptions; not looked at without ``gene_text``.
    ``target_features``: width of the target's tokens, where an encoder of their own makes them.
    """

    takes_nuclei = False

    def __init__(
        self,
        config: DkanConfig,
        *,
        features: int,
        genes: int,
        panel_text: Tensor | None,
        target_features: int | None = None,
    ) -> None:
        super().__init__()
        dim = config.trunk.dim
        self.config = config
        self.takes_genes = config.gene_text
        self.trunk = Trunk(
            config.trunk, features=features, genes=genes, branches=BRANCHES, target_features=target_features
        )
        text = panel_text if config.gene_text else None
        self.genes = GeneTokens(text, genes=genes, dim=dim, size=config.text, centre=config.centre_text)
        self.image = CrossEncoder(dim, config.image)
        self.read = nn.Linear(dim, 1)
        self.direct = nn.Linear(dim, dim) if config.direct else None
        if config.contrastive:
            self.encode = ExpressionEncoder(genes, dim, dropout=config.expression.dropout)
            self.expression = CrossEncoder(dim, config.expression)

    def forward(self, spots: Spots, gene: Float[Tensor, "gene text"] | None = None) -> Float[Tensor, "spot gene2"]:
        """Expression of the panel, or of the genes whose texts are given."""
        tokens = self.genes(gene)
        scales = self.trunk(spots)
        return self._read(scales, tokens, self._look(scales, tokens))

    def losses(self, spots: Spots, labels: Labels, *, rows: Rows, genes: Asked) -> Losses:
        """Losses on the spots ``rows`` and the panel genes ``genes``; all spots of the region give context."""
        config = self.config
        scales = self.trunk(spots, rows)
        tokens = self.genes()[genes]
        image = self._look(scales, tokens)
        predicted, truth = self._read(scales, tokens, image), labels[rows][:, genes]
        branches = [values[:, genes] for values in scales.branches.values()]
        supervised = supervised_loss(predicted, truth, branches, distillation=config.distillation)
        if config.correlation:
            supervised = supervised + config.correlation * correlation_loss(predicted, truth)
        if not config.contrastive:
            return Losses(supervised, {"supervised": supervised})
        measured = self.encode(labels[rows])[:, None]
        expression = self.expression(tokens[None], measured)
        first, second = image.flatten(0, 1), expression.flatten(0, 1)
        if config.contrast_rows is not None and len(first) > config.contrast_rows:
            drawn = torch.randperm(len(first), device=first.device)[: config.contrast_rows]
            first, second = first[drawn], second[drawn]
        contrast = contrastive_loss(first, second, temperature=config.temperature)
        weigh_supervised, weigh_contrast = loss_weights(
            supervised, contrast, kind=config.weights, contrast_share=config.contrast_weight
        )
        total = weigh_supervised * supervised + weigh_contrast * contrast
        return Losses(total, {"supervised": supervised, "contrastive": contrast})

    def _read(
        self, scales: Scales, tokens: Float[Tensor, "gene dim"], image: Float[Tensor, "spot gene dim"]
    ) -> Float[Tensor, "spot gene"]:
        found: Tensor = self.read(image)[..., 0]
        if self.direct is not None:
            found = found + self.direct(scales.fused) @ tokens.T * tokens.shape[-1] ** -0.5
        return found

    def _look(self, scales: Scales, tokens: Float[Tensor, "gene dim"]) -> Float[Tensor, "spot gene dim"]:
        """The image path: what every gene token finds in every spot."""
        keys = scales.fused[:, None]
        if self.config.keys == "tokens":
            parts = [keys, scales.target] + ([] if scales.neighbour is None else [scales.neighbour])
            keys = torch.cat(parts, dim=1)
        mask = self._seen(scales, keys)
        return self.image(tokens[None], keys, mask)  # type: ignore[no-any-return]

    def _seen(self, scales: Scales, keys: Tensor) -> Bool[Tensor, "spot key"] | None:
        """Which keys exist; ``None`` where all do."""
        if self.config.keys == "fused" or scales.neighbour is None:
            return None
        before = keys.shape[1] - scales.neighbour.shape[1]
        return torch.cat([torch.ones_like(keys[:, :before, 0], dtype=torch.bool), scales.neighbour_mask], dim=1)
