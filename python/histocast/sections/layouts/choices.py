"""What a command line says about the sections of a data set: patients by table, columns by value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histocast.errors import ErrorCollector, UsageError
from histocast.text_table import TableColumns, read_text_table


def read_patients(path: Path) -> dict[str, str]:
    """Read a table ``sample,patient``.

    Raises `MissingInputError`: there is no such file; `DataError`: a column is missing, a cell is empty, or a sample
    has two patients.
    """
    found: dict[str, str] = {}
    faults = ErrorCollector(str(path))
    for row in read_text_table(path, TableColumns(required=("sample", "patient"), others="ignore")):
        sample, patient = row.cells["sample"], row.cells["patient"]
        if not sample or not patient:
            faults.add("an empty cell", row=row.line, expected="a sample and its patient")
        elif found.setdefault(sample, patient) != patient:
            faults.add(f"{sample!r} has the patient {found[sample]!r} too", row=row.line, expected="one patient")
    faults.raise_if_any()
    return found


def read_choices(texts: Sequence[str]) -> dict[str, str]:
    """``column=value`` each, as a table.

    Raises `UsageError`: one is not.
    """
    found = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise UsageError(f"--where {text!r}", expected="column=value, such as organ=Skin")
        found[column.strip()] = value.strip()
    return found
