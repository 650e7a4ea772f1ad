"""Kernel ridge regression: ridge on how alike a spot is to landmarks of the training set, without a network.

The kernel is Gaussian on the standardised design of ridge (a spot beside its 3 x 3 and 5 x 5 neighbourhood). Landmarks
are the training spots, or some of them drawn at random where there are many (Williams and Seeger 2001). The leading
components of their kernel matrix make a spot a short vector, on which everything is ridge. Width and penalty are chosen
on held-out training spots.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor

from histocast.errors import ConfigError
from histocast.networks.ridge import (
    HeldOut,
    Predicted,
    RidgeFit,
    RidgeFusion,
    RidgeOptions,
    Scale,
    choose_penalty,
    finish_ridge,
)
from histocast.networks.ridge_solution import Decomposition, Solution, feature_sd
from histocast.records import first_fault

LEAST_EIGENVALUE = 1e-4
"""Components below it are rounding: dividing by them would blow single precision up."""


class KernelRidgeOptions(RidgeOptions):
    """Options of the method ``kernel-ridge``."""

    alphas: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        default=tuple(float(10 ** (p / 4)) for p in range(-16, -3)), min_length=1
    )
    widths: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        default=(0.1, 0.2, 0.4), min_length=1
    )
    """Kernel widths tried: exp(-width * mean squared difference of standardised features)."""
    landmarks: int = Field(default=1024, ge=2)
    """Most training spots that a spot is compared with."""
    components: int = Field(default=255, ge=1)
    """Most components of their kernel matrix."""
    seed: int = 0
    """Draws the landmarks."""


def read_linear_options(method: str, options: Mapping[str, Any], *, where: str) -> RidgeOptions:
    """Options of ``ridge`` or ``kernel-ridge`` in a recipe; raises `ConfigError` where one is unknown or out of range."""
    kind = RidgeOptions if method == "ridge" else KernelRidgeOptions
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(f"options.{first_fault(error)}", where=where) from error


@dataclass(frozen=True)
class KernelMap:
    """Designs to components of their kernel with the landmarks."""

    mean: NDArray[np.float64]
    """[design]."""
    sd: NDArray[np.float64]
    """[design]."""
    width: float
    landmarks: NDArray[np.float64]
    """[landmark, design], standardised."""
    whitening: NDArray[np.float64]
    """[landmark, component]."""

    @classmethod
    def over(cls, design: NDArray[np.floating], *, width: float, options: KernelRidgeOptions) -> "KernelMap":
        """The map of a training design [spot, design]."""
        values = np.asarray(design, np.float64)
        mean, sd = values.mean(axis=0), feature_sd(values)
        chosen = np.random.default_rng(options.seed).permutation(len(values))[: options.landmarks]
        landmarks = (values[np.sort(chosen)] - mean) / sd
        eigenvalues, vectors = np.linalg.eigh(_kernel(landmarks, landmarks, width))
        kept = np.argsort(eigenvalues)[::-1][: options.components]
        kept = kept[eigenvalues[kept] > LEAST_EIGENVALUE]
        return cls(mean, sd, width, landmarks, vectors[:, kept] / np.sqrt(eigenvalues[kept]))

    def __call__(self, design: NDArray[np.floating]) -> NDArray[np.float64]:
        """[spot, component]; its squared length is 1 at a landmark and falls to 0 far from all of them."""
        standard = (np.asarray(design, np.float64) - self.mean) / self.sd
        found: NDArray[np.float64] = _kernel(standard, self.landmarks, self.width) @ self.whitening
        return found


def _kernel(first: NDArray[np.float64], second: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2.0 * first @ second.T
    return np.asarray(np.exp(-width / first.shape[1] * np.maximum(squares, 0.0)))


def novelty(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of a spot the landmarks do not explain: [spot], from 0 to 1."""
    return np.asarray(np.clip(1.0 - (components**2).sum(axis=1), 0.0, 1.0))


class KernelRidgeFusion(RidgeFusion):
    """The fusion graph: features of spots to expression and its sd.

    ``sd`` is that of ridge on all components of the kernel, those that were left out too: it grows with the distance of
    a spot from the landmarks (the variance of a Gaussian process).
    """

    def __init__(
        self,
        scales: Sequence[Scale],
        kernel: KernelMap,
        solution: Solution,
        *,
        residual_sd: NDArray[np.float64],
        unexplained: float,
    ) -> None:
        super().__init__(scales, solution, residual_sd=residual_sd)
        self.scale = kernel.width / len(kernel.mean)
        self.unexplained = unexplained
        for name, values in {
            "design_mean": kernel.mean,
            "design_inverse_sd": 1.0 / kernel.sd,
            "landmarks": kernel.landmarks.T,
            "squares": (kernel.landmarks**2).sum(axis=1),
            "whitening": kernel.whitening,
        }.items():
            self.register_buffer(name, torch.tensor(np.ascontiguousarray(values), dtype=torch.float32))
        self.design_mean: Tensor
        self.design_inverse_sd: Tensor
        self.landmarks: Tensor
        self.squares: Tensor
        self.whitening: Tensor

    def read(self, design: Float[Tensor, "spot design"]) -> Predicted:
        """Expression and sd of a design."""
        standard = (design - self.design_mean) * self.design_inverse_sd
        squares = standard.square().sum(dim=-1, keepdim=True) + self.squares - 2.0 * standard @ self.landmarks
        components = torch.exp(-self.scale * squares.clamp(min=0.0)) @ self.whitening
        left = (1.0 - components.square().sum(dim=-1, keepdim=True)).clamp(min=0.0, max=1.0)
        centred = components - self.mean
        leverage = (centred @ self.spread).square().sum(dim=-1, keepdim=True) + self.unexplained * left
        return centred @ self.weight + self.intercept, self.residual_sd * (1.0 + leverage).sqrt()


@dataclass(frozen=True)
class KernelRidgeFit(RidgeFit):
    """A trained kernel ridge and what the held-out groups said of it."""

    kernel: KernelMap

    def predict(self, design: NDArray[np.floating]) -> NDArray[np.float64]:
        """Expression [spot, gene] of a design as `ScaleMeans` gives it."""
        return self.solution.predict(self.kernel(design))


def fit_kernel_ridge(
    design: NDArray[np.floating],
    labels: NDArray[np.floating],
    *,
    section: NDArray[np.integer],
    group: NDArray[np.integer],
    options: KernelRidgeOptions,
) -> KernelRidgeFit:
    """Choose width and penalty with one group left out at a time, then fit on all; parameters as `fit_ridge`."""
    best: tuple[HeldOut, KernelMap, NDArray[np.float64]] | None = None
    scores: dict[str, float] = {}
    for width in options.widths:
        # Of features alone: a map that has seen the tiles of a group that is held out knows none of its labels.
        kernel = KernelMap.over(design, width=width, options=options)
        components = kernel(design)
        held = choose_penalty(components, labels, section=section, group=group, options=options, standardise=False)
        scores |= {f"{width:g}, {alpha:g}": score for alpha, score in held.scores.items()}
        if best is None or held.score > best[0].score:
            best = held, kernel, components
    if best is None:
        raise ValueError("no width to try")
    held, kernel, components = best
    unexplained = 1.0 / (held.alpha * len(components))
    dims = kernel.whitening.shape[1]
    tried = {"alpha": held.alpha, "width": kernel.width, "landmarks": len(kernel.landmarks), "components": dims}
    found = finish_ridge(
        held,
        Decomposition(components, labels, standardise=False),
        labels,
        make_module=partial(KernelRidgeFusion, options.scales, kernel, unexplained=unexplained),
        choices=tried | {"scores": scores},
        unexplained=unexplained * novelty(components),
    )
    return KernelRidgeFit(**vars(found), kernel=kernel)
