"""Ridge regression from a spot and its neighbourhood: the first method, and the control of all others.

The design of a spot is its own features beside the mean over its 3 x 3 and its 5 x 5 neighbourhood. Weights
are solved in closed form (Hoerl and Kennard 1970) for all genes at once; one penalty is chosen for the panel
on sections, or patients, held out within the training data. The same held-out residuals give ``sd``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from histocast.bundle import NEIGHBOUR_SIDE
from histocast.networks.correlation import mean_section_pearson
from histocast.networks.layers import Config
from histocast.networks.measured import heldout_sd
from histocast.networks.ridge_solution import Decomposition, Solution

Scale = Literal["target", "3x3", "5x5"]


Target = Float[Tensor, "spot dim"]
Neighbour = Float[Tensor, "spot 25 dim"]
Mask = Bool[Tensor, "spot 25"]
Predicted = tuple[Float[Tensor, "spot gene"], Float[Tensor, "spot gene"]]


class RidgeOptions(Config):
    """Options of the method ``ridge``."""

    scales: tuple[Scale, ...] = Field(default=("target", "3x3", "5x5"), min_length=1)
    """Neighbourhoods whose mean features form the design, in this order."""
    alphas: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        default=tuple(float(10 ** (p / 4)) for p in range(-12, 13)), min_length=1
    )
    """Penalties tried, per spot: the loss is mean squared error + alpha |w|^2 on standardised features."""
    choose_by: Literal["pearson", "mse"] = "pearson"
    """What the penalty is chosen by on held-out sections. Pearson is the figure the field reports."""


def neighbourhood_weights(scale: Scale) -> NDArray[np.float32]:
    """Which of the 25 lattice points belong to ``scale``: float32 [25], row-major."""
    reach = {"target": 0, "3x3": 1, "5x5": 2}[scale]
    steps = np.abs(np.arange(NEIGHBOUR_SIDE) - NEIGHBOUR_SIDE // 2) <= reach
    return (steps[:, None] & steps[None, :]).astype(np.float32).reshape(-1)


class ScaleMeans(nn.Module):
    """Target features beside masked neighbourhood means."""

    def __init__(self, scales: Sequence[Scale]) -> None:
        super().__init__()
        self.scales = tuple(scales)
        wide = [neighbourhood_weights(scale) for scale in self.scales if scale != "target"]
        self.register_buffer("members", torch.tensor(np.array(wide).reshape(-1, NEIGHBOUR_SIDE**2)))
        self.members: Tensor

    def forward(self, target: Target, neighbour: Neighbour, neighbour_mask: Mask) -> Float[Tensor, "spot design"]:
        """Concatenate the scales along the last axis."""
        parts, wide = [], 0
        for scale in self.scales:
            if scale == "target":
                parts.append(target)
                continue
            weight = neighbour_mask.to(target.dtype) * self.members[wide]
            total = (neighbour * weight.unsqueeze(-1)).sum(dim=1)
            # An unreadable spot alone in its neighbourhood has no member at all; its mean is then 0.
            parts.append(total / weight.sum(dim=1, keepdim=True).clamp(min=1.0))
            wide += 1
        return torch.cat(parts, dim=-1)


class RidgeFusion(nn.Module):
    """The fusion graph of ridge: features of spots to expression and its sd.

    ``sd`` of a spot is the held-out residual sd of the gene, times sqrt(1 + leverage) of the spot: it grows
    for spots unlike the training data (the predictive variance of linear regression).
    """

    def __init__(self, scales: Sequence[Scale], solution: Solution, *, residual_sd: NDArray[np.float64]) -> None:
        super().__init__()
        self.means = ScaleMeans(scales)
        for name, values in {
            "mean": solution.mean,
            "inverse_sd": 1.0 / solution.sd,
            "weight": solution.weight,
            "intercept": solution.intercept,
            "spread": solution.spread,
            "residual_sd": residual_sd,
        }.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.mean: Tensor
        self.inverse_sd: Tensor
        self.weight: Tensor
        self.intercept: Tensor
        self.spread: Tensor
        self.residual_sd: Tensor

    def forward(self, target: Target, neighbour: Neighbour, neighbour_mask: Mask) -> Predicted:
        """Return ``expression`` and ``sd``, both [spot, gene]."""
        return self.read(self.means(target, neighbour, neighbour_mask))

    def read(self, design: Float[Tensor, "spot design"]) -> Predicted:
        """Expression and sd of a design."""
        design = (design - self.mean) * self.inverse_sd
        leverage = (design @ self.spread).square().sum(dim=-1, keepdim=True)
        return design @ self.weight + self.intercept, self.residual_sd * (1.0 + leverage).sqrt()


@dataclass(frozen=True)
class RidgeFit:
    """A trained ridge, or kernel ridge, and what the held-out groups said of it."""

    module: RidgeFusion
    solution: Solution
    alpha: float
    score: float
    """Held-out score of ``alpha``: mean per-gene Pearson, or negative mean squared error."""
    choices: dict[str, Any]
    """What was chosen on held-out spots, for the record; ``scores`` by what was tried."""
    heldout_expression: NDArray[np.float64]
    """[spot, gene]: every training spot predicted by a model that had not seen its group's labels."""
    heldout_sd: NDArray[np.float64]
    """[spot, gene]."""


@dataclass(frozen=True)
class HeldOut:
    """The best penalty, and what held-out groups are predicted as with it."""

    alpha: float
    score: float
    scores: dict[float, float]
    """By penalty: mean per-gene Pearson, or negative mean squared error."""
    expression: NDArray[np.float64]
    """[spot, gene]."""
    leverage: NDArray[np.float64]
    """[spot]."""


def choose_penalty(
    design: NDArray[np.floating],
    labels: NDArray[np.floating],
    *,
    section: NDArray[np.integer],
    group: NDArray[np.integer],
    options: RidgeOptions,
    standardise: bool = True,
) -> HeldOut:
    """Try every penalty with one group left out at a time; parameters as `fit_ridge` and `Decomposition`."""
    left_out = [group == number for number in np.unique(group)]
    parts = [Decomposition(design[~test], labels[~test], standardise=standardise) for test in left_out]
    heldout = {alpha: np.zeros(labels.shape) for alpha in options.alphas}
    for alpha in options.alphas:
        for test, part in zip(left_out, parts, strict=True):
            heldout[alpha][test] = part.solve(alpha).predict(design[test])
    scores = {alpha: _score(labels, heldout[alpha], section, options.choose_by) for alpha in options.alphas}
    alpha = max(options.alphas, key=lambda value: scores[value])
    leverage = np.zeros(len(labels))
    for test, part in zip(left_out, parts, strict=True):
        leverage[test] = part.solve(alpha).leverage(design[test])
    return HeldOut(alpha, scores[alpha], scores, heldout[alpha], leverage)


def fit_ridge(
    design: NDArray[np.floating],
    labels: NDArray[np.floating],
    *,
    section: NDArray[np.integer],
    group: NDArray[np.integer],
    options: RidgeOptions,
) -> RidgeFit:
    """Choose the penalty with one group left out at a time, then fit on all.

    ``design``: [spot, design] as `ScaleMeans` gives it.
    ``labels``: [spot, gene]; NaN where a gene was not measured.
    ``section``: [spot]: Pearson is computed within a section.
    ``group``: [spot]: what is left out together, patients or sections; at least two.
    """
    held = choose_penalty(design, labels, section=section, group=group, options=options)
    scores = {f"{alpha:g}": score for alpha, score in held.scores.items()}
    return finish_ridge(
        held,
        Decomposition(design, labels),
        labels,
        make_module=partial(RidgeFusion, options.scales),
        choices={"alpha": held.alpha, "scores": scores},
    )


def finish_ridge(
    held: HeldOut,
    whole: Decomposition,
    labels: NDArray[np.floating],
    *,
    make_module: Callable[..., RidgeFusion],
    choices: dict[str, Any],
    unexplained: NDArray[np.float64] | float = 0.0,
) -> RidgeFit:
    """Fit on all spots with the penalty that did best on those held out.

    ``whole``: of all training spots.
    ``make_module``: takes the solution and ``residual_sd``.
    ``unexplained``: [spot] leverage of what the design leaves out.
    """
    growth = np.sqrt(1.0 + held.leverage + unexplained)[:, None]
    # A gene without any residual (never counted) still needs a positive sd to divide by.
    residual_sd = np.maximum(heldout_sd(labels, held.expression, growth=growth), 1e-6)
    solution = whole.solve(held.alpha)
    module = make_module(solution, residual_sd=residual_sd).eval()
    return RidgeFit(module, solution, held.alpha, held.score, choices, held.expression, growth * residual_sd)


def _score(
    labels: NDArray[np.floating],
    predicted: NDArray[np.float64],
    section: NDArray[np.integer],
    choose_by: Literal["pearson", "mse"],
) -> float:
    if choose_by == "mse":
        squares = (labels - predicted) ** 2
        return -float(np.mean(squares[~np.isnan(squares)] if np.isnan(squares).any() else squares))
    return float(np.nanmean(mean_section_pearson(labels, predicted, section)))
