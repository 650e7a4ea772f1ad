"""What a command line says about the sections of a data set: patients by table, columns by value."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from histocast.errors import DataError, MissingInputError, UsageError


def read_patients(path: Path) -> dict[str, str]:
    """Read a table ``sample,patient``.

    Raises
    ------
    MissingInputError
        There is no such file.
    DataError
        A column is missing, a cell is empty, or a sample stands twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            rows = [(table.line_num, row.get("sample") or "", row.get("patient") or "") for row in table]
    except FileNotFoundError as error:
        raise MissingInputError("no such file", expected="sample,patient", where=str(path)) from error
    found: dict[str, str] = {}
    for line, sample, patient in rows:
        if not sample.strip() or not patient.strip():
            raise DataError("an empty cell", expected="sample,patient", where=f"{path}, line {line}")
        if sample.strip() in found:
            raise DataError(
                f"{sample.strip()!r} stands twice", expected="each sample once", where=f"{path}, line {line}"
            )
        found[sample.strip()] = patient.strip()
    return found


def read_choices(texts: Sequence[str]) -> dict[str, str]:
    """``column=value`` each, as a table.

    Raises
    ------
    UsageError
        One is not.
    """
    found = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise UsageError(f"--where {text!r}", expected="column=value, such as organ=Skin")
        found[column.strip()] = value.strip()
    return found
