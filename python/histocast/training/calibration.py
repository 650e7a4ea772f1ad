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
    labels: NDArray[np.floating],
    predicted: NDArray[np.floating],
    sd: NDArray[np.floating],
    *,
    coverage: float,
    patient: NDArray[np.integer] | None = None,
) -> NDArray[np.float64]:
    """Half-width of the interval of each gene, in units of sd: [gene].

    The ceil((n + 1) coverage)-th smallest of the n held-out residuals in units of their sd (split conformal,
    Papadopoulos et al. 2002): covers a new spot of an exchangeable section with at least ``coverage``. Residuals that
    are not known (NaN) do not count; a gene without any has the half-width NaN.

    ``labels``, ``predicted``, ``sd``: [spot, gene].
    ``patient``: [spot] number of its patient. Every patient then has the same weight, however many spots it has, since
        it is patients that a new one is exchangeable with. Without it every spot has.
    """
    scores = np.abs(labels - predicted) / sd
    order = np.argsort(scores, axis=0, kind="stable")  # NaN comes last
    known = ~np.isnan(scores)
    weight = known / _known_of_patient(known, np.zeros(len(scores), np.int64) if patient is None else patient)
    count = known.sum(axis=0)
    total = np.maximum(weight.sum(axis=0), 1e-12)
    share = np.cumsum(np.take_along_axis(weight, order, axis=0), axis=0) / total
    enough = share >= np.minimum(coverage * (count + 1) / np.maximum(count, 1), 1.0) - 1e-9
    place = np.where(enough.any(axis=0), enough.argmax(axis=0), np.maximum(count, 1) - 1)
    widths: NDArray[np.float64] = np.take_along_axis(scores, np.take_along_axis(order, place[None], axis=0), axis=0)[0]
    return widths.astype(np.float64)


def _known_of_patient(known: NDArray[np.bool_], patient: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many residuals of a gene the patient of a spot has, at least 1: [spot, gene]."""
    _, index = np.unique(patient, return_inverse=True)
    count = np.zeros((index.max(initial=0) + 1, known.shape[1]), np.int64)
    np.add.at(count, index, known)
    return np.maximum(count, 1)[index]


def fit_out_of_distribution(
    features: NDArray[np.floating], group: NDArray[np.integer], *, column: str
) -> OutOfDistribution:
    """Mean and sd of the training tiles, and the distance that 99 % of held-out tiles stay within.

    ``features``: [tile, ...] as they stand in ``features.parquet``, not standardised within a slide.
    ``group``: [tile]: each group is scored by the statistics of the others, or a slide's own stain would count as near.
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
