"""Counts in AnnData."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histocast.errors import DataError
from histocast.training.counts import ENSEMBL_GENE, CountMatrix, make_counts

ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl", "feature_id")
SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "gene_name", "gene_names", "feature_name", "symbol")


def read_anndata(path: Path) -> CountMatrix:
    """Read raw counts from ``layers["counts"]``, else ``X``; spots are ``obs_names``.

    Ensembl ids come from the ``var`` index where it holds them, else from a column such as ``gene_ids``.

    Raises
    ------
    DataError
        The file is no AnnData, or its values are no counts.
    """
    import anndata

    try:
        data = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError("not a readable AnnData file", expected=".h5ad", where=str(path)) from error
    matrix = data.layers.get("counts", data.X)
    if matrix is None or not data.n_obs:
        raise DataError("no matrix", expected="raw counts in X or layers['counts']", where=str(path))
    index = [str(name) for name in data.var_names]
    index_is_id = any(ENSEMBL_GENE.match(gene) for gene in index)
    return make_counts(
        spots=[str(name) for name in data.obs_names],
        ids=index if index_is_id else _column(data.var, ID_COLUMNS),
        symbols=(_column(data.var, SYMBOL_COLUMNS) if index_is_id else None) or index,
        matrix=matrix,
        layout="anndata",
        where=str(path),
    )


def _column(var: Any, names: tuple[str, ...]) -> list[str] | None:
    found = next((name for name in names if name in var.columns), None)
    return None if found is None else [str(value) for value in var[found]]
