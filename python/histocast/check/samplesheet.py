"""The samplesheet: ``sample,slide[,mpp][,spots]``, read cell by cell so that every fault has its line.

Spreadsheet programs write a byte order mark, CRLF, quotes, blanks around cells and empty rows at the end: all
of that is accepted. What they also write, and what is told, are other delimiters and other encodings.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from histocast.errors import ErrorCollector, HistocastError
from histocast.storage import open_source
from histocast.units import check_um_per_px

REQUIRED = ("sample", "slide")
OPTIONAL = ("mpp", "spots")
COLUMNS = (*REQUIRED, *OPTIONAL)
HEADER = "sample,slide[,mpp][,spots]"

# A sample names a folder and files, locally and in object stores.
_SAMPLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
# These stand beside the samples' folders.
_RESERVED = {"pipeline_info", "summary.html", "summary.parquet"}
_OTHER_DELIMITERS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars"}


@dataclass(frozen=True)
class SheetRow:
    """One row without a fault of its own; locations are absolute."""

    line: int
    """Of the file, from 1."""
    sample: str
    slide: str
    mpp: float | None
    spots: str | None


def read_samplesheet(uri: str) -> tuple[list[SheetRow], ErrorCollector]:
    """Read a samplesheet from a path or ``s3://`` URI and judge each of its cells.

    Returns
    -------
    tuple
        The rows without fault, and the faults of all others. Relative paths are resolved against the folder
        that holds the samplesheet, behind any symbolic link.

    Raises
    ------
    MissingInputError
        There is no such file, or it may not be read.
    StorageUnavailable
        The store did not answer.
    """
    with open_source(uri) as source:
        data = source.read(0, source.stat().size_bytes)
    faults = ErrorCollector(uri)
    text = _decode(data, faults)
    if text is None:
        return [], faults
    lines = list(_split(text, faults))
    if not lines:
        faults.add("the file is empty", expected=f"a header {HEADER}, and a row a slide")
        return [], faults
    header = [name.strip() for name in lines[0][1]]
    if not _judge_delimiter(header, lines[0][0], faults):
        return [], faults
    _judge_header(header, lines[0][0], faults)
    body = [(line, cells) for line, cells in lines[1:] if any(cell.strip() for cell in cells)]
    if not body:
        faults.add("a header and no rows", row=lines[0][0], expected="a row a slide")
    return _judge_rows(header, body, _folder_of(uri), faults), faults


def _decode(data: bytes, faults: ErrorCollector) -> str | None:
    advice = "save the table as 'CSV UTF-8'"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        faults.add("the text is UTF-16", expected="UTF-8", advice=advice)
        return None
    if b"\0" in data or data[:4] == b"PK\x03\x04":
        faults.add("the file is no text", expected=f"a CSV table {HEADER}", advice=advice)
        return None
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


def _judge_delimiter(header: list[str], line: int, faults: ErrorCollector) -> bool:
    """Whether cells are separated by commas; a table of one column is told as missing the others."""
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


def _judge_header(header: list[str], line: int, faults: ErrorCollector) -> None:
    missing = [name for name in COLUMNS if name not in header]
    for number, name in enumerate(header, start=1):
        if not name:
            faults.add(f"column {number} has no name", row=line, expected=HEADER)
        elif name not in COLUMNS:
            near = get_close_matches(name.lower(), missing, n=1, cutoff=0.6)
            advice = f"did you mean {near[0]!r}?" if near else "remove the column"
            faults.add("an unknown column", row=line, column=name, expected=HEADER, advice=advice)
        elif header.index(name) != number - 1:
            faults.add("the column stands twice", row=line, column=name, expected=HEADER)
    for name in REQUIRED:
        if name in missing:
            faults.add("the column is missing", row=line, column=name, expected=HEADER)


def _judge_rows(
    header: list[str], body: list[tuple[int, list[str]]], folder: str, faults: ErrorCollector
) -> list[SheetRow]:
    rows = []
    first_line: dict[str, int] = {}
    for line, cells in body:
        before = len(faults)
        if len(cells) != len(header):
            advice = 'write a cell that holds a comma in quotes: "a,b"' if len(cells) > len(header) else None
            faults.add(
                f"{len(cells)} cell{'s' if len(cells) != 1 else ''}",
                row=line,
                expected=f"{len(header)}, as in the header",
                advice=advice,
            )
            continue
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        sample = row.get("sample", "")
        if "sample" in row:
            _judge_sample(sample, line, first_line, faults)
        slide = _judge_location("slide", row, line, folder, faults)
        spots = _judge_location("spots", row, line, folder, faults)
        mpp = _judge_mpp(row.get("mpp", ""), line, faults)
        if len(faults) == before and slide is not None and sample:
            rows.append(SheetRow(line=line, sample=sample, slide=slide, mpp=mpp, spots=spots))
    return rows


def _judge_sample(sample: str, line: int, first_line: dict[str, int], faults: ErrorCollector) -> None:
    if not sample:
        found, expected = "an empty cell", "a name of the sample"
    elif not _SAMPLE.fullmatch(sample):
        found = f"{sample!r} cannot name files"
        expected = "at most 100 of A-Z a-z 0-9 . _ -, beginning with a letter, digit or _"
    elif sample in _RESERVED:
        found, expected = f"{sample!r} is a name histocast uses itself", "another name"
    elif first_line.setdefault(sample, line) != line:
        found, expected = f"duplicate sample {sample!r}, first on line {first_line[sample]}", "each sample once"
    else:
        return
    faults.add(found, row=line, column="sample", expected=expected)


def _judge_location(column: str, row: dict[str, str], line: int, folder: str, faults: ErrorCollector) -> str | None:
    """The absolute path or URI in a cell; nothing where it is empty, which only ``slide`` may not be."""
    cell = row.get(column)
    if not cell:
        if cell is not None and column in REQUIRED:
            faults.add("an empty cell", row=line, column=column, expected="a path or s3://bucket/key")
        return None
    if cell.startswith("s3://"):
        return cell
    if "://" in cell:
        scheme = cell.partition("://")[0]
        faults.add(f"a {scheme}:// address", row=line, column=column, expected="a path or s3://bucket/key")
        return None
    if folder.startswith("s3://") and not cell.startswith("/"):
        return f"{folder}/{cell.removeprefix('./')}"
    return os.path.normpath(Path(folder) / cell)


def _judge_mpp(cell: str, line: int, faults: ErrorCollector) -> float | None:
    if not cell:
        return None
    expected = "micrometres per pixel of the slide, such as 0.25 for 40x or 0.5 for 20x"
    try:
        return check_um_per_px(float(cell), where="mpp")
    except ValueError:
        advice = "write a decimal point" if re.fullmatch(r"\d+,\d+", cell) else None
        faults.add(f"{cell!r} is no number", row=line, column="mpp", expected=expected, advice=advice)
    except HistocastError as error:
        faults.add(error.found, row=line, column="mpp", expected=error.expected)
    return None


def _folder_of(uri: str) -> str:
    if uri.startswith("s3://"):
        return uri.rpartition("/")[0]
    # A workflow engine hands over a link; relative paths were written for where the sheet truly lies.
    return str(Path(uri).resolve().parent)
