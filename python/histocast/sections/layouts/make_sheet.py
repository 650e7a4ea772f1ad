"""A training sheet from a published data set."""

from __future__ import annotations

import gzip
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from histocast.artifacts import write_atomically, write_csv
from histocast.errors import DataError, ErrorCollector, MissingInputError, UsageError
from histocast.progress import log, track
from histocast.sections.layouts.hest1k import find_hest1k
from histocast.sections.layouts.published_section import PublishedSection, SheetOptions, SpotRow
from histocast.sections.layouts.spatial_transcriptomics import find_cscc, find_her2st, find_stnet
from histocast.sections.layouts.visium import find_visium
from histocast.sections.read_training_sheet import COLUMNS, TrainingRow, read_training_sheet, same_people
from histocast.tiles.spots import read_spots
from histocast.units import check_um_per_px

SHEET_FILE = "training.csv"

Finder = Callable[[Path, SheetOptions, ErrorCollector], Iterator[PublishedSection]]

LAYOUTS: dict[str, Finder] = {
    "her2st": find_her2st,
    "cscc": find_cscc,
    "stnet": find_stnet,
    "hest1k": find_hest1k,
    "visium": find_visium,
}


def make_training_sheet(
    folder: Path, *, layout: str, outdir: Path, options: SheetOptions | None = None, beside: Sequence[str] = ()
) -> tuple[TrainingRow, ...]:
    """Write ``outdir/training.csv`` for the sections of a published data set, and return its rows.

    Images that are published packed are unpacked into ``outdir/slides``; spot tables of a form of their own are
    written anew into ``outdir/spots``. Everything else stays where it is.

    ``beside``: data sets that are trained or scored on together with this one: patients of theirs are left out.
    Raises `UsageError`: there is no such layout, a sample that is asked for is not there, or nothing is left;
    `MissingInputError` or `DataError`: the folder is not in this layout; every file that is missing, in one message.
    """
    chosen = options or SheetOptions()
    for name in (layout, *beside):
        if name not in LAYOUTS:
            raise UsageError(f"no layout {name!r}", expected=f"one of {', '.join(LAYOUTS)}")
    if not folder.is_dir():
        raise MissingInputError("no such folder", expected=f"the data set {layout}", where=str(folder))
    faults = ErrorCollector(str(folder))
    sections = list(LAYOUTS[layout](folder.resolve(), chosen, faults))
    faults.raise_if_any("fetch what is missing, or name the sections to take by --sample")
    if absent := [sample for sample in chosen.samples if sample not in {section.sample for section in sections}]:
        raise UsageError(f"no section {', '.join(absent)}", expected=f"sections of {layout}", where=str(folder))
    kept = [section for section in sections if not any(same_people(section.patient, other) for other in beside)]
    if len(kept) < len(sections):
        left = sorted({section.patient for section in sections} - {section.patient for section in kept})
        log(f"training-sheet: left out {', '.join(left)}, who are in {', '.join(beside)} too")
    if not kept:
        raise UsageError("no section", expected=f"sections in the layout of {layout}", where=str(folder))
    rows = [
        _row(section, outdir, chosen)
        for section in track(kept, label="training-sheet", total=len(kept), unit="sections")
    ]
    _write_sheet(outdir / SHEET_FILE, rows)
    log(f"training-sheet: {len(rows)} sections of {len({row.patient for row in rows})} patients")
    return read_training_sheet(outdir / SHEET_FILE)


def _row(section: PublishedSection, outdir: Path, options: SheetOptions) -> TrainingRow:
    spots = section.spots
    if not isinstance(spots, Path):
        spots = _write_spots(outdir / "spots" / f"{section.sample}.csv", spots())
    return TrainingRow(
        sample=section.sample,
        slide=str(_unpacked(section.slide, outdir / "slides")),
        counts=str(section.counts),
        patient=options.patients.get(section.sample, section.patient),
        spots=str(spots),
        mpp=section.um_per_px or _um_per_px(section, spots),
    )


def _um_per_px(section: PublishedSection, spots: Path) -> float:
    pitch_px = read_spots(spots).pitch_level0_px()
    if section.pitch_um is None or pitch_px is None:
        raise DataError("fewer than two spots", expected="neighbours, whose distance tells the scale", where=str(spots))
    return round(check_um_per_px(section.pitch_um / pitch_px, where=f"section {section.sample}"), 5)


def _write_spots(path: Path, rows: Sequence[SpotRow]) -> Path:
    placed = all(row.array_row is not None and row.array_col is not None for row in rows)
    written = [
        {"spot": row.name, "x": row.x_level0_px, "y": row.y_level0_px}
        | ({"array_row": row.array_row, "array_col": row.array_col} if placed else {})
        | {"in_tissue": int(row.in_tissue)}
        for row in rows
    ]
    write_csv(path, written)
    return path.resolve()


def _unpacked(path: Path, folder: Path) -> Path:
    if path.suffix != ".gz":
        return path
    target = folder / path.stem
    if not target.is_file():
        try:
            with gzip.open(path) as source, write_atomically(target) as temporary, temporary.open("wb") as stream:
                shutil.copyfileobj(source, stream)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"not a whole gzip file: {error}", where=str(path), advice="fetch it again") from error
    return target.resolve()


def _write_sheet(path: Path, rows: Sequence[TrainingRow]) -> None:
    names = (*COLUMNS.required, *COLUMNS.optional)
    write_csv(path, [{name: getattr(row, name) for name in names} for row in rows])
