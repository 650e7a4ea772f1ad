"""Counts of one section: what every reader makes, and what none may let through."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from histocast.sections.gene_names import GeneNames

GeneIdSource = Literal["counts", "table", "names", "symbol"]

_ADVICE_ON_REPEATED = {
    "gene": "genes that share a symbol are told apart by Ensembl ids: give those (the column gene_ids of AnnData); sum "
    "columns that are parts of one gene's counts"
}

ENSEMBL_GENE = re.compile(r"^(ENS[A-Z]{0,4}G\d{11})(?:\.\d+)?$")
"""Ensembl gene of any species; the version, where there is one, is not part of the identity."""


@dataclass(frozen=True)
class CountMatrix:
    """Raw counts of one section over all its genes."""

    spots: tuple[str, ...]
    """Names as in the spot table: ``<x>x<y>`` or a barcode."""
    gene_ids: tuple[str, ...]
    """Ensembl genes without version, or symbols where none is known; unique. From a reader, ids as they were found."""
    gene_symbols: tuple[str, ...]
    matrix: csr_matrix
    """int32 [spot, gene]."""
    layout: str
    """Which reader read it: ``spots x genes table``, ``anndata``, ``10x h5``, ``10x mtx``."""
    gene_id_source: GeneIdSource = "symbol"
    names: GeneNames | None = None
    """How the genes were named; None until `read_counts` has named them."""


def without_version(gene: str) -> str:
    """Drop the version of an Ensembl gene; other names, which may hold dots, are returned as they are."""
    match = ENSEMBL_GENE.match(gene)
    return match[1] if match else gene


def make_counts(
    *, spots: Sequence[str], ids: Sequence[str] | None, symbols: Sequence[str], matrix: Any, layout: str, where: str
) -> CountMatrix:
    """Check values and gather what a reader found; `read_counts` then decides which gene each name means.

    Raises `DataError`: the matrix is not of these spots and genes, its sparse arrays point outside it, or a value is no
    count.
    """
    from scipy.sparse import csr_matrix

    refuse_damaged_matrix(matrix, shape=(len(spots), len(symbols)), where=where)
    if unnamed := sum(not spot.strip() for spot in spots):
        raise DataError(f"{unnamed} spots without a name", expected="a name for each spot", where=where)
    values = csr_matrix(matrix)
    values.sum_duplicates()
    values.eliminate_zeros()
    _refuse_bad_values(values, spots, symbols, where=where)
    named = symbols if ids is None else ids
    return CountMatrix(tuple(spots), tuple(named), tuple(symbols), values.astype(np.int32), layout)


def refuse_damaged_matrix(matrix: Any, *, shape: tuple[int, int], where: str) -> None:
    """Raise `DataError` where a matrix has another shape, holds no numbers, or its sparse arrays point outside it.

    The libraries that read sparse arrays from files trust them: what points outside is read from foreign memory.
    """
    advice = "copy the file again, or write it again"
    if tuple(matrix.shape) != shape:
        expected = f"{shape[0]} x {shape[1]}, as rows and columns are named"
        raise DataError(
            f"a matrix of {' x '.join(map(str, matrix.shape))}", expected=expected, where=where, advice=advice
        )
    if matrix.dtype.kind not in "iuf":
        raise DataError(f"a matrix of the type {matrix.dtype}", expected="whole numbers from 0", where=where)
    if not hasattr(matrix, "check_format"):
        return
    try:
        matrix.check_format(full_check=True)
    except (ValueError, IndexError, OverflowError) as error:
        raise DataError(f"a damaged sparse matrix: {error}", where=where, advice=advice) from error


def _refuse_bad_values(values: csr_matrix, spots: Sequence[str], genes: Sequence[str], *, where: str) -> None:
    data = values.data
    bad = np.flatnonzero(~_is_count(data))
    if not len(bad):
        return
    first = int(bad[0])
    spot = int(np.searchsorted(values.indptr, first, side="right")) - 1
    gene = int(values.indices[first])
    raise DataError(
        f"{len(bad)} values are not counts, the first is {data[first]:g} at spot {spots[spot]!r}, gene {genes[gene]!r}",
        expected="whole numbers from 0",
        where=where,
        advice="give raw counts: not normalised, not logarithmic; in AnnData as layers['counts']",
    )


def are_counts(matrix: Any) -> bool:
    """Whether all values of a matrix, dense or sparse, are counts."""
    return bool(_is_count(matrix.data if hasattr(matrix, "check_format") else np.asarray(matrix)).all())


def _is_count(values: NDArray[Any]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        found: NDArray[np.bool_] = (values >= 0) & (values == np.floor(values)) & (values < 2**31)
    return found


def refuse_repeated(names: Sequence[str], kind: str, *, where: str) -> None:
    """Raise `DataError` where a spot or gene appears twice."""
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise DataError(
            f"{len(repeated)} {kind}s appear more than once: {', '.join(repeated[:5])}{' ...' if len(repeated) > 5 else ''}",
            expected=f"each {kind} once" + (", after Ensembl versions are dropped" if kind == "gene" else ""),
            where=where,
            advice=_ADVICE_ON_REPEATED.get(kind, f"merge or remove the repeated {kind}s"),
        )
