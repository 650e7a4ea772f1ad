"""Write ``<sample>.zarr.zip``: the AnnData file as Zarr, in one file, for readers that fetch a part of it over a network."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from histocast.artifacts import write_atomically

BLOCK_ROWS = 4096
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_zarr(path: Path, anndata_file: Path, *, scratch: Path) -> None:
    """Write the AnnData file of a sample as Zarr, by anndata's own writer; matrices are copied by blocks of rows.

    ``zarr.storage.ZipStore`` reads it, so that ``anndata.read_zarr`` does.

    Raises `OutputError`: the file cannot be written.
    """
    import h5py
    import zarr

    folder = scratch / "zarr"
    with h5py.File(anndata_file, "r") as file:
        root = zarr.open_group(str(folder), mode="w", zarr_format=2)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name, element in file.items():
            if name == "layers":
                group = root.create_group(name)
                group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
                for layer, matrix in element.items():
                    _copy_matrix(matrix, group, layer)
            elif name == "X":
                _copy_matrix(element, root, name)
            else:
                _copy_element(element, root, name)
    with write_atomically(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for part in sorted(folder.rglob("*")):
            if part.is_file():
                # Without the time of writing, so that the same input gives the same file.
                archive.writestr(zipfile.ZipInfo(str(part.relative_to(folder)), _EPOCH), part.read_bytes())


def _copy_element(element: Any, root: Any, name: str) -> None:
    from anndata.io import read_elem, write_elem

    write_elem(root, name, read_elem(element))


def _copy_matrix(matrix: Any, group: Any, name: str) -> None:
    chunks = matrix.chunks or tuple(max(side, 1) for side in matrix.shape)
    array = group.create_array(name, shape=matrix.shape, dtype=matrix.dtype, chunks=chunks)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for start in range(0, matrix.shape[0], BLOCK_ROWS):
        array[start : start + BLOCK_ROWS] = matrix[start : start + BLOCK_ROWS]
