"""HER2ST, cSCC and STNet: legacy Spatial Transcriptomics arrays, each in its own layout."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from histocast.errors import DataError, ErrorCollector
from histocast.sections.layouts.published_section import (
    PublishedSection,
    SheetOptions,
    SpotRow,
    first_folder,
    only_file,
)
from histocast.text_file import open_text
from histocast.text_table import TableColumns, read_text_table

HER2ST_PITCH_UM = STNET_PITCH_UM = 200.0
CSCC_PITCH_UM = 150.0
"""Of the denser arrays of Ji et al. 2020: spots of 110 um."""

HER2ST_COUNTS = ("data/ST-cnts", "ST-cnts", "count-matrices", "counts")
HER2ST_SPOTS = ("data/ST-spotfiles", "ST-spotfiles", "spot-selections", "spot-selection", "spots")
HER2ST_IMAGES = ("data/ST-imgs", "ST-imgs", "images/HE", "images")
_HER2ST_SECTION = re.compile(r"^(([A-H])[1-6])\.tsv(?:\.gz)?$")

_CSCC_COUNTS = re.compile(r"^(?:GSM\d+_)?((P\d+)_ST_rep\d+)_stdata\.tsv(?:\.gz)?$")

STNET_COLUMNS = TableColumns(
    required=("patient", "replicate", "count_matrix", "histology_image", "spot_coordinates"), others="ignore"
)
_STNET_PREFIX = re.compile(r"(?<![A-Z])B[CT](?=\d{5})")
_ARRAY_PLACE = re.compile(r"^(\d+)x(\d+)$")


def find_her2st(folder: Path, options: SheetOptions, faults: ErrorCollector) -> Iterator[PublishedSection]:
    """36 sections of patients A to H: the authors' repository, or its Zenodo archives.

    Patients are named ``her2st-A`` ... Images do not state a resolution: it follows from the array.
    """
    counts = first_folder(folder, HER2ST_COUNTS, what="count matrices")
    spots = first_folder(folder, HER2ST_SPOTS, what="spot selections")
    images = first_folder(folder, HER2ST_IMAGES, what="images")
    for path in sorted(counts.iterdir()):
        match = _HER2ST_SECTION.match(path.name)
        if not match or not options.takes(match[1]):
            continue
        sample, letter = match.groups()
        table = only_file(
            [spots / f"{sample}_selection.tsv", spots / f"{sample}_selection.tsv.gz"],
            faults,
            what=f"spots of {sample}",
            expected=f"{sample}_selection.tsv",
        )
        # The repository keeps the scanner's file names in one folder per section.
        places = [*(images / letter / sample).glob("*.jpg"), images / f"{sample}.jpg"]
        slide = only_file(
            places, faults, what=f"image of {sample}", expected=f"{letter}/{sample}/*.jpg or {sample}.jpg"
        )
        if table and slide:
            pitch_um = options.pitch_um or HER2ST_PITCH_UM
            yield PublishedSection(sample, f"her2st-{letter}", slide, path, table, pitch_um=pitch_um)


def find_cscc(folder: Path, options: SheetOptions, faults: ErrorCollector) -> Iterator[PublishedSection]:
    """Sections ``P2_ST_rep1`` ... of GSE144240, as GEO names them, packed or not; patients ``cscc-P2`` ..."""
    for path in sorted(folder.rglob("*_stdata.tsv*")):
        match = _CSCC_COUNTS.match(path.name)
        if not match or not options.takes(match[1]):
            continue
        sample, patient = match.groups()
        beside = [*path.parent.iterdir()]
        table = only_file(
            [
                file
                for file in beside
                if re.fullmatch(rf"(GSM\d+_)?spot_data-selection-{sample}\.tsv(\.gz)?", file.name)
            ],
            faults,
            what=f"spots of {sample}",
            expected=f"GSM..._spot_data-selection-{sample}.tsv.gz",
        )
        slide = only_file(
            [file for file in beside if re.fullmatch(rf"(GSM\d+_)?{sample}\.jpg(\.gz)?", file.name)],
            faults,
            what=f"image of {sample}",
            expected=f"GSM..._{sample}.jpg.gz",
        )
        if table and slide:
            pitch_um = options.pitch_um or CSCC_PITCH_UM
            yield PublishedSection(sample, f"cscc-{patient}", slide, path, table, pitch_um=pitch_um)


def find_stnet(folder: Path, options: SheetOptions, faults: ErrorCollector) -> Iterator[PublishedSection]:
    """Sections ``BC23209_C1`` ... by the rows of ``metadata.csv``; patients ``stnet-BC23209`` ..."""
    table_of_sections = read_text_table(options.metadata or folder / "metadata.csv", STNET_COLUMNS)
    for row in (section.cells for section in table_of_sections):
        patient = _STNET_PREFIX.sub("BC", row["patient"])
        sample = f"{patient}_{row['replicate']}"
        if not options.takes(sample):
            continue
        files = [
            only_file(_spellings(folder, row[column]), faults, what=f"{column} of {sample}", expected=row[column])
            for column in ("count_matrix", "histology_image", "spot_coordinates")
        ]
        counts, slide, table = files
        if counts and slide and table:
            yield PublishedSection(
                sample,
                f"stnet-{patient}",
                slide,
                counts,
                partial(read_stnet_spots, table),
                pitch_um=options.pitch_um or STNET_PITCH_UM,
            )


def _spellings(folder: Path, name: str) -> Sequence[Path]:
    """A file by the name in the table, or with BT for BC or BC for BT, which the data set mixes."""
    names = (name, _STNET_PREFIX.sub("BC", name), _STNET_PREFIX.sub("BT", name))
    found = [folder / each for each in dict.fromkeys(names) if (folder / each).is_file()]
    return found[:1]


def read_stnet_spots(path: Path) -> list[SpotRow]:
    """Spots of ``spots_<section>.csv.gz``: a nameless column ``<column>x<row>``, then X and Y in image pixels.

    Raises `DataError`: the table has another form.
    """
    expected = "a column of places such as 10x12, then X and Y"
    with open_text(path, expected=expected) as stream:
        header, *rows = [cells for cells in csv.reader(stream) if cells] or [[]]
    if header[1:] != ["X", "Y"]:
        raise DataError(f"columns {header}", expected=expected, where=str(path))
    found = []
    for number, cells in enumerate(rows, start=2):
        place = _ARRAY_PLACE.match(cells[0])
        if not place or len(cells) != len(header):
            raise DataError(f"{cells}", expected=expected, where=f"{path}, line {number}")
        try:
            x, y = float(cells[1]), float(cells[2])
        except ValueError as error:
            raise DataError(f"{cells}", expected=expected, where=f"{path}, line {number}") from error
        found.append(SpotRow(cells[0], x, y, array_row=int(place[2]), array_col=int(place[1])))
    return found
