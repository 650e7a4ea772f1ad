"""Read which genes are asked for."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from histocast.errors import DataError, MissingInputError

# The columns that name a gene in panels, count matrices' feature tables and DataFrames, the surest first.
COLUMNS = ("gene_symbol", "symbol", "gene_id", "ensembl_id", "gene")


def read_symbols(path: Path) -> list[tuple[int, str]]:
    """Read the genes of a panel, each with its line: a gene a line, or a CSV, TSV or Parquet table.

    Of a table the first column of `COLUMNS` that it has is taken. Empty lines and what follows ``#`` are skipped.

    Raises
    ------
    MissingInputError, DataError
        There is no such file, or it is not one of these.
    """
    if not path.is_file():
        raise MissingInputError("no such file", expected="a gene a line, or a table", where=str(path))
    if path.suffix == ".parquet":
        return _read_parquet(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError("not a text file", expected="a gene a line, or a table", where=str(path)) from error
    delimiter = next((mark for mark in "\t," if lines and mark in lines[0]), None)
    if delimiter is None:
        start = 1 if lines and lines[0].strip() in COLUMNS else 0
        cells = [line.split("#", 1)[0].strip() for line in lines]
        return [(number, cell) for number, cell in enumerate(cells, start=1) if cell and number > start]
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"not a table: {error}", expected="a gene a line, or a table", where=str(path)) from error
    place = rows[0].index(_column(rows[0], path))
    named = ((number, row[place].strip() if len(row) > place else "") for number, row in enumerate(rows, start=1))
    return [(number, name) for number, name in named if name and number > 1]


def _read_parquet(path: Path) -> list[tuple[int, str]]:
    import pyarrow.parquet as pq

    from histocast.parquet_damage import refuse_damaged_parquet

    with refuse_damaged_parquet(path, expected="a table of genes"):
        table = pq.read_table(path)
    values = table[_column(table.column_names, path)].to_pylist()
    return [(number, str(value)) for number, value in enumerate(values, start=1) if value]


def _column(header: Sequence[str], path: Path) -> str:
    for name in COLUMNS:
        if name in header:
            return name
    raise DataError(
        f"columns {', '.join(header[:8])}", expected=f"one of the columns {', '.join(COLUMNS)}", where=str(path)
    )
