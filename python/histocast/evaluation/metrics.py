"""How well a section was predicted: accuracy, spatial agreement and honesty of intervals.

All per-gene values are computed within one section; averages over genes leave out genes without variation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histocast.evaluation.truth import Truth
from histocast.networks.correlation import gene_pearson

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]

GOOD_PEARSON = 0.2
"""Pearson above which a gene counts as predicted at all (share reported)."""


LEAST_CEILING = 0.1
"""Noise ceiling below which a gene is hardly measured, so that a share of it would be noise."""

SLIDE_MEANS = ("mean_truth", "mean_predicted")
"""Metrics of a gene that are averaged over no genes: they are compared between sections."""


def gene_metrics(truth: Truth, predicted: NDArray[np.floating]) -> dict[str, Floats]:
    """Metrics of each gene, by name: [gene]; NaN where a gene does not vary or was not measured."""
    labels, values = np.asarray(truth.labels, np.float64), np.asarray(predicted, np.float64)
    # What is predicted of a gene that was not measured is not scored, whatever the metric.
    values = np.where(np.isnan(labels), np.nan, values)
    error = values - labels
    truth_variance = labels.var(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        collapse = np.where(truth_variance > 0, ((values.var(axis=0) - truth_variance) / truth_variance) ** 2, np.nan)
    pearson = gene_pearson(labels, values)
    measured = truth.ceiling >= LEAST_CEILING
    return {
        "pearson": pearson,
        "pearson_partial": gene_pearson(*(without_depth(each, truth.log_library) for each in (labels, values))),
        "ceiling": np.where(np.isnan(pearson), np.nan, truth.ceiling),
        "ceiling_share": np.where(measured, pearson / np.where(measured, truth.ceiling, 1.0), np.nan),
        "spearman": gene_pearson(_ranks(labels), _ranks(values)),
        "mse": (error**2).mean(axis=0),
        "mae": np.abs(error).mean(axis=0),
        "rvd": collapse,
        "ssim": map_similarity(labels, values, truth.near),
        "morans_i_truth": morans_i(labels, truth.near),
        "morans_i_predicted": morans_i(values, truth.near),
        "mean_truth": labels.mean(axis=0),
        "mean_predicted": values.mean(axis=0),
    }


def without_depth(values: Floats, log_library: Floats) -> Floats:
    """What is left of each gene [spot, gene] when a quadratic in the logarithm of the library is regressed out."""
    basis = np.vander(log_library - log_library.mean(), 3)
    directions, size, _ = np.linalg.svd(basis / np.maximum(np.abs(basis).max(axis=0), 1e-12), full_matrices=False)
    directions = directions[:, size > 1e-9 * size[0]]
    return values - directions @ (directions.T @ values)


def section_metrics(by_gene: Mapping[str, Floats], groups: Mapping[str, NDArray[np.bool_]]) -> dict[str, float]:
    """One number a metric for a section: means over genes, and Pearson's spread and top lists.

    ``groups``: [gene] members of each list of best genes, by its short name (``hpg50`` ...).
    """
    pearson = by_gene["pearson"]
    known = pearson[~np.isnan(pearson)]
    quartiles = np.percentile(known, [25, 50, 75]) if len(known) else np.full(3, np.nan)
    return {
        **{name: mean_known(values) for name, values in by_gene.items() if name not in SLIDE_MEANS},
        "ceiling_share": mean_known(pearson) / mean_known(by_gene["ceiling"]),
        "pearson_median": float(quartiles[1]),
        "pearson_iqr": float(quartiles[2] - quartiles[0]),
        "pearson_share_above_0.2": float((known > GOOD_PEARSON).mean()) if len(known) else float("nan"),
        **{f"pearson_{name}": mean_known(pearson[members]) for name, members in groups.items()},
        "morans_i_agreement": _agreement(by_gene["morans_i_truth"], by_gene["morans_i_predicted"]),
    }


def coverage(
    labels: NDArray[np.floating],
    predicted: NDArray[np.floating],
    sd: NDArray[np.floating],
    half_width: NDArray[np.floating],
) -> float:
    """Share of measurements within ``predicted`` plus or minus ``half_width * sd``, over spots and genes.

    Labels that were not measured (NaN) and genes without a half-width do not count.
    """
    known = ~(np.isnan(labels) | np.isnan(half_width * sd))
    within = np.abs(labels - predicted) <= half_width * sd
    return float(within[known].mean()) if known.any() else float("nan")


def mean_known(values: NDArray[np.floating]) -> float:
    """Mean of the values that are not NaN; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def morans_i(values: NDArray[np.floating], near: csr_matrix) -> Floats:
    """Moran's I of each gene over neighbouring spots (Moran 1950, binary weights): [gene]; 0 is no pattern."""
    from scipy.sparse import eye

    weights = (near - eye(near.shape[0])).tocsr()
    centred = np.asarray(values, np.float64) - np.asarray(values, np.float64).mean(axis=0)
    squares = (centred**2).sum(axis=0)
    total = weights.sum()
    varies = squares > 1e-12 * len(centred)
    if total == 0:
        return np.full(centred.shape[1], np.nan)
    together = (centred * (weights @ centred)).sum(axis=0)
    return np.where(varies, len(centred) / total * together / np.where(varies, squares, 1.0), np.nan)


def map_similarity(labels: NDArray[np.floating], predicted: NDArray[np.floating], near: csr_matrix) -> Floats:
    """Structural similarity of the two maps of each gene: [gene] (Wang et al. 2004).

    The windows are the 5 x 5 array neighbourhoods, cut at the section's edge, with uniform weights; the range
    that scales the two constants is that of the truth.
    """
    window = ((near @ near) > 0).astype(np.float64)
    count = np.asarray(window.sum(axis=1))

    def local(values: Floats) -> Floats:
        means: Floats = np.asarray(window @ values) / count
        return means

    x, y = np.asarray(labels, np.float64), np.asarray(predicted, np.float64)
    mean_x, mean_y = local(x), local(y)
    var_x = np.maximum(local(x * x) - mean_x**2, 0.0)
    var_y = np.maximum(local(y * y) - mean_y**2, 0.0)
    covariance = local(x * y) - mean_x * mean_y
    spread = np.ptp(x, axis=0)
    one, two = (0.01 * spread) ** 2, (0.03 * spread) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        similarity = ((2 * mean_x * mean_y + one) * (2 * covariance + two)) / (
            (mean_x**2 + mean_y**2 + one) * (var_x + var_y + two)
        )
    return np.where(spread > 0, similarity.mean(axis=0), np.nan)


def _ranks(values: Floats) -> Floats:
    from scipy.stats import rankdata

    ranks: Floats = rankdata(values, axis=0)
    return ranks


def _agreement(first: Floats, second: Floats) -> float:
    known = ~(np.isnan(first) | np.isnan(second))
    if known.sum() < 2:
        return float("nan")
    return float(gene_pearson(first[known, None], second[known, None])[0])
