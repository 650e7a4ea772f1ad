"""From raw counts to what a model is trained on, by three protocols (docs/evaluation.md).

``strict``
    Library over all genes to 10,000, ``log1p``, no smoothing: what measured expression looks like.
``paper``
    The panel alone to 10,000, ``log10(x + 1)``, then the mean over the 3 x 3 array neighbourhood: what the
    published methods train and test on. Smoothed truth is easier to predict; the two must not be compared.
``residual``
    Analytic Pearson residuals (Lause, Berens and Kobak 2021): how far a count is from what the spot's library and the
    gene's share of the section let expect. They do not follow sequencing depth, which the other two do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from histocast.bundle import ExpressionScale
from histocast.sections.protocols import Protocol

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MissingGenes = Literal["mask", "zero", "refuse"]
"""What becomes of a panel gene that a section did not measure: no label at all, the label of 0 counts, or an error."""

LIBRARY = 1e4
"""Counts a spot is scaled to; about a Spatial Transcriptomics library, and the field's convention."""

OVERDISPERSION = 100.0
"""Inverse dispersion of the negative binomial whose variance is mu + mu^2 / 100, as published."""

SCALES: dict[Protocol, ExpressionScale] = {
    "strict": ExpressionScale(
        name="log1p_cp10k",
        description="natural logarithm of 1 + counts per 10,000",
        normalisation="library over all genes, to 10,000",
        transform="log1p",
        smoothing="none",
        minimum=0.0,
    ),
    "paper": ExpressionScale(
        name="log10p_panel10k_3x3",
        description="decimal logarithm of 1 + counts per 10,000 of the panel, averaged over 3 x 3 spots",
        normalisation="library over the panel alone, to 10,000",
        transform="log10(x + 1)",
        smoothing="mean over the 3 x 3 array neighbourhood",
        minimum=0.0,
    ),
    "residual": ExpressionScale(
        name="pearson_residual",
        description=(
            "standard deviations by which a count is above (or below) what the spot's library and the gene's share of "
            "its section let expect; 0 is as expected there, so that values say where in a section a gene is high"
        ),
        normalisation="expected count mu: library over all genes x the gene's share of the section's counts",
        transform="(count - mu) / sqrt(mu + mu^2 / 100), at most sqrt(spots) from 0",
        smoothing="none",
        relative_to_section=True,
    ),
}


def make_labels(
    protocol: Protocol,
    counts: csr_matrix,
    *,
    panel: NDArray[np.int64],
    array_row: NDArray[np.integer],
    array_col: NDArray[np.integer],
    missing: MissingGenes = "mask",
) -> NDArray[np.float32]:
    """Labels [spot, gene] of the panel; NaN for a gene that was not measured.

    ``counts``: [spot, gene] over all genes; no spot is empty.
    ``panel``: column of each panel gene, -1 for one that this section did not measure.
    ``array_row``, ``array_col``: [spot] position on the capture array.
    ``missing``: with ``zero`` a gene that was not measured has the label of 0 counts.
    """
    values = _scale(protocol, counts, panel=panel, array_row=array_row, array_col=array_col)
    if missing != "zero":
        values[:, panel < 0] = np.nan
    return values


def _scale(
    protocol: Protocol,
    counts: csr_matrix,
    *,
    panel: NDArray[np.int64],
    array_row: NDArray[np.integer],
    array_col: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Labels with those of 0 counts for a gene that was not measured: it adds nothing to the panel's library."""
    of_panel = np.asarray(counts[:, np.maximum(panel, 0)].todense(), np.float64)
    of_panel[:, panel < 0] = 0.0
    if protocol != "paper":
        library = np.asarray(counts.sum(axis=1), np.float64).reshape(-1, 1)
        return _pearson_residuals(of_panel, library) if protocol == "residual" else _log_normalise(of_panel, library)
    library = of_panel.sum(axis=1, keepdims=True)
    # A spot may hold counts and none of the panel: its panel expression is then 0, not undefined.
    values = np.log10(of_panel / np.where(library > 0, library, 1.0) * LIBRARY + 1.0)
    near = array_neighbourhood(array_row, array_col)
    return np.asarray(near @ values / np.asarray(near.sum(axis=1)), np.float32)


def _log_normalise(of_panel: NDArray[np.float64], library: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(np.log1p(of_panel / library * LIBRARY), np.float32)


def _pearson_residuals(of_panel: NDArray[np.float64], library: NDArray[np.float64]) -> NDArray[np.float32]:
    """Residuals [spot, gene] of counts [spot, gene] with libraries [spot, 1]; 0 for a gene without any count."""
    expected = library * (of_panel.sum(axis=0) / library.sum())
    sd = np.sqrt(expected + expected**2 / OVERDISPERSION)
    residuals = np.divide(of_panel - expected, sd, out=np.zeros_like(expected), where=sd > 0)
    limit = np.sqrt(len(of_panel))
    return np.asarray(np.clip(residuals, -limit, limit), np.float32)


def array_neighbourhood(array_row: NDArray[np.integer], array_col: NDArray[np.integer]) -> csr_matrix:
    """Which spots form the 3 x 3 array neighbourhood of each, itself included: 0/1 [spot, spot].

    A Visium array numbers its columns by two within a row, so that its six neighbours are two columns or one
    row and one column away; it is told by row and column having one parity everywhere.
    """
    from scipy.sparse import csr_matrix

    rows, cols = np.asarray(array_row, np.int64), np.asarray(array_col, np.int64)
    hexagonal = len(rows) > 1 and len(np.unique((rows + cols) % 2)) == 1
    steps = (
        [(0, 0), (0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1)]
        if hexagonal
        else [(dr, dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)]
    )
    spot_at = {cell: spot for spot, cell in enumerate(zip(rows.tolist(), cols.tolist(), strict=True))}
    pairs = [
        (spot, other)
        for (row, col), spot in spot_at.items()
        for dr, dc in steps
        if (other := spot_at.get((row + dr, col + dc))) is not None
    ]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return csr_matrix((np.ones(len(pairs)), (first, second)), shape=(len(rows), len(rows)))
