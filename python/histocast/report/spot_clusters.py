"""Groups of a slide's spots whose predicted expression is alike, where there are any."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_CLUSTERS = 7
"""As many as there are colours that everybody tells apart."""
FEWEST_SPOTS = 30
"""Of fewer nothing is said."""
LEAST_GAIN = 0.1
"""By which the silhouette must be above that of a normal distribution of the same spread: without it spots form a continuum, and
a partition of them would be made up."""
GENES, COMPONENTS, SAMPLED, STARTS = 200, 10, 800, 5
"""Genes and principal components that spots are compared by, spots that the number of clusters is chosen by, and starts of
k-means, of which the best counts."""

Floats = NDArray[np.floating]


def cluster_spots(
    genes: Sequence[int], read: Callable[[int], Floats], *, readable: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """Cluster of each spot, [spot], from 1, the largest first, NaN where unreadable; None where there are no clusters.

    k-means on the first principal components of standardised genes, with the number of clusters of the best mean silhouette.

    ``genes``: places on the gene axis, the best first; `GENES` are used. ``read``: a gene's values [spot].
    """
    if readable.sum() < FEWEST_SPOTS:
        return None
    columns = [read(int(gene))[readable].astype(np.float64) for gene in sorted(genes[:GENES])]
    values = np.stack(columns, axis=1)
    # Genes that are the same everywhere tell nothing.
    values = values[:, np.ptp(values, axis=0) > 0]
    if values.shape[1] < 2:
        return None
    # SciPy takes a while to load.
    from scipy.cluster.vq import vq

    components = _components(values)
    random = np.random.default_rng(0)
    sample = components[random.permutation(len(components))[:SAMPLED]]
    reference = random.normal(size=sample.shape) * components.std(axis=0)
    best, centres = LEAST_GAIN, None
    for number in range(2, MOST_CLUSTERS + 1):
        silhouette, found = _partition(sample, number)
        if silhouette > best and silhouette - _partition(reference, number)[0] > LEAST_GAIN:
            best, centres = silhouette, found
    if centres is None:
        return None
    nearest = vq(components, centres)[0]
    names, sizes = np.unique(nearest, return_counts=True)
    rank = np.zeros(len(centres))
    rank[names[np.argsort(-sizes, kind="stable")]] = np.arange(1, len(names) + 1)
    clusters = np.full(len(readable), np.nan)
    clusters[readable] = rank[nearest]
    return clusters


def _components(values: Floats) -> Floats:
    """[spot, component] of values [spot, gene]."""
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    # By the matrix of genes, which is small however many spots there are.
    directions = np.linalg.eigh(scaled.T @ scaled)[1][:, ::-1][:, :COMPONENTS]
    return np.asarray(scaled @ directions)


def _partition(points: Floats, number: int) -> tuple[float, Floats]:
    """The mean silhouette of points [point, component] in so many clusters, and the clusters' centres."""
    from scipy.cluster.vq import kmeans2, vq
    from scipy.spatial.distance import cdist

    random = np.random.default_rng(0)
    with warnings.catch_warnings():
        # Of a start that leaves a cluster empty; it is not the best.
        warnings.simplefilter("ignore", UserWarning)
        starts = [kmeans2(points, number, minit="++", rng=random, iter=50)[0] for _ in range(STARTS)]
    centres = min(starts, key=lambda each: float(np.square(vq(points, each)[1]).sum()))
    found = vq(points, centres)[0]
    sizes = np.bincount(found, minlength=number)
    if sizes.min() < 2:
        return -1.0, centres
    distances = cdist(points, points)
    totals = np.stack([distances[:, found == cluster].sum(axis=1) for cluster in range(number)], axis=1)
    own = np.take_along_axis(totals, found[:, None], axis=1)[:, 0] / (sizes[found] - 1)
    means = totals / sizes
    np.put_along_axis(means, found[:, None], np.inf, axis=1)
    other = means.min(axis=1)
    return float(((other - own) / np.maximum(other, own)).mean()), centres
