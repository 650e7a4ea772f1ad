"""Ridge in closed form: a training design, decomposed once, solved for any penalty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histocast.networks.measured import measured_together

# Components of the design kept for the leverage of a new spot: they bound the graph's size for wide encoders.
MAX_LEVERAGE_COMPONENTS = 256


@dataclass(frozen=True)
class Solution:
    """Weights for one penalty, in units of the standardised design."""

    mean: NDArray[np.float64]
    """[design]."""
    sd: NDArray[np.float64]
    """[design]."""
    weight: NDArray[np.float64]
    """[design, gene]."""
    intercept: NDArray[np.float64]
    """[gene]."""
    spread: NDArray[np.float64]
    """[design, component]: leverage is the squared norm of a standardised design times this."""

    def predict(self, design: NDArray[np.floating]) -> NDArray[np.float64]:
        """Expression [spot, gene]."""
        return (design - self.mean) / self.sd @ self.weight + self.intercept

    def leverage(self, design: NDArray[np.floating]) -> NDArray[np.float64]:
        """How far each spot lies outside the training design: [spot]."""
        leverage: NDArray[np.float64] = np.square((design - self.mean) / self.sd @ self.spread).sum(axis=1)
        return leverage


def feature_sd(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sd of each feature over spots; 1 for one that does not vary, which says nothing and is then 0 when centred."""
    mean, sd = values.mean(axis=0), values.std(axis=0)
    return np.asarray(np.where(sd > 1e-6 * np.maximum(np.abs(mean), 1.0), sd, 1.0))


class Decomposition:
    """Eigendecomposition of a training design, from which every penalty is solved at little cost.

    Genes that only some spots measured (labels NaN elsewhere) are solved on those spots, with features in the same
    units; the leverage is that of all spots.

    ``standardise``: whether features weigh alike in the penalty; otherwise as large as they are.
    """

    def __init__(self, design: NDArray[np.floating], labels: NDArray[np.floating], *, standardise: bool = True) -> None:
        values = np.asarray(design, np.float64)
        values_of_genes = np.asarray(labels, np.float64)
        self.mean = values.mean(axis=0)
        self.sd = feature_sd(values) if standardise else np.ones(values.shape[1])
        standard = (values - self.mean) / self.sd
        self.genes = values_of_genes.shape[1]
        self.all_spots = _Part(standard, np.zeros((len(values), 0)))
        self.parts: list[tuple[NDArray[np.int64], _Part]] = []
        for spots, genes in measured_together(values_of_genes):
            if len(genes) == self.genes and spots.all():
                part = _Part(standard, values_of_genes, like=self.all_spots)
            elif spots.all():
                part = _Part(standard, values_of_genes[:, genes], like=self.all_spots)
            elif spots.any():
                part = _Part(standard[spots], values_of_genes[np.ix_(spots, genes)])
            else:
                continue
            self.parts.append((genes, part))

    def solve(self, alpha: float) -> Solution:
        """Weights for the penalty ``alpha`` a spot; NaN for a gene that no spot measured."""
        weight = np.full((len(self.mean), self.genes), np.nan)
        intercept = np.full(self.genes, np.nan)
        for genes, part in self.parts:
            weight[:, genes], intercept[genes] = part.solve(alpha)
        whole = self.all_spots
        damped = whole.eigenvalues + alpha * whole.spots
        largest = np.argsort(whole.eigenvalues)[::-1][:MAX_LEVERAGE_COMPONENTS]
        return Solution(
            mean=self.mean,
            sd=self.sd,
            weight=weight,
            intercept=intercept,
            spread=whole.vectors[:, largest] / np.sqrt(damped[largest]),
        )


class _Part:
    """The decomposition for genes that the same spots measured.

    ``standard``: [spot, design] in units of the whole design, whose mean is 0 over all spots and not over some.
    ``like``: the decomposition of the same spots, where it is known.
    """

    def __init__(
        self, standard: NDArray[np.float64], labels: NDArray[np.float64], *, like: _Part | None = None
    ) -> None:
        self.spots = len(standard)
        self.mean = labels.mean(axis=0)
        self.centre: NDArray[np.float64] | None = None
        if like is None and labels.shape[1]:
            self.centre = standard.mean(axis=0)
            standard = standard - self.centre
        if like is None:
            eigenvalues, self.vectors = np.linalg.eigh(standard.T @ standard)
            self.eigenvalues = np.maximum(eigenvalues, 0.0)
        else:
            self.eigenvalues, self.vectors = like.eigenvalues, like.vectors
        self.projected = self.vectors.T @ (standard.T @ (labels - self.mean))

    def solve(self, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights [design, gene] and intercepts [gene]."""
        damped = self.eigenvalues + alpha * self.spots
        weight: NDArray[np.float64] = self.vectors @ (self.projected / damped[:, None])
        return weight, self.mean if self.centre is None else self.mean - self.centre @ weight
