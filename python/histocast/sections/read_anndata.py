"""Counts in AnnData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from histocast.errors import DataError
from histocast.sections.counts import ENSEMBL_GENE, CountMatrix, are_counts, make_counts, refuse_damaged_matrix
from histocast.sections.gene_names import are_numbered, clean_name
from histocast.sections.read_10x import GENE_FEATURE, OTHER_FEATURES, refuse_no_genes

ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl", "feature_id")
SYMBOL_COLUMNS = ("gene_symbol", "gene_symbols", "gene_name", "gene_names", "feature_name", "symbol")
LIBRARY_COLUMN = "library_id"
TYPE_COLUMNS = ("feature_types", "feature_type")


def read_anndata(path: Path) -> CountMatrix:
    """Read raw counts from ``layers["counts"]``, else ``X``, else ``raw``; spots are ``obs_names``.

    ``raw`` is taken where ``X`` is absent or holds other than whole numbers and ``raw`` does not: that is how data are
    published whose ``X`` is normalised.

    The id of each gene comes from the ``var`` index where that is an Ensembl id, else from a column such as
    ``gene_ids``. Features that a column of feature types says are no genes are left out.

    Raises `DataError`: the file is no AnnData, its values are no counts, it holds several libraries, or no feature is a
    gene.
    """
    data = open_anndata(path)
    _refuse_libraries(data, where=str(path))
    matrix, var = _counted(data, where=str(path))
    index = [str(name) for name in var.index]
    ids, symbols = _column(var, ID_COLUMNS), _column(var, SYMBOL_COLUMNS)
    if are_numbered(index) and (ids or symbols):
        empty = [""] * len(index)
        index = [name or symbol for name, symbol in zip(ids or empty, symbols or empty, strict=True)]
    # An id, of Ensembl or NCBI Gene, is no symbol where a column gives one.
    is_id = [bool(ENSEMBL_GENE.match(clean_name(name))) for name in index]
    has_symbol = [bool(symbols) and (known or name.isdecimal()) for name, known in zip(index, is_id, strict=True)]
    genes = _genes(_column(var, TYPE_COLUMNS), len(index), where=str(path))
    return make_counts(
        spots=[str(name) for name in data.obs_names],
        ids=[index[gene] if is_id[gene] or ids is None else ids[gene] for gene in genes],
        symbols=[(symbols[gene] if symbols and has_symbol[gene] else "") or index[gene] for gene in genes],
        matrix=matrix if len(genes) == len(index) else matrix[:, genes],
        layout="anndata",
        where=str(path),
    )


def _counted(data: Any, *, where: str) -> tuple[Any, Any]:
    """The matrix of counts and its table of genes."""
    matrix = data.layers.get("counts", data.X)
    if (matrix is None and data.raw is None) or not data.n_obs:
        raise DataError("no matrix", expected="raw counts in X, layers['counts'] or raw.X", where=where)
    # Before anything is taken of it.
    if matrix is not None:
        refuse_damaged_matrix(matrix, shape=(data.n_obs, data.n_vars), where=where)
    if "counts" in data.layers or data.raw is None or (matrix is not None and are_counts(matrix)):
        return matrix, data.var
    raw = data.raw.X
    refuse_damaged_matrix(raw, shape=(data.n_obs, data.raw.n_vars), where=f"{where}, raw")
    # Where neither is of counts, what is wrong with X is said.
    return (raw, data.raw.var) if matrix is None or are_counts(raw) else (matrix, data.var)


def _refuse_libraries(data: Any, *, where: str) -> None:
    """Raise `DataError` where spots of several sections stand in one file, by scanpy's and squidpy's convention."""
    spatial = data.uns.get("spatial", {})
    names = [str(name) for name in spatial] if isinstance(spatial, Mapping) else []
    if LIBRARY_COLUMN in data.obs:
        names = [str(name) for name in data.obs[LIBRARY_COLUMN].dropna().unique()]
    if len(names) > 1:
        raise DataError(
            f"{len(names)} libraries: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}",
            expected=f"the counts of one section: one value in obs[{LIBRARY_COLUMN!r}], or one entry in uns['spatial']",
            where=where,
            advice=f"write each to a file of its own: data[data.obs[{LIBRARY_COLUMN!r}] == {names[0]!r}].write_h5ad(...)",
        )


def open_anndata(path: Path, *, backed: Literal["r"] | None = None) -> Any:
    """Open an AnnData file.

    Raises `DataError`: it is none, or of a version that this one's reader does not know.
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
