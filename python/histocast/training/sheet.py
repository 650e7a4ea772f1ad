"""The training sheet: ``sample,slide,counts,patient[,spots][,mpp]``."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from histocast.errors import DataError, ErrorCollector, HistocastError, MissingInputError
from histocast.records import Record
from histocast.units import check_um_per_px

REQUIRED = ("sample", "slide", "counts", "patient")
OPTIONAL = ("spots", "mpp")

# A sample names a folder and files, also on object stores.
SAMPLE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")


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
    """Path or ``s3://`` URI of the counts (see `histocast.training.counts`)."""
    patient: str
    """Pseudonym: sections of one patient never stand on both sides of a split."""
    spots: str | None = None
    """Table of measured spots; grids have no names to align counts with."""
    mpp: float | None = None


def read_training_sheet(path: Path) -> tuple[TrainingRow, ...]:
    """Read and judge a training sheet; relative paths begin at its folder, behind any symbolic link.

    Raises
    ------
    MissingInputError
        There is no such file.
    DataError
        Every fault of the sheet, in one message.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream, restkey="", strict=True)
            header = list(table.fieldnames or ())
            rows = [(table.line_num, row) for row in table]
    except FileNotFoundError as error:
        raise MissingInputError("no such file", expected=",".join(REQUIRED), where=str(path)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not a CSV table: {error}", expected=",".join(REQUIRED), where=str(path)) from error
    faults = ErrorCollector(str(path))
    _judge_header(header, faults)
    found = [] if faults else [_judge_row(row, line, path.resolve().parent, faults) for line, row in rows]
    if not rows and not faults:
        faults.add("no section", expected="a row a section")
    seen: dict[str, int] = {}
    for (line, _), row in zip(rows, found, strict=False):
        if row is not None and seen.setdefault(row.sample, line) != line:
            faults.add(f"{row.sample!r} stands on line {seen[row.sample]} too", row=line, column="sample")
    _judge_patients([row.patient for row in found if row is not None], faults)
    faults.raise_if_any("mend the sheet and run again")
    return tuple(row for row in found if row is not None)


def same_people(patient: str, data_set: str) -> bool:
    """Whether sections of this patient are in another data set too, which ``data_set`` names."""
    return any(
        patient in people and data_set in PEOPLE_IN_TWO and data_set != name for name, people in PEOPLE_IN_TWO.items()
    )


def _judge_patients(patients: list[str], faults: ErrorCollector) -> None:
    met = {name: sorted(people.intersection(patients)) for name, people in PEOPLE_IN_TWO.items()}
    if all(met.values()):
        faults.add(
            " and ".join(", ".join(people) for people in met.values()) + " are the same people",
            expected="each patient under one name, so that none stands on both sides of a split",
            advice="leave one of them out: histocast training-sheet --beside",
        )


def _judge_header(header: list[str], faults: ErrorCollector) -> None:
    expected = f"{','.join(REQUIRED)}[,{'][,'.join(OPTIONAL)}]"
    for name in REQUIRED:
        if name not in header:
            faults.add(f"no column {name!r}", row=1, expected=expected)
    for name in header:
        if name not in (*REQUIRED, *OPTIONAL):
            faults.add(f"unknown column {name!r}", row=1, expected=expected)
        if header.count(name) > 1:
            faults.add(f"column {name!r} appears twice", row=1, expected=expected)


def _judge_row(row: dict[str, str | None], line: int, folder: Path, faults: ErrorCollector) -> TrainingRow | None:
    cells = {name: (value or "").strip() for name, value in row.items() if name}
    before = len(faults)
    if "" in row:
        faults.add("more cells than columns", row=line, advice="quote values that hold commas")
    for name in REQUIRED:
        if not cells.get(name):
            faults.add("empty", row=line, column=name, expected="a value")
    if cells.get("sample") and not SAMPLE_NAME.match(cells["sample"]):
        faults.add(f"{cells['sample']!r}", row=line, column="sample", expected="letters, digits, '_', '-', '.'")
    mpp = _judge_mpp(cells.get("mpp"), line, faults)
    if len(faults) > before:
        return None
    return TrainingRow(
        sample=cells["sample"],
        slide=_absolute(cells["slide"], folder),
        counts=_absolute(cells["counts"], folder),
        patient=cells["patient"],
        spots=_absolute(cells["spots"], folder) if cells.get("spots") else None,
        mpp=mpp,
    )


def _judge_mpp(cell: str | None, line: int, faults: ErrorCollector) -> float | None:
    if not cell:
        return None
    try:
        return check_um_per_px(float(cell), where="mpp")
    except ValueError:
        faults.add(f"{cell!r}", row=line, column="mpp", expected="micrometres per pixel, such as 0.5")
    except HistocastError as error:
        faults.add(error.found, row=line, column="mpp", expected=error.expected)
    return None


def _absolute(uri: str, folder: Path) -> str:
    return uri if "://" in uri else str((folder / uri).resolve())
