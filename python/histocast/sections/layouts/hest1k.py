"""HEST-1k: ``st/<id>.h5ad`` with ``wsis/<id>.tif``, and one table that says what each is.

Tiles are cut from the slide, so ``patches/`` is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from histocast.errors import DataError, ErrorCollector, MissingInputError, UsageError
from histocast.sections.layouts.published_section import PublishedSection, SheetOptions, SpotRow, only_file
from histocast.sections.read_anndata import open_anndata
from histocast.text_table import TableColumns, read_text_table
from histocast.tiles.spot_table import parse_flag

COLUMNS = TableColumns(required=("id", "dataset_title", "patient", "pixel_size_um_estimated"), others="ignore")
UNSAID = ("", "nan", "none")


def find_hest1k(folder: Path, options: SheetOptions, faults: ErrorCollector) -> Iterator[PublishedSection]:
    """Samples whose ``.h5ad`` is in the folder and whose row fits ``where``.

    Many rows name no patient: all of a data set that do not are taken for one, so that no fold can hold a patient on
    both sides. The resolution is the one HEST estimated from the spots.
    """
    rows = read_metadata(options.metadata or _table(folder))
    if unknown := sorted(set(options.where) - set(next(iter(rows.values()), {}))):
        raise UsageError(f"no column {', '.join(unknown)}", expected="columns of the metadata table", where="--where")
    if not (folder / "st").is_dir():
        raise MissingInputError("no folder st", expected="st/<id>.h5ad and wsis/<id>.tif", where=str(folder))
    for path in sorted((folder / "st").glob("*.h5ad")):
        sample = path.stem
        if not options.takes(sample):
            continue
        row = rows.get(sample)
        if row is None:
            faults.add(f"{sample} is not in the metadata table", expected="a row with this id")
            continue
        if any(row[name].lower() != value.lower() for name, value in options.where.items()):
            continue
        place = folder / "wsis" / f"{sample}.tif"
        slide = only_file([place], faults, what=f"slide of {sample}", expected=f"wsis/{sample}.tif")
        um_per_px = _number(row["pixel_size_um_estimated"])
        if um_per_px is None:
            faults.add(f"{sample}: pixel_size_um_estimated {row['pixel_size_um_estimated']!r}", expected="um per pixel")
        elif slide:
            yield PublishedSection(
                sample, _patient(row), slide, path, partial(read_hest_spots, path), um_per_px=um_per_px
            )


def _table(folder: Path) -> Path:
    tables = sorted(folder.glob("HEST_v*.csv"), key=_version)
    if not tables:
        raise MissingInputError(
            "no HEST_v*.csv",
            expected="the metadata table of HEST-1k",
            where=str(folder),
            advice="give it by --metadata",
        )
    return tables[-1]


def _version(table: Path) -> tuple[int, ...]:
    """The numbers in a table's name: HEST_v1_10_0.csv is newer than HEST_v1_2_0.csv."""
    return tuple(int(number) for number in re.findall(r"\d+", table.stem))


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """Rows of the metadata table by id.

    Raises `MissingInputError`: there is no such file; `DataError`: a column is missing.
    """
    return {row.cells["id"]: row.cells for row in read_text_table(path, COLUMNS)}


def _patient(row: dict[str, str]) -> str:
    patient = "" if row["patient"].lower() in UNSAID else f"-{row['patient']}"
    return re.sub(r"[^A-Za-z0-9.-]+", "-", f"hest-{row['dataset_title'][:60]}{patient}").strip("-")


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def read_hest_spots(path: Path) -> list[SpotRow]:
    """Spots of an ``.h5ad``: ``obsm["spatial"]`` (x, y) in pixels of the slide, the array's place where it is there.

    Raises `DataError`: it is no AnnData, or says no places.
    """
    data = open_anndata(path, backed="r")
    try:
        names = [str(name) for name in data.obs_names]
        centres = _centres(data, where=str(path))
        inside = _in_tissue(data.obs, where=str(path))
        rows, columns = (_whole(data.obs, name) for name in ("array_row", "array_col"))
    finally:
        data.file.close()
    if rows is None or columns is None or len(set(zip(rows, columns, strict=True))) < len(names):
        # Row and column are fitted where the table is read.
        return [SpotRow(name, x, y, in_tissue=flag) for name, (x, y), flag in zip(names, centres, inside, strict=True)]
    return [
        SpotRow(name, x, y, row, column, flag)
        for name, (x, y), row, column, flag in zip(names, centres, rows, columns, inside, strict=True)
    ]


def _centres(data: Any, *, where: str) -> list[tuple[float, float]]:
    import numpy as np

    expected = "obsm['spatial'] with the columns x and y, in pixels of the slide"
    if "spatial" not in data.obsm:
        raise DataError("no obsm['spatial']", expected=expected, where=where)
    centres = np.asarray(data.obsm["spatial"])
    if centres.ndim != 2 or centres.shape[1] != 2:
        raise DataError(f"obsm['spatial'] of shape {centres.shape}", expected=expected, where=where)
    return [(float(x), float(y)) for x, y in centres]


def _in_tissue(obs: Any, *, where: str) -> list[bool]:
    if "in_tissue" not in obs:
        return [True] * len(obs)
    flags = [(cell, parse_flag(cell)) for cell in obs["in_tissue"].tolist()]
    if unknown := [cell for cell, flag in flags if flag is None]:
        raise DataError(f"obs['in_tissue'] holds {unknown[0]!r}", expected="0 or 1, true or false", where=where)
    return [bool(flag) for _, flag in flags]


def _whole(obs: Any, name: str) -> list[int] | None:
    """A column of whole numbers; none where it is absent or holds anything else."""
    if name not in obs:
        return None
    try:
        values = obs[name].astype(float)
    except (TypeError, ValueError):
        return None
    return [int(value) for value in values] if (values == values.round()).all() else None
