"""Groups of slides whose mean expression is alike, where there are any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_CLUSTERS = 12
FEWEST_SLIDES = 30
"""Of fewer nothing is said."""
LEAST_GAIN = 0.1
"""By which the silhouette must be above that of a normal distribution of the same spread: without it slides are a continuum, and
a partition of them would be made up."""
SAMPLED = 2000
"""Slides that the number of clusters is chosen by."""


def cluster_slides(components: NDArray[np.float32]) -> NDArray[np.int32] | None:
    """Cluster of each slide, from 1, the largest first; None where there are too few slides, or no clusters.

    k-means on principal components, with the number of clusters of the best mean silhouette.

    ``components``: [slide, component].
    """
    if len(components) < FEWEST_SLIDES:
        return None
    random = np.random.default_rng(0)
    sample = random.permutation(len(components))[:SAMPLED]
    reference = random.standard_normal(components.shape, dtype=np.float32)
    reference *= components.std(axis=0)
    best, kept = LEAST_GAIN, None
    for number in range(2, MOST_CLUSTERS + 1):
        silhouette, found = _partition(components, number, sample)
        if silhouette > best and silhouette - _partition(reference, number, sample)[0] > LEAST_GAIN:
            best, kept = silhouette, found
    if kept is None:
        return None
    names, sizes = np.unique(kept, return_counts=True)
    rank = np.empty(names.max() + 1, np.int32)
    rank[names[np.argsort(-sizes, kind="stable")]] = np.arange(1, len(names) + 1)
    return rank[kept]


def _partition(
    components: NDArray[np.float32], number: int, sample: NDArray[np.int64]
) -> tuple[float, NDArray[np.int32]]:
    """The mean silhouette of a sample, and the cluster of each slide."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import silhouette_score
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # Its threads wait for each other in loops: with more of them than idle processors it takes a hundred times as long.
    with threadpool_limits(1):
        found = MiniBatchKMeans(number, random_state=0, n_init=3).fit(components).labels_
    if len(np.unique(found[sample])) < 2:
        return -1.0, found
    return float(silhouette_score(components[sample], found[sample])), found
