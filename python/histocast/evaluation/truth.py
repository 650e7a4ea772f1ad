"""What was measured on one section, where, at what depth, and how well it could be predicted at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from histocast.networks.correlation import gene_pearson
from histocast.sections.labels import SCALES, MissingGenes, array_neighbourhood, make_labels
from histocast.sections.protocols import Protocol
from histocast.sections.section import Section

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]

THINNINGS = 5
"""Random halvings of the counts that the noise ceiling is averaged over: one scatters by 0.01 in the mean over 250 genes."""


@dataclass(frozen=True)
class Truth:
    """Labels of one section, and what a prediction of them is compared with."""

    labels: NDArray[np.floating]
    """[spot, gene]; NaN throughout for a gene that the section did not measure."""
    near: csr_matrix
    """0/1 [spot, spot]: the 3 x 3 array neighbourhood, itself included."""
    log_library: Floats
    """[spot] logarithm of the counts over all genes, smoothed where labels are."""
    ceiling: Floats
    """[gene] largest Pearson that any prediction can reach, see `noise_ceiling`; NaN where there is none."""


def measure_truth(
    section: Section, *, protocol: Protocol, panel: NDArray[np.int64], missing: MissingGenes = "mask"
) -> Truth:
    """The truth of a section.

    ``panel``: column of each gene in the section's counts, -1 for one that it did not measure.
    """
    place = section.store.array_row[section.measured], section.store.array_col[section.measured]
    near = array_neighbourhood(*place)
    log_library = library_of(section)
    if SCALES[protocol].smoothing != "none":
        log_library = np.asarray(near @ log_library / np.asarray(near.sum(axis=1)).ravel())
    counts, columns = _split_counts(section.counts, panel)

    def label(part: csr_matrix) -> NDArray[np.float32]:
        return make_labels(protocol, part, panel=columns, array_row=place[0], array_col=place[1], missing=missing)

    labels = label(counts)
    halves = [[label(half) for half in halve_counts(counts, seed=draw)] for draw in range(THINNINGS)]
    # A gene that varies in the whole and not in a half agrees with nothing there.
    agreement = np.mean([np.nan_to_num(gene_pearson(*pair)) for pair in halves], axis=0)
    varies = ~np.isnan(gene_pearson(labels, labels))
    return Truth(labels, near, log_library, np.where(varies, noise_ceiling(agreement), np.nan))


def library_of(section: Section) -> Floats:
    """Logarithm of the counts over all genes of every measured spot: [spot]."""
    return np.log(np.asarray(section.counts.sum(axis=1), np.float64).ravel())


def _split_counts(counts: csr_matrix, panel: NDArray[np.int64]) -> tuple[csr_matrix, NDArray[np.int64]]:
    """Counts of the panel with one more column for all other genes, which labels know as part of the library alone."""
    from scipy.sparse import csr_matrix as make_sparse

    measured = panel >= 0
    of_panel = np.asarray(counts[:, panel[measured]].todense())
    rest = np.asarray(counts.sum(axis=1)).reshape(-1, 1) - of_panel.sum(axis=1, keepdims=True)
    columns = np.where(measured, np.cumsum(measured) - 1, -1)
    return make_sparse(np.concatenate([of_panel, rest], axis=1)), columns


def halve_counts(counts: csr_matrix, *, seed: int) -> tuple[csr_matrix, csr_matrix]:
    """Two halves of counts by binomial thinning: each count goes to either by the toss of a coin.

    A spot that a toss leaves without any count gets one of the last column, so that every spot has a library.
    """
    first = counts.copy()
    first.data = np.random.default_rng(seed).binomial(counts.data, 0.5)
    return _fill_empty(first), _fill_empty(counts - first)


def _fill_empty(counts: csr_matrix) -> csr_matrix:
    from scipy.sparse import csr_matrix as make_sparse

    empty = np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel() == 0)
    places = (empty, np.full(len(empty), counts.shape[1] - 1))
    return counts + make_sparse((np.ones(len(empty), counts.dtype), places), shape=counts.shape)


def noise_ceiling(agreement: Floats) -> Floats:
    """The largest Pearson that any prediction can reach, from that between two halves of the measurement: [gene].

    Spearman and Brown's formula brings the agreement of halves to that of whole measurements (their reliability), whose
    square root is the correlation of a measurement with what it measures; 0 where the halves do not agree at all.
    """
    known = np.maximum(agreement, 0.0)
    return np.asarray(np.sqrt(2.0 * known / (1.0 + known)))
