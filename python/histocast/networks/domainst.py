"""DomainST: a mixture of experts over image and gene text (Information Fusion 127 (2026) 103746).

The fused image of a spot meets the descriptions of the panel in three ways: their mean beside it, added to it, and
attended to by it. A dense gate, read from the image, weighs the three. The last layer has one row per gene: genes
outside the training panel cannot be predicted, and experts ``concat`` and ``additive`` see one constant text.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from histocast.networks.layers import Attention, Branch, Config, GeneTokens, Spots
from histocast.networks.losses import Losses, correlation_loss, supervised_loss
from histocast.networks.network import Asked, Labels, Network, Rows
from histocast.networks.trunk import PUBLISHED, Trunk, TrunkConfig

Expert = Literal["concat", "additive", "attention"]

BRANCHES: tuple[Branch, ...] = ("target", "neighbour", "context")

TEXT_HEADS = 4


class DomainStConfig(Config):
    """Every part of DomainST, each an ablation by itself."""

    trunk: TrunkConfig = TrunkConfig()
    experts: tuple[Expert, ...] = ("concat", "additive", "attention")
    """None goes straight from the fused image to the genes."""
    gene_text: bool = True
    """Tokens from descriptions; else learned a gene."""
    centre_text: bool = True
    """Standardise texts over the panel; not so as published."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Within experts; 0 as published."""
    distillation: float = Field(default=0.3, ge=0, le=1)
    correlation: float = Field(default=0.5, ge=0)
    """Weight of 1 - Pearson in the loss; 0 as published."""


def faithful_domainst(data_set: str) -> DomainStConfig:
    """The published configuration for ``her2st``, ``cscc`` or ``stnet``."""
    return DomainStConfig(
        trunk=TrunkConfig(dim=512, sizes=PUBLISHED[data_set], target_encoder="resnet50_layer2"),
        dropout=0.0,
        correlation=0.0,
        centre_text=False,
    )


class MixtureOfExperts(nn.Module):
    """Image and gene text joined by up to three experts under a dense gate."""

    def __init__(self, dim: int, experts: tuple[Expert, ...], *, dropout: float) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({name: self._expert(name, dim, dropout) for name in experts})
        self.attention = Attention(dim, heads=TEXT_HEADS, dropout=0.0) if "attention" in experts else None
        self.gate = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, len(experts)), nn.Softmax(dim=-1))
        self.out = nn.Linear(dim, dim)

    def forward(self, image: Float[Tensor, "spot dim"], text: Float[Tensor, "gene dim"]) -> Float[Tensor, "spot dim"]:
        """The experts' answers, weighed by the gate."""
        mean = text.mean(dim=0).expand_as(image)
        answers = []
        for name, expert in self.experts.items():
            if name == "concat":
                given = torch.cat([image, mean], dim=-1)
            elif name == "additive" or self.attention is None:
                given = image + mean
            else:
                given = self.attention(image[None], text[None])[0]
            answers.append(expert(given))
        weights = self.gate(image)
        return self.out((torch.stack(answers, dim=-1) * weights[:, None]).sum(dim=-1))  # type: ignore[no-any-return]

    @staticmethod
    def _expert(name: Expert, dim: int, dropout: float) -> nn.Module:
        width = 2 * dim if name == "concat" else dim
        return nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.ReLU())


class DomainSt(Network):
    """DomainST over frozen features, or over those of a target encoder that is trained with it.

    Parameters are those of `Dkan`.
    """

    takes_nuclei = False
    takes_genes = False
    """Texts are part of the network: the panel is all it predicts."""

    def __init__(
        self,
        config: DomainStConfig,
        *,
        features: int,
        genes: int,
        panel_text: Tensor | None,
        target_features: int | None = None,
    ) -> None:
        super().__init__()
        dim = config.trunk.dim
        self.config = config
        self.trunk = Trunk(
            config.trunk, features=features, genes=genes, branches=BRANCHES, target_features=target_features
        )
        self.mixture: MixtureOfExperts | None = None
        if config.experts:
            text = panel_text if config.gene_text else None
            self.genes = GeneTokens(text, genes=genes, dim=dim, size=None, centre=config.centre_text)
            self.mixture = MixtureOfExperts(dim, config.experts, dropout=config.dropout)
        self.read = nn.Linear(dim, genes)

    def forward(self, spots: Spots, gene: Tensor | None = None) -> Float[Tensor, "spot gene"]:  # noqa: ARG002 - asked alike of all networks
        """Expression of the panel."""
        return self._predict(self.trunk(spots).fused)

    def losses(self, spots: Spots, labels: Labels, *, rows: Rows, genes: Asked) -> Losses:
        """Losses on the spots ``rows`` and the panel genes ``genes``; all spots of the region give context."""
        scales = self.trunk(spots, rows)
        predicted, truth = self._predict(scales.fused)[:, genes], labels[rows][:, genes]
        branches = [values[:, genes] for values in scales.branches.values()]
        supervised = supervised_loss(predicted, truth, branches, distillation=self.config.distillation)
        parts = {"supervised": supervised}
        total = supervised
        if self.config.correlation:
            parts["correlation"] = correlation_loss(predicted, truth)
            total = total + self.config.correlation * parts["correlation"]
        return Losses(total, parts)

    def _predict(self, fused: Float[Tensor, "row dim"]) -> Float[Tensor, "row gene"]:
        mixed = fused if self.mixture is None else self.mixture(fused, self.genes())
        return self.read(mixed)  # type: ignore[no-any-return]
