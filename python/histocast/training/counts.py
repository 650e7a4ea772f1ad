"""Measured counts of one section, whatever layout they came in.

``read_counts`` recognises, by what the path is:

    folder          10x Visium: ``filtered_feature_bc_matrix.h5``, or the folder of that name with the mtx files
    .h5             10x HDF5 matrix
    .h5ad           AnnData; ``layers["counts"]`` where present, else ``X``
    .tsv .csv (.gz) table of spots x genes; the Spatial Transcriptomics layout names spots ``<x>x<y>``
    .parquet        the same, with spot names in the column ``spot`` or the first column of strings

Counts stay raw and cover all genes, so that every label protocol can be computed later.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from histocast.errors import DataError, MissingInputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

GeneIdSource = Literal["counts", "table", "symbol"]

ENSEMBL_GENE = re.compile(r"^(ENS[A-Z]{0,4}G\d{11})(?:\.\d+)?$")
"""Ensembl gene of any species; the version, where there is one, is not part of the identity."""

KNOWN_LAYOUTS = (
    "a Visium folder, .h5 (10x), .h5ad, or a table of spots x genes (.tsv, .csv, .tsv.gz, .csv.gz, .parquet)"
)


@dataclass(frozen=True)
class CountMatrix:
    """Raw counts of one section over all its genes."""

    spots: tuple[str, ...]
    """Names as in the spot table: ``<x>x<y>`` or a barcode."""
    gene_ids: tuple[str, ...]
    """Ensembl genes without version, or symbols where none is known; unique."""
    gene_symbols: tuple[str, ...]
    matrix: csr_matrix
    """int32 [spot, gene]."""
    layout: str
    """Which reader read it: ``spots x genes table``, ``anndata``, ``10x h5``, ``10x mtx``."""
    gene_id_source: GeneIdSource = "symbol"


def without_version(gene: str) -> str:
    """Drop the version of an Ensembl gene; other names, which may hold dots, are returned as they are."""
    match = ENSEMBL_GENE.match(gene)
    return match[1] if match else gene


def read_counts(path: Path, *, genes: Path | None = None) -> CountMatrix:
    """Read the counts of a section.

    Parameters
    ----------
    path:
        File or folder in one of the known layouts.
    genes:
        Table ``gene_id,gene_symbol`` that gives Ensembl ids to counts that have symbols only.

    Raises
    ------
    MissingInputError
        There is nothing at ``path``.
    DataError
        The layout is unknown; a spot or gene appears twice; a count is negative or not whole.
    """
    if not path.exists():
        raise MissingInputError("no such file", expected=KNOWN_LAYOUTS, where=str(path))
    counts = _read_layout(path)
    _refuse_repeated(counts.spots, "spot", where=str(path))
    if genes is not None:
        from histocast.training.gene_table import read_gene_table

        counts = _with_ids(counts, read_gene_table(genes))
    _refuse_repeated(counts.gene_ids, "gene", where=str(path))
    return counts


def _read_layout(path: Path) -> CountMatrix:
    name = path.name.lower()
    if path.is_dir() or name.endswith(".h5"):
        from histocast.training.read_10x import read_10x

        return read_10x(path)
    if name.endswith(".h5ad"):
        from histocast.training.read_anndata import read_anndata

        return read_anndata(path)
    if name.endswith((".tsv", ".csv", ".tsv.gz", ".csv.gz", ".parquet")):
        from histocast.training.read_table import read_counts_table

        return read_counts_table(path)
    raise DataError("counts of an unknown layout", expected=KNOWN_LAYOUTS, where=str(path))


def make_counts(
    *, spots: Sequence[str], ids: Sequence[str] | None, symbols: Sequence[str], matrix: object, layout: str, where: str
) -> CountMatrix:
    """Check values and gather what a reader found; without ``ids``, those symbols that are Ensembl ids serve."""
    from scipy.sparse import csr_matrix

    values = csr_matrix(matrix)
    values.sum_duplicates()
    values.eliminate_zeros()
    _refuse_bad_values(values, spots, symbols, where=where)
    named = [without_version(gene) for gene in (ids if ids is not None else symbols)]
    source: GeneIdSource = "counts" if any(ENSEMBL_GENE.match(gene) for gene in named) else "symbol"
    return CountMatrix(tuple(spots), tuple(named), tuple(symbols), values.astype(np.int32), layout, source)


def _refuse_bad_values(values: csr_matrix, spots: Sequence[str], genes: Sequence[str], *, where: str) -> None:
    data = values.data
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~((data >= 0) & (data == np.floor(data)) & (data < 2**31)))
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


def _refuse_repeated(names: Sequence[str], kind: str, *, where: str) -> None:
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise DataError(
            f"{len(repeated)} {kind}s appear more than once: {', '.join(repeated[:5])}{' ...' if len(repeated) > 5 else ''}",
            expected=f"each {kind} once" + (", after Ensembl versions are dropped" if kind == "gene" else ""),
            where=where,
            advice=f"merge or remove the repeated {kind}s",
        )


def _with_ids(counts: CountMatrix, ids_of: dict[str, str]) -> CountMatrix:
    """Give Ensembl ids to genes that have none, from the table; the counts' own ids stand."""
    ids = tuple(
        gene if ENSEMBL_GENE.match(gene) else ids_of.get(symbol, gene)
        for gene, symbol in zip(counts.gene_ids, counts.gene_symbols, strict=True)
    )
    return replace(counts, gene_ids=ids, gene_id_source="table" if ids != counts.gene_ids else counts.gene_id_source)
