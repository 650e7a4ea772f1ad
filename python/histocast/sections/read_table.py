"""Counts as a table of spots x genes: the Spatial Transcriptomics layout, and plain CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.sections.counts import CountMatrix, make_counts, refuse_repeated
from histocast.sections.gene_names import is_spot_metadata
from histocast.text_file import open_text

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LAYOUT = "spots x genes table"

ST_SPOT = re.compile(r"^\d+(\.\d+)?x\d+(\.\d+)?$")
_BARCODE = re.compile(r"^[ACGTN]{8,}(-\d+)?$")
_DELIMITERS = {"\t": "tabs", ",": "commas", ";": "semicolons"}


def read_counts_table(path: Path) -> CountMatrix:
    """Read a table whose rows are spots and whose columns are genes, a row at a time.

    Text is separated by tabs, commas or semicolons, whichever its header has most of; empty rows are skipped.

    Raises `DataError`: it is empty, ragged, turned (genes as rows), or a cell is no number.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    with open_text(path, expected="spots x genes", compressed=path.suffix.lower() == ".gz") as stream:
        first = stream.readline()
        delimiter = max(_DELIMITERS, key=first.count)
        header = next(csv.reader([first], delimiter=delimiter), [])
        rows = csv.reader(stream, delimiter=delimiter)
        spots, sparse = [], []
        genes: list[str] = []
        counted = _counted(genes)
        for number, cells in enumerate(rows, start=2):
            if not any(cell.strip() for cell in cells):
                continue
            if not genes:
                genes = _genes_of(header, width=len(cells), path=path)
                counted = _counted(genes)
            if len(cells) != len(genes) + 1:
                raise DataError(
                    f"{len(cells)} cells",
                    expected=f"{len(genes) + 1}: a spot name and {len(genes)} counts",
                    where=f"{path}, line {number}",
                    advice=f"check that the table is whole and separated by {_DELIMITERS[delimiter]}",
                )
            spots.append(cells[0].strip())
            sparse.append(_sparse_row(cells[1:], genes, counted, where=f"{path}, line {number}"))
    return _gather(spots, genes, sparse, path=path)


def _genes_of(header: list[str], *, width: int, path: Path) -> list[str]:
    """Gene names of the header, which may or may not have a cell above the spot names (R leaves it out)."""
    genes = header if len(header) == width - 1 else header[1:]
    if len(genes) < 1 or len(genes) != width - 1:
        raise DataError(
            f"{len(header)} cells in the header and {width} in the first row",
            expected="a header of gene names over rows of a spot name and its counts",
            where=str(path),
            advice="check the delimiter: tabs, commas and semicolons are read",
        )
    if sum(bool(ST_SPOT.match(gene) or _BARCODE.match(gene)) for gene in genes) > len(genes) / 2:
        raise DataError(
            f"columns are named like spots ({genes[0]!r})",
            expected="spots as rows and genes as columns",
            where=str(path),
            advice="transpose the table",
        )
    return genes


def _counted(names: list[str]) -> NDArray[np.int64]:
    """Columns whose cells are counts: those about spots, or without a name, may hold anything, and stay empty."""
    return np.flatnonzero([bool(name.strip()) and not is_spot_metadata(name) for name in names])


def _sparse_row(
    cells: list[str], genes: list[str], counted: NDArray[np.int64], *, where: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    try:
        values = np.array([cells[column] for column in counted.tolist()], dtype=np.float64)
    except ValueError as error:
        column = next(index for index in counted.tolist() if not _is_number(cells[index]))
        raise DataError(
            f"{cells[column]!r} is no number", expected="a count", where=f"{where}, column {genes[column]!r}"
        ) from error
    present = np.flatnonzero(values)
    return counted[present], values[present]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _gather(
    spots: list[str], genes: list[str], rows: list[tuple[NDArray[np.int64], NDArray[np.float64]]], *, path: Path
) -> CountMatrix:
    if not spots:
        raise DataError("a table without rows", expected="a header of genes and one row per spot", where=str(path))
    matrix = _stack(rows, len(genes))
    return make_counts(spots=spots, ids=None, symbols=genes, matrix=matrix, layout=LAYOUT, where=str(path))


def _stack(rows: list[tuple[NDArray[np.int64], NDArray[np.float64]]], genes: int) -> csr_matrix:
    from scipy.sparse import csr_matrix

    indptr = np.concatenate([[0], np.cumsum([len(index) for index, _ in rows])])
    indices = np.concatenate([index for index, _ in rows])
    return csr_matrix((np.concatenate([values for _, values in rows]), indices, indptr), shape=(len(rows), genes))


def _read_parquet(path: Path) -> CountMatrix:
    import pyarrow.parquet as pq

    from histocast.parquet_damage import refuse_damaged_parquet

    with refuse_damaged_parquet(path, expected="spots x genes"), pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = [field.name for field in schema if _holds_text(field.type)]
        spot = "spot" if "spot" in names else next(iter(names), None)
        if spot is None:
            raise DataError("no column of spot names", expected="a column 'spot' of strings", where=str(path))
        refuse_repeated(schema.names, "column", where=str(path))
        genes = [field.name for field in schema if field.name != spot]
        counted = _counted(genes)
        for name in (genes[at] for at in counted.tolist()):
            if not _holds_numbers(kind := schema.field(name).type):
                raise DataError(
                    f"column {name!r} holds {'text' if _holds_text(kind) else kind}",
                    expected="counts",
                    where=str(path),
                )
        spots: list[str] = []
        rows: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        for batch in file.iter_batches(256):
            values = np.empty((batch.num_rows, len(counted)))
            for column, at in enumerate(counted.tolist()):
                values[:, column] = batch.column(genes[at]).to_numpy(zero_copy_only=False)
            spots.extend("" if name is None else str(name).strip() for name in batch.column(spot).to_pylist())
            rows.extend((counted[np.flatnonzero(row)], row[np.flatnonzero(row)]) for row in values)
    return _gather(spots, genes, rows, path=path)


def _holds_numbers(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _holds_text(kind: Any) -> bool:
    """Whether an Arrow type is text, as categories and views too."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
