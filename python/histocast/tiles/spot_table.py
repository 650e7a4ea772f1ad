"""A table of spots as text or Parquet, column by column, with the line each row stands on."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError, ErrorCollector
from histocast.storage import open_source

MAX_LISTED = 20
"""Rows told one by one for each kind of fault; a swapped column would otherwise fill the log."""

FLAGS = {
    **dict.fromkeys(("1", "1.0", "true", "t", "yes", "y"), True),
    **dict.fromkeys(("0", "0.0", "false", "f", "no", "n"), False),
}
"""Spellings of yes and no, whatever their case."""

VISIUM_COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
_KNOWN = {*VISIUM_COLUMNS, "spot", "x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"}
_DELIMITERS = "\t,;"
_MAX_TEXT_BYTES = 1 << 30
"""Text of the finest arrays, eleven million spots, stays below it; a gzip file can unpack to a thousand times its size."""
_MAX_NUMBER = 2**31
_EXPECTED = (
    "a Spatial Transcriptomics selection (x, y, pixel_x, pixel_y), Visium tissue_positions (.csv or .parquet), "
    "or CSV with the columns x, y"
)


@dataclass(frozen=True)
class SpotTable:
    """Cells by column name (lower case), in the table's order."""

    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]
    """Line of each row in the file, from 1; in Parquet, number of the row."""

    def __len__(self) -> int:
        return len(self.lines)

    def numbers(self, name: str, faults: ErrorCollector, *, whole: bool = False) -> NDArray[np.float64]:
        """A column as float64 [row]; what is no number, or one beyond any slide, is noted as a fault and becomes NaN."""
        cells = self.columns[name]
        values = np.array([_to_float(cell) for cell in cells], np.float64)
        with np.errstate(invalid="ignore"):
            good = np.isfinite(values) & (np.abs(values) < _MAX_NUMBER)
            if whole:
                good &= values == np.round(values)
        self.note(
            np.flatnonzero(~good),
            faults,
            lambda row: _quoted(cells[row]),
            column=name,
            expected="a whole number" if whole else "a number",
        )
        return np.where(good, values, np.nan)

    def flags(self, name: str, faults: ErrorCollector) -> NDArray[np.bool_]:
        """A column of yes and no as bool [row], in any of the spellings of `FLAGS`."""
        cells = self.columns[name]
        found = [parse_flag(cell) for cell in cells]
        unknown = np.flatnonzero([flag is None for flag in found])
        self.note(unknown, faults, lambda row: _quoted(cells[row]), column=name, expected="0 or 1, true or false")
        return np.array([bool(flag) for flag in found], np.bool_)

    def names(self, name: str, faults: ErrorCollector) -> list[str]:
        """A column of names, none of them empty."""
        cells = [_to_text(cell) for cell in self.columns[name]]
        empty = np.flatnonzero([not cell for cell in cells])
        self.note(empty, faults, lambda _: "an empty cell", column=name, expected="the spot's name")
        return cells

    def note(
        self,
        rows: NDArray[np.int64],
        faults: ErrorCollector,
        say: Callable[[int], str],
        *,
        column: str | None = None,
        expected: str | None = None,
        advice: str | None = None,
    ) -> None:
        """Note a fault for each of ``rows``, the first `MAX_LISTED` of them one by one."""
        for row in rows[:MAX_LISTED]:
            faults.add(say(int(row)), row=self.lines[int(row)], column=column, expected=expected, advice=advice)
        if len(rows) > MAX_LISTED:
            faults.add(f"and {len(rows) - MAX_LISTED} more lines with the same fault", column=column, expected=expected)


def parse_flag(cell: object) -> bool | None:
    """Yes or no in any of the spellings of `FLAGS`; none for anything else."""
    return FLAGS.get(str(cell).strip().lower())


def read_spot_table(path: Path) -> SpotTable:
    """Read a table of spots, a regular file; text may be tab, comma or semicolon separated, gzipped, with BOM or CRLF.

    A Visium ``tissue_positions_list.csv`` has no header; its columns are known by their number.

    Raises `MissingInputError`: there is no such file, or it may not be read; `DataError`: it is no text and no Parquet,
    it is empty, or its rows have different lengths.
    """
    with open_source(str(path)) as source:
        data = source.read(0, source.stat().size_bytes)
    if data[:4] == b"PAR1":
        return _read_parquet(data, path)
    return _read_text(_decode(data, path), path)


def unknown_layout(columns: Sequence[str], where: str, *, advice: str | None = None) -> DataError:
    """Return the error for a table whose columns are those of no known layout.

    They are quoted where one of them is known: else the file may be no table at all, and its content is not shown.
    """
    listed = ", ".join(repr(column) for column in columns[:12])
    found = f"columns {listed}" if _KNOWN.intersection(columns) else f"{len(columns)} columns, none of a known name"
    return DataError(found, expected=_EXPECTED, where=where, advice=advice)


def _decode(data: bytes, path: Path) -> str:
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(_MAX_TEXT_BYTES + 1)
        if len(data) > _MAX_TEXT_BYTES:
            raise DataError("more than 1 GiB of text", expected=_EXPECTED, where=str(path))
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError("not UTF-8 text", expected=_EXPECTED, where=str(path)) from error
    if "\0" in text:
        raise DataError("not text", expected=_EXPECTED, where=str(path))
    if not text.strip():
        raise DataError("an empty file", expected=_EXPECTED, where=str(path))
    return text


def _read_text(text: str, path: Path) -> SpotTable:
    first = next(line for line in text.splitlines() if line.strip())
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows, lines = [], []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append([cell.strip() for cell in cells])
                lines.append(reader.line_num)
    except csv.Error as error:
        where = f"{path}, line {reader.line_num}"
        raise DataError(f"not a row of a table: {error}", expected=_EXPECTED, where=where) from error
    if len(rows[0]) == len(VISIUM_COLUMNS) and all(not math.isnan(_to_float(cell)) for cell in rows[0][1:]):
        header = list(VISIUM_COLUMNS)
    else:
        header, rows, lines = [cell.lower() for cell in rows[0]], rows[1:], lines[1:]
    _check_shape(header, rows, lines, where=str(path))
    columns = {name: [row[number] for row in rows] for number, name in enumerate(header)}
    return SpotTable(columns, lines)


def _check_shape(header: list[str], rows: list[list[str]], lines: list[int], *, where: str) -> None:
    faults = ErrorCollector(where)
    _check_header(header, faults)
    ragged = [at for at, row in enumerate(rows) if len(row) != len(header)]
    for at in ragged[:MAX_LISTED]:
        faults.add(f"{len(rows[at])} cells", row=lines[at], expected=f"{len(header)} cells, as in the header")
    if len(ragged) > MAX_LISTED:
        faults.add(f"and {len(ragged) - MAX_LISTED} more lines of another length")
    if not rows:
        faults.add("a header and no spots", expected="one line per spot")
    faults.raise_if_any()


def _check_header(header: Sequence[str], faults: ErrorCollector) -> None:
    for name in sorted({name for name in header if name in _KNOWN and header.count(name) > 1}):
        faults.add("the column appears twice", row=1, column=name, expected="each column once")


def _read_parquet(data: bytes, path: Path) -> SpotTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError("not a readable Parquet file", expected=_EXPECTED, where=str(path)) from error
    if table.num_rows == 0:
        raise DataError("no spots", expected="one row per spot", where=str(path))
    faults = ErrorCollector(str(path))
    _check_header([name.lower() for name in table.column_names], faults)
    faults.raise_if_any()
    columns = {
        name.lower(): column.to_numpy()
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        else column.to_pylist()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return SpotTable(columns, range(1, table.num_rows + 1))


def _to_text(cell: object) -> str:
    """The text of a cell without blanks around it; other programs write names of spots as bytes."""
    text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
    return "" if text is None else str(text).strip()


def _quoted(cell: object) -> str:
    return repr(cell if isinstance(cell, str) else str(cell))


def _to_float(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
