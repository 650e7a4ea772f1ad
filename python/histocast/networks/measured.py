"""Labels of which some were not measured: NaN for all spots of a section that lacks a gene."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def over_measured(statistic: Callable[..., Any], labels: NDArray[np.floating]) -> NDArray[np.floating]:
    """A statistic of each gene over the spots that measured it: [gene]; NaN where none did.

    ``statistic`` takes ``axis``, as `numpy.mean` does. Genes that all spots measured go through it together.
    """
    found: NDArray[np.floating] = np.asarray(statistic(labels, axis=0))
    for spots, genes in measured_together(labels):
        if not spots.all():
            found[genes] = statistic(labels[spots][:, genes], axis=0) if spots.any() else np.nan
    return found


def measured_together(labels: NDArray[np.floating]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Groups of genes that the same spots measured: which spots [spot], and which genes.

    Without any gene that is not measured somewhere this is one group, of all spots and all genes.
    """
    measured = ~np.isnan(labels)
    if measured.all():
        yield np.ones(len(labels), bool), np.arange(labels.shape[1])
        return
    patterns, group = np.unique(measured, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        yield patterns[:, number], np.flatnonzero(group.reshape(-1) == number)


def heldout_sd(
    labels: NDArray[np.floating], predicted: NDArray[np.floating], *, growth: NDArray[np.floating] | float = 1.0
) -> NDArray[np.float64]:
    """Root mean square of held-out residuals of each gene, in units of ``growth``: [gene].

    A gene that no spot has both measured and predicted unseen gets the sd of its labels, which is the residual of one
    who knows its mean alone.
    """
    found = np.sqrt(over_measured(np.mean, ((labels - predicted) / growth) ** 2))
    unknown = np.isnan(found)
    if unknown.any():
        found = np.where(unknown, over_measured(np.std, labels), found)
    return np.asarray(found, np.float64)
