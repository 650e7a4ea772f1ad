"""Counts in AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from histocast.errors import DataError
from histocast.sections.counts import ENSEMBL_GENE, CountMatrix, make_counts, refuse_damaged_matrix
from histocast.sections.gene_names import are_numbered, clean_name
from histocast.sections.read_10x import GENE_FEATURE, OTHER_FEATURES, refuse_no_genes

ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl", "feature_id")
SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "gene_name", "gene_names", "feature_name", "symbol")
TYPE_COLUMNS = ("feature_types", "feature_type")


def read_anndata(path: Path) -> CountMatrix:
    """Read raw counts from ``layers["counts"]``, else ``X``; spots are ``obs_names``.

    The id of each gene comes from the ``var`` index where that is an Ensembl id, else from a column such as
    ``gene_ids``. Features that a column of feature types says are no genes are left out.

    Raises
    ------
    DataError
        The file is no AnnData, its values are no counts, or no feature is a gene.
    """
    data = open_anndata(path)
    matrix = data.layers.get("counts", data.X)
    if matrix is None or not data.n_obs:
        raise DataError("no matrix", expected="raw counts in X or layers['counts']", where=str(path))
    # Before anything is taken of it.
    refuse_damaged_matrix(matrix, shape=(data.n_obs, data.n_vars), where=str(path))
    index = [str(name) for name in data.var_names]
    ids, symbols = _column(data.var, ID_COLUMNS), _column(data.var, SYMBOL_COLUMNS)
    if are_numbered(index) and (ids or symbols):
        empty = [""] * len(index)
        index = [name or symbol for name, symbol in zip(ids or empty, symbols or empty, strict=True)]
    # An id, of Ensembl or NCBI Gene, is no symbol where a column gives one.
    is_id = [bool(ENSEMBL_GENE.match(clean_name(name))) for name in index]
    has_symbol = [bool(symbols) and (known or name.isdecimal()) for name, known in zip(index, is_id, strict=True)]
    genes = _genes(_column(data.var, TYPE_COLUMNS), len(index), where=str(path))
    return make_counts(
        spots=[str(name) for name in data.obs_names],
        ids=[index[gene] if is_id[gene] or ids is None else ids[gene] for gene in genes],
        symbols=[(symbols[gene] if symbols and has_symbol[gene] else "") or index[gene] for gene in genes],
        matrix=matrix if len(genes) == len(index) else matrix[:, genes],
        layout="anndata",
        where=str(path),
    )


def open_anndata(path: Path, *, backed: Literal["r"] | None = None) -> Any:
    """Open an AnnData file.

    Raises
    ------
    DataError
        It is none, or of a version that this one's reader does not know.
    """
    import anndata

    try:
        return anndata.read_h5ad(path, backed=backed)
    except MemoryError:
        raise
    # What a damaged or newer file raises depends on the place, and is of the reader's own kinds too.
    except Exception as error:
        raise DataError(
            f"not a readable AnnData file ({type(error).__name__})",
            expected=f".h5ad as anndata {version('anndata')} reads it",
            where=str(path),
            advice="copy it again, or write it with this version of anndata",
        ) from error


def _column(var: Any, names: tuple[str, ...]) -> list[str] | None:
    """The first of some columns that is there, its name in any letters, with empty text where a value is absent."""
    columns = {str(name).lower(): name for name in reversed(var.columns)}
    found = next((columns[name] for name in names if name in columns), None)
    if found is None:
        return None
    return ["" if absent else str(value) for value, absent in zip(var[found], var[found].isna(), strict=True)]


def _genes(kinds: Sequence[str] | None, count: int, *, where: str) -> list[int]:
    """Places of the features that are genes; all of them where no types, or those of another program, are stated."""
    if kinds is None or not {GENE_FEATURE, *OTHER_FEATURES} & set(kinds):
        return list(range(count))
    genes = [place for place, kind in enumerate(kinds) if kind == GENE_FEATURE]
    refuse_no_genes(kinds, len(genes), where=where)
    return genes
