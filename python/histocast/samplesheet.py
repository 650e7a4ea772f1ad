"""The samplesheet: ``sample,slide[,mpp][,spots]``, and metadata in columns of any other name.

Every fault of it is found at once. A column of metadata whose name suggests an identifier of a person is a fault unless it is
allowed by name, because metadata go into results.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from histocast.errors import DataError, ErrorCollector
from histocast.personal_data import find_personal
from histocast.storage import open_source
from histocast.text_table import TableColumns, TableRow, parse_text_table, parse_um_per_px

COLUMNS = TableColumns(required=("sample", "slide"), optional=("mpp", "spots"), others="keep")

MOST_METADATA = 64
"""Columns of metadata: more than a study has, and few enough for every row to be a table's row."""
_METADATA_NAME = re.compile(r"[^/]{1,60}")
_MOST_CHARACTERS = 200

# A sample names a folder and files, locally and in object stores.
_SAMPLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
# These stand beside the samples' folders.
_RESERVED = {"pipeline_info", "cohort", "summary.html", "summary.parquet"}
# <sample>.slide.parquet must not be the <sample>.parquet of another.
_ENDINGS = (".slide", ".genes")


@dataclass(frozen=True)
class SheetRow:
    """One row without a fault of its own; locations are absolute."""

    line: int
    """Of the file, from 1."""
    sample: str
    slide: str
    mpp: float | None
    spots: str | None
    metadata: dict[str, str] = field(default_factory=dict)
    """Cells of all other columns, those that are empty left out."""


def read_samplesheet(uri: str, *, allow_metadata: Sequence[str] = ()) -> tuple[list[SheetRow], ErrorCollector]:
    """Read a samplesheet from a path or ``s3://`` URI and validate each of its cells.

    ``allow_metadata``: columns of metadata that are taken whatever their names suggest.
    Returns: the rows without fault, and the faults of all others. Relative paths are resolved against the folder that
        holds the samplesheet, behind any symbolic link.
    Raises `MissingInputError`: there is no such file, or it may not be read; `StorageUnavailable`: the store did not
    answer.
    """
    with open_source(uri) as source:
        data = source.read(0, source.stat().size_bytes)
    faults = ErrorCollector(uri)
    rows = parse_text_table(data, replace(COLUMNS, kept=tuple(allow_metadata)), faults)
    if rows:
        _judge_metadata_names(tuple(rows[0].cells), allow_metadata, faults)
    return _judge_rows(rows, _folder_of(uri), faults), faults


def _judge_metadata_names(header: Sequence[str], allowed: Sequence[str], faults: ErrorCollector) -> None:
    names = [name for name in header if name not in (*COLUMNS.required, *COLUMNS.optional)]
    if len(names) > MOST_METADATA:
        faults.add(f"{len(names)} columns of metadata", expected=f"at most {MOST_METADATA}")
    for name in allowed:
        if name not in names:
            listed = ", ".join(map(repr, names)) or "none"
            faults.add(f"no column {name!r}, which --allow_metadata names", expected=f"one of its columns: {listed}")
    for name in names:
        if not (_METADATA_NAME.fullmatch(name) and name.isprintable()):
            expected = "at most 60 characters that can be printed, none of them /"
            faults.add("a name that no table can have", column=name, expected=expected)
        elif name not in allowed and (kind := find_personal(name)):
            faults.add(
                f"the column's name suggests {kind}",
                column=name,
                expected="metadata that identify nobody, since they go into results",
                advice="remove the column (pseudonyms of patients go into a column 'patient'), or take it as it is by "
                f"--allow_metadata '{name}'",
            )


def _judge_rows(table: Sequence[TableRow], folder: str, faults: ErrorCollector) -> list[SheetRow]:
    rows = []
    seen: dict[str, tuple[int, str]] = {}
    for table_row in table:
        line, row = table_row.line, table_row.cells
        before = len(faults)
        sample = row.get("sample", "")
        if "sample" in row:
            _judge_sample(sample, line, seen, faults)
        slide = _judge_location("slide", row, line, folder, faults)
        spots = _judge_location("spots", row, line, folder, faults)
        mpp = parse_um_per_px(table_row, faults)
        metadata = _judge_metadata(table_row, faults)
        if len(faults) == before and slide is not None and sample:
            rows.append(SheetRow(line=line, sample=sample, slide=slide, mpp=mpp, spots=spots, metadata=metadata))
    return rows


def _judge_metadata(row: TableRow, faults: ErrorCollector) -> dict[str, str]:
    known = (*COLUMNS.required, *COLUMNS.optional)
    cells = {name: cell for name, cell in row.cells.items() if cell and name not in known}
    for name, cell in cells.items():
        if len(cell) > _MOST_CHARACTERS or not cell.isprintable():
            faults.add(
                f"{len(cell)} characters" if cell.isprintable() else "a character that cannot be printed",
                row=row.line,
                column=name,
                expected=f"one line of at most {_MOST_CHARACTERS} characters",
            )
    return cells


def _judge_sample(sample: str, line: int, seen: dict[str, tuple[int, str]], faults: ErrorCollector) -> None:
    if not sample:
        found, expected = "an empty cell", "a name of the sample"
    elif not _SAMPLE.fullmatch(sample):
        found = f"{sample!r} cannot name files"
        expected = "at most 100 of A-Z a-z 0-9 . _ -, beginning with a letter, digit or _"
    elif sample.casefold().endswith(_ENDINGS):
        found, expected = (
            f"{sample!r} ends like a file of another sample",
            f"no name that ends in {' or '.join(_ENDINGS)}",
        )
    elif sample.casefold() in _RESERVED:
        found, expected = f"{sample!r} is a name histocast uses itself", "another name"
    elif (first := seen.setdefault(sample.casefold(), (line, sample)))[0] != line:
        # File systems that ignore case would give both one folder.
        same = "" if first[1] == sample else f", equal but for case to {first[1]!r}"
        found, expected = f"duplicate sample {sample!r}{same}, first on line {first[0]}", "each sample once"
    else:
        return
    faults.add(found, row=line, column="sample", expected=expected)


def _judge_location(column: str, row: dict[str, str], line: int, folder: str, faults: ErrorCollector) -> str | None:
    """The absolute path or URI in a cell; nothing where it is empty, which only ``slide`` may not be."""
    cell = row.get(column)
    if not cell:
        if cell is not None and column in COLUMNS.required:
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
    location = os.path.normpath(Path(folder) / cell)
    try:
        refuse_unstageable(location, name=column)
    except DataError as error:
        faults.add(error.found, row=line, column=column, expected=error.expected, advice=error.advice)
        return None
    return location


def _folder_of(uri: str) -> str:
    if uri.startswith("s3://"):
        return uri.rpartition("/")[0]
    # A workflow engine hands over a link; relative paths were written for where the sheet truly lies.
    return str(Path(uri).resolve().parent)


# Nextflow links inputs into a task's folder by a script that leaves these characters to the shell. A task without a
# container reads such a file where it lies (modules/inputs.nf).
_UNSTAGEABLE = re.compile(r"[$*?\[{\x00-\x1f\x7f]")


def refuse_unstageable(path: str, *, name: str) -> None:
    """Raise `DataError` for a path that Nextflow cannot bring to a container, within one; the path is not quoted."""
    found = _UNSTAGEABLE.search(path)
    if found and os.environ.get("HISTOCAST_IMAGE"):
        raise DataError(
            f"a path that holds {found[0]!r}",
            expected="a path without any of $ * ? [ { and control characters, which Nextflow cannot bring to a container",
            where=name,
            advice="rename the file or the folder that has it",
        )
