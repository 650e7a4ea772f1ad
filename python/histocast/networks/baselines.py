"""Two networks of the literature as baselines, over the same frozen features and under the same protocol.

`StNet`: a head on the tile's features alone (He et al. 2020, whose network is trained from pixels).
`Bleep`: image and expression brought to one space by contrast, prediction by retrieval (Xie et al. 2023).
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from histocast.networks.layers import Config, Projection, Spots
from histocast.networks.losses import Losses, correlation_loss
from histocast.networks.network import Asked, Labels, Network, Rows


class StNetConfig(Config):
    """A head on the target tile."""

    hidden: int = Field(default=0, ge=0)
    """Width of a hidden layer; 0 for the linear head of ST-Net."""
    input_dropout: float = Field(default=0.2, ge=0, lt=1)
    correlation: float = Field(default=0.0, ge=0)


class StNet(Network):
    """Target features to the panel; parameters are those of `Dkan`."""

    takes_genes = False
    takes_nuclei = False

    def __init__(
        self,
        config: StNetConfig,
        *,
        features: int,
        genes: int,
        panel_text: Tensor | None,  # noqa: ARG002 - built alike
        target_features: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        width = target_features or features
        wide = config.hidden or width
        body = [nn.Linear(width, wide), nn.GELU()] if config.hidden else []
        self.head = nn.Sequential(nn.Dropout(config.input_dropout), *body, nn.Linear(wide, genes))

    def forward(self, spots: Spots, gene: Tensor | None = None) -> Float[Tensor, "spot gene"]:  # noqa: ARG002 - asked alike of all networks
        """Expression of the panel."""
        return self.head(spots.target.mean(dim=1))  # type: ignore[no-any-return]

    def losses(self, spots: Spots, labels: Labels, *, rows: Rows, genes: Asked) -> Losses:
        """Squared error on the spots ``rows`` and the panel genes ``genes``."""
        predicted, truth = self(spots)[rows][:, genes], labels[rows][:, genes]
        error = functional.mse_loss(predicted, truth)
        return Losses(error + self.config.correlation * correlation_loss(predicted, truth), {"error": error})


class BleepConfig(Config):
    """Contrast and retrieval."""

    dim: int = Field(default=64, gt=0)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    temperature: float = Field(default=1.0, gt=0)
    retrieved: int = Field(default=50, gt=0)
    """Training spots whose expression is averaged."""


class Bleep(Network):
    """Contrastive retrieval; parameters are those of `Dkan`.

    `remember` gives it the training spots it retrieves from. They become part of the network: a bundle of it
    carries the labels of its training spots.
    """

    takes_genes = False
    takes_nuclei = False

    def __init__(
        self,
        config: BleepConfig,
        *,
        features: int,
        genes: int,
        panel_text: Tensor | None,  # noqa: ARG002 - built alike
        target_features: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.image = Projection(target_features or features, config.dim, dropout=config.dropout)
        self.expression = Projection(genes, config.dim, dropout=config.dropout)
        self.register_buffer("bank", torch.zeros(0, genes))
        self.register_buffer("measured", None)
        self.bank: Tensor
        self.measured: Tensor | None

    def remember(self, labels: Float[Tensor, "known gene"]) -> None:
        """Keep the labels of the training spots; NaN where a gene was not measured."""
        self.bank = labels.clone()
        missing = labels.isnan()
        if missing.any():
            mean = labels.nanmean(dim=0).nan_to_num()
            self.bank = torch.where(missing, mean, labels)
            self.measured = (~missing).to(labels.dtype)

    def forward(self, spots: Spots, gene: Tensor | None = None) -> Float[Tensor, "spot gene"]:  # noqa: ARG002 - asked alike of all networks
        """Mean expression of the training spots nearest in the common space."""
        image = functional.normalize(self.image(spots.target.mean(dim=1)), dim=-1)
        known = functional.normalize(self.expression(self.bank), dim=-1)
        near = (image @ known.T).topk(min(self.config.retrieved, len(self.bank)), dim=-1).indices
        if self.measured is None:
            return self.bank[near].mean(dim=1)
        # Each gene is the mean of those spots that measured it, else that of all training spots.
        weight = self.measured[near] + 1e-6
        return (self.bank[near] * weight).sum(dim=1) / weight.sum(dim=1)

    def losses(self, spots: Spots, labels: Labels, *, rows: Rows, genes: Asked) -> Losses:  # noqa: ARG002 - an embedding of expression takes the whole panel
        """Cross-entropy both ways towards the mean of the similarities within both sides.

        Rows of the transposed aim are brought to a sum of 1, so that every spot weighs alike; not so as published.
        """
        image = self.image(spots.target[rows].mean(dim=1))
        expression = self.expression(labels[rows])
        temperature = self.config.temperature
        across = image @ expression.T / temperature
        within = (image @ image.T + expression @ expression.T) / 2 / temperature
        aim = torch.softmax(within, dim=-1).detach()
        one = functional.cross_entropy(across, aim)
        other = functional.cross_entropy(across.T, aim.T / aim.T.sum(dim=-1, keepdim=True))
        return Losses((one + other) / 2, {"contrastive": (one + other) / 2})
