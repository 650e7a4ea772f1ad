"""What networks are trained on: errors, agreement of branches, correlation and contrast."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Weights = Literal["adaptive", "reciprocal", "fixed"]


@dataclass(frozen=True)
class Losses:
    """The number that is made smaller, and what it is made of."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]


def supervised_loss(
    predicted: Float[Tensor, "spot gene"],
    labels: Float[Tensor, "spot gene"],
    branches: Iterable[Float[Tensor, "spot gene"]],
    *,
    distillation: float,
) -> Float[Tensor, ""]:
    """MSE(y^, y) + the sum over branches b of (1 - d) MSE(y_b, y) + d MSE(y^, y_b), with d = 0.3 as published.

    At ``distillation`` 0 the branches learn from the labels alone.
    """
    total = functional.mse_loss(predicted, labels)
    for branch in branches:
        total = total + (1 - distillation) * functional.mse_loss(branch, labels)
        if distillation > 0:
            total = total + distillation * functional.mse_loss(predicted, branch)
    return total


def correlation_loss(
    predicted: Float[Tensor, "spot gene"], labels: Float[Tensor, "spot gene"], *, epsilon: float = 1e-6
) -> Float[Tensor, ""]:
    """1 - the mean over genes of Pearson over the spots; a gene that does not vary counts as uncorrelated."""
    first = predicted - predicted.mean(dim=0)
    second = labels - labels.mean(dim=0)
    scale = (first.square().sum(dim=0) * second.square().sum(dim=0) + epsilon).sqrt()
    return 1.0 - ((first * second).sum(dim=0) / scale).mean()


def contrastive_loss(
    image: Float[Tensor, "row dim"], expression: Float[Tensor, "row dim"], *, temperature: float
) -> Float[Tensor, ""]:
    """InfoNCE in one direction: each image row finds its expression row among all, by cosine."""
    scores = functional.normalize(image, dim=-1) @ functional.normalize(expression, dim=-1).T / temperature
    return functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def loss_weights(
    supervised: Tensor, contrastive: Tensor, *, kind: Weights, contrast_share: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Weights of the two losses from their present sizes, outside the gradient.

    ``adaptive``
        L_c / (L_c + 3 L_s) and 3 L_s / (L_c + 3 L_s), as DKAN's release has it.
    ``reciprocal``
        Reciprocals, normalised to a sum of 1, as its paper writes.
    ``fixed``
        1 - ``contrast_share`` and ``contrast_share``.
    """
    first, second = supervised.detach(), contrastive.detach()
    if kind == "fixed":
        return torch.full_like(first, 1.0 - contrast_share), torch.full_like(first, contrast_share)
    thrice = (3.0 if kind == "adaptive" else 1.0) * first
    total = (second + thrice).clamp(min=1e-12)
    return second / total, thrice / total
