"""Tables that people write in a text editor or a spreadsheet: samplesheets, training sheets, lists of patients.

Read cell by cell, so that every fault has its line. A byte order mark, CRLF, quotes, blanks around cells and empty rows
are accepted, because spreadsheet programs write them. Other delimiters and other encodings are refused by name.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from histocast.errors import DataError, ErrorCollector, HistocastError, MissingInputError
from histocast.units import check_um_per_px

CLOSE = 0.75
"""Likeness (`difflib`) above which another name is suggested: a slip of a letter or two."""

_OTHER_DELIMITERS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_NOT_IN_GENES = {'"': "quotes", "'": "quotes", ";": "a semicolon", ",": "a comma", "\t": "a tab", "\0": "zero bytes"}


@dataclass(frozen=True)
class TableRow:
    """One row that is not empty."""

    line: int
    """First line of the row in the file, from 1."""
    cells: dict[str, str]
    """Cells by column name, without blanks around them."""


@dataclass(frozen=True)
class TableColumns:
    """The columns that a table has."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    others: Literal["refuse", "ignore", "keep"] = "refuse"
    """What to do with a column that is in neither; ``keep`` refuses what looks like a slip for one of them."""
    kept: tuple[str, ...] = ()
    """Columns that are no slip, however they look."""

    def __str__(self) -> str:
        return ",".join(self.required) + "".join(f"[,{name}]" for name in self.optional)


def read_text_table(path: Path, columns: TableColumns) -> list[TableRow]:
    """Read a table from a file.

    Raises `MissingInputError`: there is no such file, or it may not be read; `DataError`: every fault of the table, in
    one message.
    """
    faults = ErrorCollector(str(path))
    rows = parse_text_table(read_bytes(path, expected=f"a table {columns}"), columns, faults)
    faults.raise_if_any()
    return rows


def read_bytes(path: Path, *, expected: str) -> bytes:
    """Read a small file whole.

    Raises `MissingInputError`: there is no such file, or it may not be read; `DataError`: it is a folder, a device or a
    pipe.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError("not a regular file", expected=expected, where=str(path))
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingInputError("no such file", expected=expected, where=str(path)) from error
    except PermissionError as error:
        raise MissingInputError("may not be read", where=str(path), advice="ask for permission to read it") from error


def read_gene_list(path: Path, faults: ErrorCollector) -> list[tuple[int, str]]:
    """Read a list with one gene per line, as line and name; empty lines and what follows ``#`` are skipped.

    A line that holds quotes or several genes is added to ``faults``, and left out.

    Raises `MissingInputError`: there is no such file, or it may not be read; `DataError`: it is no UTF-8 text.
    """
    expected = "one gene per line"
    try:
        text = read_bytes(path, expected=expected).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("not a text file", expected=expected, where=str(path), advice="save it as UTF-8") from error
    genes = []
    for line, content in enumerate(text.splitlines(), start=1):
        name = content.split("#", 1)[0].strip()
        said = next((what for sign, what in _NOT_IN_GENES.items() if sign in name), None)
        if said:
            faults.add(
                f"{name[:40]!r} holds {said}", row=line, expected=expected, advice="write one name per line, bare"
            )
        elif name:
            genes.append((line, name))
    return genes


def parse_text_table(data: bytes, columns: TableColumns, faults: ErrorCollector) -> list[TableRow]:
    """Read the rows of a CSV table; what is wrong with it is added to ``faults``, and rows with a fault are left out."""
    text = _decode(data, columns, faults)
    lines = list(_split(text, faults)) if text is not None else []
    if not lines:
        if not faults:
            faults.add("the file is empty", expected=f"a header {columns}, and one row for each of them")
        return []
    header_line, names = lines[0]
    header = [name.strip() for name in names]
    if not _uses_commas(header, header_line, faults):
        return []
    _check_header(header, header_line, columns, faults)
    if not set(header) & {*columns.required, *columns.optional}:
        return []
    body = [(line, cells) for line, cells in lines[1:] if any(cell.strip() for cell in cells)]
    if not body and not faults:
        faults.add("a header and no rows", row=header_line, expected="one row or more")
    return list(_rows(header, body, faults))


def parse_um_per_px(row: TableRow, faults: ErrorCollector, *, column: str = "mpp") -> float | None:
    """Read a cell of micrometres per pixel; none where it is empty or absent, or where it is added to ``faults``."""
    cell = row.cells.get(column)
    if not cell:
        return None
    expected = "micrometres per pixel of the slide, such as 0.25 for 40x or 0.5 for 20x"
    try:
        # Python itself would read "0_5" as 5.
        return check_um_per_px(float(cell.replace("_", "no digit")), where=column)
    except ValueError:
        advice = "write a decimal point" if re.fullmatch(r"\d+,\d+", cell) else None
        faults.add(f"{cell!r} is no number", row=row.line, column=column, expected=expected, advice=advice)
    except HistocastError as error:
        faults.add(error.found, row=row.line, column=column, expected=error.expected)
    return None


def _decode(data: bytes, columns: TableColumns, faults: ErrorCollector) -> str | None:
    advice = "save the table as 'CSV UTF-8'"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        faults.add("the text is UTF-16", expected="UTF-8", advice=advice)
    elif b"\0" in data or data[:4] == b"PK\x03\x04":
        faults.add("the file is no text", expected=f"a CSV table {columns}", advice=advice)
    else:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            faults.add(f"the byte 0x{data[error.start]:02x} is not UTF-8", row=line, expected="UTF-8", advice=advice)
    return None


def _split(text: str, faults: ErrorCollector) -> Iterator[tuple[int, list[str]]]:
    """Yield each row's first line and cells; rows without any character are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.add(f"quotes do not match ({error})", row=line, expected='cells with commas as "a,b"')
            return
        if any(cell.strip() for cell in cells) or len(cells) > 1:
            yield line, cells
        line = reader.line_num + 1


def _uses_commas(header: Sequence[str], line: int, faults: ErrorCollector) -> bool:
    for delimiter, name in _OTHER_DELIMITERS.items():
        if len(header) == 1 and delimiter in header[0]:
            faults.add(
                f"columns are separated by {name}",
                row=line,
                expected="commas",
                advice="save the table as CSV with commas (in Excel: 'CSV UTF-8')",
            )
            return False
    return True


def _check_header(header: list[str], line: int, columns: TableColumns, faults: ErrorCollector) -> None:
    known = (*columns.required, *columns.optional)
    missing = [name for name in known if name not in header]
    # Without a name that is close to a known one this may be no such table at all, and is not shown.
    is_header = any(get_close_matches(name.lower(), known, cutoff=CLOSE) for name in header)
    for number, name in enumerate(header if is_header else (), start=1):
        is_repeated = header.index(name) != number - 1
        near = [] if name in columns.kept else get_close_matches(name.lower(), missing, n=1, cutoff=CLOSE)
        if name and is_repeated and (name in known or columns.others == "keep"):
            faults.add("the column appears twice", row=line, column=name, expected=str(columns))
        elif name in known or columns.others == "ignore":
            continue
        elif not name:
            faults.add(f"column {number} has no name", row=line, expected=str(columns))
        elif near or columns.others == "refuse":
            advice = f"did you mean {near[0]!r}?" if near else "remove the column"
            faults.add("an unknown column", row=line, column=name, expected=str(columns), advice=advice)
    for name in columns.required:
        if name in missing:
            faults.add("the column is missing", row=line, column=name, expected=str(columns))


def _rows(header: list[str], body: list[tuple[int, list[str]]], faults: ErrorCollector) -> Iterator[TableRow]:
    for line, cells in body:
        if len(cells) != len(header):
            advice = 'write a cell that holds a comma in quotes: "a,b"' if len(cells) > len(header) else None
            count = f"{len(cells)} cell{'s' if len(cells) != 1 else ''}"
            faults.add(count, row=line, expected=f"{len(header)}, as in the header", advice=advice)
            continue
        yield TableRow(line, {name: cell.strip() for name, cell in zip(header, cells, strict=True)})
