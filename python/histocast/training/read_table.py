"""Counts as a table of spots x genes: the Spatial Transcriptomics layout, and plain CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.training.counts import CountMatrix, make_counts
from histocast.training.gene_names import is_spot_metadata

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LAYOUT = "spots x genes table"

ST_SPOT = re.compile(r"^\d+(\.\d+)?x\d+(\.\d+)?$")


def read_counts_table(path: Path) -> CountMatrix:
    """Read a table whose rows are spots and whose columns are genes, a row at a time.

    Raises
    ------
    DataError
        It is empty, ragged, turned (genes as rows), or a cell is no number.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    delimiter = "," if ".csv" in path.name.lower() else "\t"
    with _open_text(path) as stream:
        rows = csv.reader(stream, delimiter=delimiter)
        header = next(rows, [])
        spots, sparse = [], []
        genes: list[str] = []
        counted = _counted(genes)
        for number, cells in enumerate(rows, start=2):
            if not cells:
                continue
            if not genes:
                genes = _genes_of(header, width=len(cells), path=path)
                counted = _counted(genes)
            if len(cells) != len(genes) + 1:
                raise DataError(
                    f"{len(cells)} cells",
                    expected=f"{len(genes) + 1}: a spot name and {len(genes)} counts",
                    where=f"{path}, line {number}",
                    advice=f"check that the table is whole and separated by {'commas' if delimiter == ',' else 'tabs'}",
                )
            spots.append(cells[0])
            sparse.append(_sparse_row(cells[1:], genes, counted, where=f"{path}, line {number}"))
    return _gather(spots, genes, sparse, path=path)


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as stream:
                yield stream
        else:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"not a whole gzip file: {error}", where=str(path), advice="copy the file again") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("not a text table", expected="spots x genes", where=str(path)) from error


def _genes_of(header: list[str], *, width: int, path: Path) -> list[str]:
    """Gene names of the header, which may or may not have a cell above the spot names (R leaves it out)."""
    genes = header if len(header) == width - 1 else header[1:]
    if len(genes) < 1 or len(genes) != width - 1:
        raise DataError(
            f"{len(header)} cells in the header and {width} in the first row",
            expected="a header of gene names over rows of a spot name and its counts",
            where=str(path),
            advice="check the delimiter: .csv is read with commas, .tsv with tabs",
        )
    if sum(bool(ST_SPOT.match(gene)) for gene in genes) > len(genes) / 2:
        raise DataError(
            f"columns are named like spots ({genes[0]!r})",
            expected="spots as rows and genes as columns",
            where=str(path),
            advice="transpose the table",
        )
    return genes


def _counted(names: list[str]) -> NDArray[np.int64]:
    """Columns whose cells are counts: those about spots may hold anything, and stay empty."""
    return np.flatnonzero([not is_spot_metadata(name) for name in names])


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
        genes = [field.name for field in schema if field.name != spot]
        if other := [name for name in names if name != spot and not is_spot_metadata(name)]:
            raise DataError(f"column {other[0]!r} holds text", expected="counts", where=str(path))
        counted = _counted(genes)
        spots: list[str] = []
        rows: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        for batch in file.iter_batches(256):
            values = np.column_stack(
                [np.asarray(batch.column(genes[at]).to_numpy(zero_copy_only=False), float) for at in counted.tolist()]
            )
            spots.extend(str(name) for name in batch.column(spot).to_pylist())
            rows.extend((counted[np.flatnonzero(row)], row[np.flatnonzero(row)]) for row in values)
    return _gather(spots, genes, rows, path=path)


def _holds_text(kind: Any) -> bool:
    """Whether an Arrow type is text, as categories and views too."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
