"""What a network is: the one interface that training, ensembles and export use."""

from abc import abstractmethod
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor, nn

from histocast.networks.layers import Spots
from histocast.networks.losses import Losses

Labels = Float[Tensor, "spot gene"]
Rows = Int[Tensor, " row"]
"""Spots that losses are taken on."""
Asked = Int[Tensor, " asked"]
"""Genes of the panel that they are taken on."""


class Network(nn.Module):
    """Predicts the expression of spots; a new method implements `forward` and `losses`.

    It is built with its configuration and ``features`` (width of a spot's features), ``genes`` (number of the panel's
    genes), ``panel_text`` [gene, text] and, where it looks at no other spot's target, ``target_features``.
    """

    takes_genes: bool
    """Whether `forward` takes the texts of genes, and so predicts genes outside its panel."""
    takes_nuclei: bool
    """Whether it looks at `Spots.nuclei`."""

    @abstractmethod
    def forward(self, spots: Spots, gene: Float[Tensor, "gene text"] | None = None) -> Float[Tensor, "spot gene2"]:
        """Expression of the panel, or of the genes whose texts are given where it takes genes."""

    @abstractmethod
    def losses(self, spots: Spots, labels: Labels, *, rows: Rows, genes: Asked) -> Losses:
        """The loss on the spots ``rows`` and the panel genes ``genes``."""

    if TYPE_CHECKING:

        def __call__(self, spots: Spots, gene: Tensor | None = None) -> Tensor: ...  # noqa: D102 - `forward`
