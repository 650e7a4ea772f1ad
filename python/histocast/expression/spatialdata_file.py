"""Write ``<sample>.spatialdata.zarr``: picture, tiles and expression of a sample as one SpatialData store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocast import __version__
from histocast.artifacts import write_folder_atomically
from histocast.records import SlideRecord

if TYPE_CHECKING:
    import anndata

PICTURE, TILES, TABLE = "overview", "tiles", "expression"
"""Names of the elements."""
LEVEL0_PX, MICROMETRES = "level0_px", "um"
"""Names of the coordinate systems, x to the right and y down."""
SMALLEST_LEVEL_PX = 256
"""The picture is halved while its longer side stays at least this long, and once where it is shorter."""
PICTURE_CHUNK_PX = 1024
TABLE_CHUNK = (4096, 256)
"""[spot, gene] of a block, 4 MiB: larger than those of the AnnData file, because each is a file of its own."""


def write_spatialdata(path: Path, anndata_file: Path, *, record: SlideRecord) -> None:
    """Write the store, a folder, by the spatialdata library; matrices are copied by blocks.

    It holds the overview of the slide as a pyramid, a square for each tile or spot of the size that the model saw, and
    the AnnData file as the table that annotates them. All lie in two coordinate systems, level-0 pixels and micrometres.
    Where nothing was predicted it holds the overview alone.
    ``attrs['histocast']`` names the slide by its digest; no path and no file name is written.

    Raises `ModuleNotFoundError`: the extra ``spatialdata`` is not installed; `OutputError`: the folder cannot be written.
    """
    import anndata
    import dask
    import h5py
    from spatialdata import SpatialData

    with (
        write_folder_atomically(path) as temporary,
        h5py.File(anndata_file, "r") as file,
        # One thread, so that no more blocks than one are in memory at a time.
        dask.config.set(scheduler="synchronous"),
        # Shards are younger than some readers of Zarr.
        anndata.settings.override(auto_shard_zarr_v3=False),
    ):
        table = _read_table(file)
        known = table.uns["histocast"]
        attributes = {
            "schema_version": 1,
            "histocast_version": __version__,
            "sample": record.sample,
            "slide": known["inputs"]["slide"],
            "bundle": known["inputs"]["bundle"],
            "um_per_px": record.um_per_px,
        }
        # The library holds no element without rows.
        elements = (
            {"shapes": {TILES: _tiles(table, record)}, "tables": {TABLE: _annotate(table)}} if table.n_obs else {}
        )
        SpatialData(images={PICTURE: _picture(table, record)}, attrs={"histocast": attributes}, **elements).write(
            temporary
        )


def _read_table(file: Any) -> anndata.AnnData:
    """The AnnData file with matrices that stay on disk until a block of them is asked for."""
    import anndata
    from anndata.experimental import read_elem_lazy
    from anndata.io import read_elem

    def read_blocks(matrix: Any) -> Any:
        chunks = tuple(max(min(axis, most), 1) for axis, most in zip(matrix.shape, TABLE_CHUNK, strict=True))
        return read_elem_lazy(matrix, chunks=chunks)

    whole = {name: read_elem(file[name]) for name in ("obs", "var", "obsm", "uns")}
    layers = {name: read_blocks(matrix) for name, matrix in file["layers"].items()}
    return anndata.AnnData(X=read_blocks(file["X"]), layers=layers, **whole)


def _annotate(table: anndata.AnnData) -> Any:
    from spatialdata.models import TableModel

    table.obs["region"] = TILES
    table.obs["region"] = table.obs["region"].astype("category")
    table.obs["instance"] = table.obs_names.to_numpy(dtype=object)
    return TableModel.parse(table, region=TILES, region_key="region", instance_key="instance")


def _tiles(table: anndata.AnnData, record: SlideRecord) -> Any:
    """Squares in level-0 pixels, by the names of ``obs``."""
    import geopandas
    import shapely
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    half_px = record.tile_px * record.requested_um_per_px / record.um_per_px / 2
    x, y = np.asarray(table.obsm["spatial"], np.float64).reshape(-1, 2).T
    squares = shapely.box(x - half_px, y - half_px, x + half_px, y + half_px)
    frame = geopandas.GeoDataFrame(geometry=squares, index=table.obs_names.rename("instance"))
    return ShapesModel.parse(frame, transformations={LEVEL0_PX: Identity(), MICROMETRES: _scale(record.um_per_px)})


def _picture(table: anndata.AnnData, record: SlideRecord) -> Any:
    """The overview that the AnnData file holds, which TILE drew."""
    from spatialdata.models import Image2DModel

    thumbnail = table.uns["spatial"][record.sample]["images"]["hires"]

    shorter_px, longer_px = sorted(thumbnail.shape[:2])
    halvings = min(max(int(np.log2(longer_px / SMALLEST_LEVEL_PX)), 1), int(np.log2(shorter_px)))
    um_per_px = record.thumbnail_um_per_px
    return Image2DModel.parse(
        np.moveaxis(thumbnail, -1, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * halvings or None,
        chunks=(3, PICTURE_CHUNK_PX, PICTURE_CHUNK_PX),
        transformations={LEVEL0_PX: _scale(um_per_px / record.um_per_px), MICROMETRES: _scale(um_per_px)},
    )


def _scale(factor: float) -> Any:
    from spatialdata.transformations import Scale

    return Scale([factor, factor], axes=("x", "y"))
