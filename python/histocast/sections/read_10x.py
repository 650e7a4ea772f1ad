"""Counts of a 10x Visium run, read as Space Ranger writes them.

Written out here because the two layouts are a few arrays each, and the libraries that read them take
seconds to import.
"""

from __future__ import annotations

import csv
import gzip
import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histocast.errors import DataError, MissingInputError
from histocast.resources import scratch_folder
from histocast.sections.counts import CountMatrix, make_counts, refuse_damaged_matrix
from histocast.text_file import open_text

MATRIX_NAME = "filtered_feature_bc_matrix"
MTX_FILES = ("matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz")
GENE_FEATURE = "Gene Expression"
"""Feature type of genes."""
OTHER_FEATURES = (
    "Antibody Capture",
    "CRISPR Guide Capture",
    "Multiplexing Capture",
    "Antigen Capture",
    "Custom",
    "Peaks",
)
"""Types of other features that a run may hold."""
_COPIED_BYTES = 1 << 20


def read_10x(path: Path) -> CountMatrix:
    """Read a Space Ranger ``outs`` folder, its matrix folder, or its HDF5 matrix; genes only.

    Raises `MissingInputError`: the folder holds no matrix, or part of one; `DataError`: the files are not as Cell
    Ranger 3 or later writes them.
    """
    found = path if path.is_file() else find_matrix(path)
    return _read_h5(found) if found.is_file() else _read_mtx(found)


def find_matrix(folder: Path) -> Path:
    """The matrix in a folder: ``filtered_feature_bc_matrix.h5``, ``<id>_filtered_feature_bc_matrix.h5`` or the mtx folder.

    Raises `MissingInputError`: there is none, or there are several.
    """
    named = [folder / f"{MATRIX_NAME}.h5", *sorted(folder.glob(f"*_{MATRIX_NAME}.h5"))]
    files = [path for path in named if path.is_file()]
    if files and (len(files) == 1 or files[0] == named[0]):
        return files[0]
    if files:
        raise MissingInputError(
            f"{len(files)} matrices ({', '.join(path.name for path in files[:4])})",
            expected=f"one {MATRIX_NAME}.h5",
            where=str(folder),
            advice="name the file of this section",
        )
    for path in (folder / MATRIX_NAME, folder):
        if (path / "matrix.mtx.gz").is_file():
            return path
    raise MissingInputError(
        f"no {MATRIX_NAME}.h5",
        expected=f"{MATRIX_NAME}.h5, or the folder {MATRIX_NAME} with {', '.join(MTX_FILES)}",
        where=str(folder),
    )


def _read_h5(path: Path) -> CountMatrix:
    import h5py
    from scipy.sparse import csc_matrix

    try:
        with h5py.File(path) as file:
            group = file["matrix"]
            features = group["features"]
            columns = csc_matrix(
                (group["data"][:], group["indices"][:], group["indptr"][:]), shape=tuple(group["shape"][:])
            )
            barcodes = _strings(group["barcodes"])
            kinds, ids, symbols = (_strings(features[name]) for name in ("feature_type", "id", "name"))
    # What a damaged file, or one of another program, raises depends on the place.
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise DataError(
            "not a readable 10x matrix", expected=f"{MATRIX_NAME}.h5 of Space Ranger", where=str(path)
        ) from error
    return _genes_only(columns, barcodes, kinds, ids, symbols, layout="10x h5", where=str(path))


def _strings(values: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values[:]]


def _read_mtx(folder: Path) -> CountMatrix:
    files = [folder / name for name in MTX_FILES]
    if missing := [file.name for file in files if not file.is_file()]:
        raise MissingInputError(
            f"no {', '.join(missing)}",
            expected=f"{MATRIX_NAME}.h5, or the folder {MATRIX_NAME} with {', '.join(file.name for file in files)}",
            where=str(folder),
        )
    try:
        matrix = _read_matrix_market(files[0])
        barcodes = [row[0] for row in _rows(files[1])]
        features = [(row[0], row[1], row[2]) for row in _rows(files[2])]
    except (OSError, EOFError, ValueError, IndexError, OverflowError, zlib.error) as error:
        raise DataError(
            "not a readable 10x matrix folder",
            expected=f"{', '.join(MTX_FILES)} of Cell Ranger 3 or later, features with id, name and type",
            where=str(folder),
            advice="copy it again",
        ) from error
    ids, symbols, kinds = ([feature[column] for feature in features] for column in range(3))
    return _genes_only(matrix, barcodes, kinds, ids, symbols, layout="10x mtx", where=str(folder))


def _read_matrix_market(path: Path) -> Any:
    """Read a packed matrix.

    It is unpacked first: of a damaged stream scipy's reader ends the process, and not of a damaged file.
    """
    from scipy.io import mminfo, mmread

    with scratch_folder() as folder:
        unpacked = folder / "matrix.mtx"
        with gzip.open(path) as source, unpacked.open("wb") as target:
            shutil.copyfileobj(source, target, _COPIED_BYTES)
        entries = mminfo(str(unpacked))[2]
        if entries > unpacked.stat().st_size:
            raise ValueError(f"{entries} entries are more than the file can hold")
        return mmread(str(unpacked))


def _rows(path: Path) -> list[list[str]]:
    with open_text(path, expected="a table of a 10x matrix folder") as stream:
        return [row for row in csv.reader(stream, delimiter="\t") if row]


def refuse_no_genes(kinds: Sequence[str], genes: int, *, where: str) -> None:
    """Raise `DataError` where none of the features, whose types are given, is a gene."""
    if genes:
        return
    found = ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).items())
    raise DataError(
        f"no gene expression features ({found or 'no feature at all'})",
        expected=f"features of the type {GENE_FEATURE!r}",
        where=where,
        advice="give the matrix of gene expression, not that of antibodies or guides alone",
    )


def _genes_only(
    matrix: Any, barcodes: list[str], kinds: list[str], ids: list[str], symbols: list[str], *, layout: str, where: str
) -> CountMatrix:
    """Counts of the features [feature, spot] that are genes."""
    from scipy.sparse import csc_matrix

    if not len(kinds) == len(ids) == len(symbols):
        raise DataError(
            f"{len(ids)} ids, {len(symbols)} names and {len(kinds)} types of features",
            expected="as many of each",
            where=where,
            advice="copy the file again, or write it again",
        )
    refuse_damaged_matrix(matrix, shape=(len(ids), len(barcodes)), where=where)
    genes = np.flatnonzero([kind == GENE_FEATURE for kind in kinds])
    refuse_no_genes(kinds, len(genes), where=where)
    return make_counts(
        spots=barcodes,
        ids=[ids[gene] for gene in genes],
        symbols=[symbols[gene] for gene in genes],
        matrix=csc_matrix(matrix).T.tocsr()[:, genes],
        layout=layout,
        where=where,
    )
