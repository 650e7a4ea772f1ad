"""Measured counts of one section, whatever layout they came in.

``read_counts`` recognises, by what the path is:

    folder          10x Visium: ``filtered_feature_bc_matrix.h5``, or the folder of that name with the mtx files
    .h5             10x HDF5 matrix
    .h5ad           AnnData; ``layers["counts"]`` where present, else ``X``, or ``raw`` where that alone is counts
    .tsv .csv (.gz) table of spots x genes; the Spatial Transcriptomics layout names spots ``<x>x<y>``
    .parquet        the same, with spot names in the column ``spot`` or the first column of strings

Counts stay raw and cover all genes, so that every label protocol can be computed later.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from histocast.errors import DataError, MissingInputError
from histocast.sections.counts import CountMatrix, GeneIdSource, refuse_repeated
from histocast.sections.gene_names import are_numbered, name_genes
from histocast.sections.gene_table import read_gene_table
from histocast.sections.read_10x import read_10x
from histocast.sections.read_anndata import read_anndata
from histocast.sections.read_table import read_counts_table

KNOWN_LAYOUTS = (
    "a Visium folder, .h5 (10x), .h5ad, or a table of spots x genes (.tsv, .csv, .tsv.gz, .csv.gz, .parquet)"
)


def read_counts(path: Path, *, genes: Path | None = None) -> CountMatrix:
    """Read the counts of a section and decide which gene each name means (see `name_genes`); other names are left out.

    ``path``: file or folder in one of the known layouts.
    ``genes``: table ``gene_id,gene_symbol`` that gives Ensembl ids to counts that have symbols only, before the shipped
        names.
    Raises `MissingInputError`: there is nothing at ``path``; `DataError`: the layout is unknown; a spot or gene appears
    twice; a count is negative or not whole; no name is a gene's.
    """
    if not path.exists():
        raise MissingInputError("no such file", expected=KNOWN_LAYOUTS, where=str(path))
    counts = _read_layout(path)
    refuse_repeated(counts.spots, "spot", where=str(path))
    counts = _named(counts, read_gene_table(genes) if genes is not None else {}, where=str(path))
    refuse_repeated(counts.gene_ids, "gene", where=str(path))
    return counts


def _read_layout(path: Path) -> CountMatrix:
    name = path.name.lower()
    if path.is_dir() or name.endswith(".h5"):
        return read_10x(path)
    if name.endswith(".h5ad"):
        return read_anndata(path)
    if name.endswith((".tsv", ".csv", ".tsv.gz", ".csv.gz", ".parquet")):
        return read_counts_table(path)
    raise DataError("counts of an unknown layout", expected=KNOWN_LAYOUTS, where=str(path))


def _named(counts: CountMatrix, table: dict[str, str], *, where: str) -> CountMatrix:
    """The counts of those columns that are genes, by the ids and symbols they mean."""
    if are_numbered(counts.gene_ids) and are_numbered(counts.gene_symbols):
        raise DataError(
            f"genes are numbered from {counts.gene_ids[0]} and have no names",
            expected="counts of genes, by symbol or Ensembl id",
            where=where,
            advice="write the matrix with the names of its genes",
        )
    found = name_genes(counts.gene_ids, counts.gene_symbols, table=table)
    if not len(found.kept):
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.record.left_out.items())
        raise DataError(
            f"no gene among {len(counts.gene_ids)} names ({kinds or 'none'})",
            expected="counts of genes, by symbol or Ensembl id",
            where=where,
            advice="check that this is the matrix of gene expression",
        )
    by = set(found.record.resolved)
    source: GeneIdSource = (
        "table" if "table" in by else "counts" if "id" in by else "names" if by - {"nothing"} else "symbol"
    )
    return replace(
        counts,
        gene_ids=found.ids,
        gene_symbols=found.symbols,
        matrix=counts.matrix if len(found.kept) == len(counts.gene_ids) else counts.matrix[:, found.kept],
        gene_id_source=source,
        names=found.record,
    )
