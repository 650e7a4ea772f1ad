"""What held-out sections say of a model's certainty: intervals, and the distance that is too far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histocast.bundle import OutOfDistribution

OOD_QUANTILE = 0.99
"""Share of held-out training tiles that are not flagged."""

RELATIVE_SD_FLOOR = 1e-3
"""Features are stored with 11 bits: variation below this share of their size is rounding."""


def conformal_half_widths(
    labels: NDArray[np.floating], predicted: NDArray[np.floating], sd: NDArray[np.floating], *, coverage: float
) -> NDArray[np.float64]:
    """Half-width of the interval of each gene, in units of sd: [gene].

    The ceil((n + 1) coverage)-th smallest of the n held-out residuals in units of their sd (split conformal,
    Papadopoulos et al. 2002): covers a new spot of an exchangeable section with at least ``coverage``. Residuals that
    are not known (NaN) do not count; a gene without any has the half-width NaN.
    """
    # NaN comes last.
    scores = np.sort(np.abs(labels - predicted) / sd, axis=0)
    count = (~np.isnan(scores)).sum(axis=0)
    rank = np.clip(np.ceil((count + 1) * coverage).astype(np.int64), 1, np.maximum(count, 1))
    widths: NDArray[np.float64] = np.take_along_axis(scores, rank[None] - 1, axis=0)[0].astype(np.float64)
    return widths


def fit_out_of_distribution(
    features: NDArray[np.floating], group: NDArray[np.integer], *, column: str
) -> OutOfDistribution:
    """Mean and sd of the training tiles, and the distance that 99 % of held-out tiles stay within.

    Parameters
    ----------
    features:
        [tile, ...] as they stand in ``features.parquet``, not standardised within a slide.
    group:
        [tile]: each group is scored by the statistics of the others, or a slide's own stain would count as near.
    """
    values = np.asarray(features, np.float64).reshape(len(features), -1)
    scores = np.empty(len(values))
    for left_out in np.unique(group):
        test = group == left_out
        mean, sd = _moments(values[~test])
        scores[test] = ood_scores(values[test], mean, sd)
    mean, sd = _moments(values)
    return OutOfDistribution(
        column=column,
        mean=tuple(mean.tolist()),
        sd=tuple(sd.tolist()),
        threshold=float(np.quantile(scores, OOD_QUANTILE)),
    )


def ood_scores(
    features: NDArray[np.floating], mean: NDArray[np.float64], sd: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Root mean square of standardised features: [tile] (see `bundle.OutOfDistribution`)."""
    scores: NDArray[np.float64] = np.sqrt((((features - mean) / sd) ** 2).mean(axis=1))
    return scores


def _moments(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mean = values.mean(axis=0)
    return mean, np.maximum(values.std(axis=0), np.maximum(RELATIVE_SD_FLOOR * np.abs(mean), 1e-6))
