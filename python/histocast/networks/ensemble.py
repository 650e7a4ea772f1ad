"""Networks trained on different folds as one fusion graph: their mean, and how far they and the truth are apart."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from histocast.networks.layers import Spots
from histocast.networks.network import Network

INPUTS = ("target", "neighbour", "neighbour_mask", "context", "grid_xy")
"""What every network is given; ``gene`` and ``nuclei`` follow where it takes them."""

SAME_TEXT = 1e-4
"""Squared distance of unit-length texts at which two genes share their statistics half and half."""


def graph_inputs(network: Network) -> tuple[str, ...]:
    """Names of the inputs of a network's graph, in order."""
    return INPUTS + ("gene",) * network.takes_genes + ("nuclei",) * network.takes_nuclei


class Member(nn.Module):
    """A network that predicts genes in units of their sd, and what brings them back to the labels' scale.

    ``learned``: bool [gene]: which genes any of its training spots measured; None where all were.
    """

    def __init__(
        self, network: Network, *, offset: Tensor, scale: Tensor, learned: Bool[Tensor, " gene"] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offset", offset)
        self.register_buffer("scale", scale)
        self.register_buffer("learned", None if learned is None else learned.to(scale.dtype))
        self.offset: Tensor
        self.scale: Tensor
        self.learned: Tensor | None

    def forward(
        self, spots: Spots, gene: Tensor | None, of_genes: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "spot gene"]:
        """Expression; ``of_genes`` takes what is known of the panel [gene] to the genes asked for."""
        return self.network(spots, gene) * of_genes(self.scale) + of_genes(self.offset)


class Ensemble(nn.Module):
    """The fusion graph of the networks.

    ``expression`` is the mean of the members that learned the gene. ``sd`` is the root of the variance between them plus that of
    held-out residuals. A gene outside the training panel takes mean, scale and residual of the panel genes whose
    texts are near, each weighed by 1 / distance^4; a panel gene takes its own.

    ``residual_sd``: [gene] of the training panel.
    ``panel_text``: [gene, text], where the members take genes.
    """

    def __init__(
        self, members: Sequence[Member], *, residual_sd: Float[Tensor, " gene"], panel_text: Tensor | None
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        network = members[0].network
        self.inputs = graph_inputs(network)
        self.takes_genes = network.takes_genes
        self.register_buffer("residual_sd", residual_sd)
        self.register_buffer("panel_text", panel_text if self.takes_genes else None)
        self.residual_sd: Tensor
        self.panel_text: Tensor | None

    def forward(
        self,
        target: Float[Tensor, "spot feature"] | Float[Tensor, "spot token feature"],
        neighbour: Float[Tensor, "spot 25 feature"],
        neighbour_mask: Bool[Tensor, "spot 25"],
        context: Float[Tensor, "spot feature"],
        grid_xy: Int[Tensor, "spot 2"],
        first: Tensor | None = None,
        second: Tensor | None = None,
    ) -> tuple[Float[Tensor, "spot gene"], Float[Tensor, "spot gene"]]:
        """``expression`` and ``sd``; ``first`` and ``second`` are ``gene`` and ``nuclei``, as far as taken."""
        extra = dict(zip(self.inputs[len(INPUTS) :], (first, second), strict=False))
        gene = extra.get("gene")
        spots = Spots(
            target=target[:, None] if target.ndim == 2 else target,
            neighbour=neighbour,
            neighbour_mask=neighbour_mask,
            context=context,
            grid_xy=grid_xy,
            nuclei=extra.get("nuclei"),
        )
        shares = None if gene is None or self.panel_text is None else text_shares(gene, self.panel_text)

        def of_genes(values: Tensor) -> Tensor:
            return values if shares is None else shares @ values

        found = torch.stack([member(spots, gene, of_genes) for member in self.members])
        weights = self._weights(of_genes)
        if weights is None:
            mean = found.mean(dim=0)
            variance = (found - mean).square().mean(dim=0)
        else:
            mean = (weights * found).sum(dim=0)
            variance = (weights * (found - mean).square()).sum(dim=0)
        return mean, (variance + of_genes(self.residual_sd).square()).sqrt()

    def _weights(self, of_genes: Callable[[Tensor], Tensor]) -> Float[Tensor, "member 1 gene"] | None:
        """Share of each member in each gene, where some did not learn all of them."""
        members: list[Any] = list(self.members)
        if all(member.learned is None for member in members):
            return None
        learned = [torch.ones_like(each.scale) if each.learned is None else each.learned for each in members]
        weights = torch.stack([of_genes(values) for values in learned])[:, None]
        return weights / weights.sum(dim=0)


def text_shares(asked: Float[Tensor, "gene text"], panel: Float[Tensor, "known text"]) -> Float[Tensor, "gene known"]:
    """Weights of panel genes for each gene asked for, by inverse distance (Shepard 1968); rows sum to 1."""
    likeness = functional.normalize(asked, dim=-1) @ functional.normalize(panel, dim=-1).T
    distance = (2.0 - 2.0 * likeness).clamp(min=0.0)
    weights = 1.0 / (distance + SAME_TEXT).square()
    return weights / weights.sum(dim=-1, keepdim=True)
