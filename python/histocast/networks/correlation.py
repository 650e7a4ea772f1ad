"""Pearson correlation per gene within sections: what every choice and every headline is made by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gene_pearson(truth: NDArray[np.floating], predicted: NDArray[np.floating]) -> NDArray[np.float64]:
    """Pearson of each gene over spots: [gene].

    NaN where the truth does not vary, since nothing could be predicted, and where truth or prediction is not known
    (NaN); 0 where only the prediction does not vary, since a constant map says nothing of a gene that varies.
    """
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if not len(truth):
        return np.full(truth.shape[1], np.nan)
    truth, predicted = truth - truth.mean(axis=0), predicted - predicted.mean(axis=0)
    # A constant leaves rounding of its own size behind when its mean is taken off.
    truth_norm, predicted_norm = np.sqrt((truth**2).sum(axis=0)), np.sqrt((predicted**2).sum(axis=0))
    varies = predicted_norm > 1e-9 * np.sqrt(len(truth))
    together = (truth * predicted).sum(axis=0)
    pearson = np.where(varies, together / np.where(varies, np.maximum(truth_norm, 1e-300) * predicted_norm, 1.0), 0.0)
    known = ~np.isnan(predicted_norm) & (truth_norm > 1e-9 * np.sqrt(len(truth)))
    return np.where(known, pearson, np.nan)


def mean_section_pearson(
    truth: NDArray[np.floating], predicted: NDArray[np.floating], section: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Mean over sections of each gene's Pearson within a section: [gene]; NaN where no section has it."""
    by_section = np.stack(
        [gene_pearson(truth[section == one], predicted[section == one]) for one in np.unique(section)]
    )
    known = ~np.isnan(by_section)
    count = known.sum(axis=0)
    total = np.where(known, by_section, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
