"""The training sheet: ``sample,slide,counts,patient[,spots][,mpp]``."""

from __future__ import annotations

import re
from pathlib import Path

from histocast.errors import ErrorCollector, HistocastError
from histocast.records import Record
from histocast.storage import is_in_s3
from histocast.text_table import TableColumns, TableRow, parse_text_table, parse_um_per_px, read_bytes

COLUMNS = TableColumns(required=("sample", "slide", "counts", "patient"), optional=("spots", "mpp"))

# A sample names a folder and files, also on object stores.
SAMPLE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
# A patient's pseudonym names a fold, so a folder, and is written into tables: no path, no formula, no control character.
_PATIENT_NAME = re.compile(r"\w[\w .,:()#+-]{0,99}")


PEOPLE_IN_TWO: dict[str, frozenset[str]] = {
    "her2st": frozenset(f"her2st-{letter}" for letter in "EFGH"),
    "stnet": frozenset(f"stnet-BC{number}" for number in (23567, 23810, 23903, 24044)),
}
"""Patients whose sections are in both data sets, by the names 'training-sheet' gives them. Which of the four is which
is not published, so each of one set may be any of the other."""


class TrainingRow(Record):
    """One section: a slide and what was measured on it."""

    sample: str
    slide: str
    """Path or ``s3://`` URI."""
    counts: str
    """Path or ``s3://`` URI of the counts (see `histocast.sections.counts`)."""
    patient: str
    """Pseudonym: sections of one patient never stand on both sides of a split."""
    spots: str | None = None
    """Table of measured spots; grids have no names to align counts with."""
    mpp: float | None = None


def read_training_sheet(path: Path) -> tuple[TrainingRow, ...]:
    """Read and check a training sheet; relative paths begin at its folder, behind any symbolic link.

    Raises `MissingInputError`: there is no such file; `DataError`: every fault of the sheet, in one message.
    """
    faults = ErrorCollector(str(path))
    table = parse_text_table(read_bytes(path, expected=f"a training sheet {COLUMNS}"), COLUMNS, faults)
    folder = path.resolve().parent
    rows = [found for row in table if (found := _check_row(row, folder, faults))]
    _check_samples(table, faults)
    _check_patients([row.patient for row in rows], faults)
    faults.raise_if_any("correct the sheet and run again")
    return tuple(rows)


def same_people(patient: str, data_set: str) -> bool:
    """Whether sections of this patient are in another data set too, which ``data_set`` names."""
    return any(
        patient in people and data_set in PEOPLE_IN_TWO and data_set != name for name, people in PEOPLE_IN_TWO.items()
    )


def _check_patients(patients: list[str], faults: ErrorCollector) -> None:
    found = {name: sorted(people.intersection(patients)) for name, people in PEOPLE_IN_TWO.items()}
    if all(found.values()):
        faults.add(
            " and ".join(", ".join(people) for people in found.values()) + " are the same people",
            expected="each patient under one name, so that none is on both sides of a split",
            advice="leave one of them out: histocast training-sheet --beside",
        )


def _check_samples(table: list[TableRow], faults: ErrorCollector) -> None:
    first_line: dict[str, int] = {}
    for row in table:
        sample = row.cells.get("sample", "")
        if sample and not SAMPLE_NAME.match(sample):
            faults.add(f"{sample!r}", row=row.line, column="sample", expected="letters, digits, '_', '-', '.'")
        elif sample and first_line.setdefault(sample.lower(), row.line) != row.line:
            first = first_line[sample.lower()]
            faults.add(
                f"duplicate sample {sample!r}, first on line {first}",
                row=row.line,
                column="sample",
                expected="each sample once, whether its letters are capital or small",
            )


def _check_row(row: TableRow, folder: Path, faults: ErrorCollector) -> TrainingRow | None:
    cells = row.cells
    before = len(faults)
    for name in COLUMNS.required:
        if cells.get(name) == "":
            faults.add("an empty cell", row=row.line, column=name, expected="a value")
    for name in ("slide", "counts", "spots"):
        try:
            is_in_s3(cells.get(name, ""))
        except HistocastError as error:
            faults.add(error.found, row=row.line, column=name, expected=error.expected)
    if cells.get("patient") and not _PATIENT_NAME.fullmatch(cells["patient"]):
        expected = "a pseudonym of letters, digits, blanks and . , : ( ) # + - _, which begins with a letter or digit"
        faults.add(f"{cells['patient']!r} cannot name a fold", row=row.line, column="patient", expected=expected)
    mpp = parse_um_per_px(row, faults)
    if len(faults) > before or not cells.keys() >= set(COLUMNS.required):
        return None
    return TrainingRow(
        sample=cells["sample"],
        slide=_absolute(cells["slide"], folder),
        counts=_absolute(cells["counts"], folder),
        patient=cells["patient"],
        spots=_absolute(cells["spots"], folder) if cells.get("spots") else None,
        mpp=mpp,
    )


def _absolute(uri: str, folder: Path) -> str:
    if is_in_s3(uri):
        return uri
    path = (folder / uri).absolute()
    # A link to itself ends here. Any other stays: what belongs to a slide can lie beside it or beside what it links to.
    path.resolve()
    return str(path)
