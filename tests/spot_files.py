"""Small tiles.parquet and features.parquet files with known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from histocast.artifacts import FEATURES, TILES, write_table
from histocast.records import Provenance

SLIDE_DIGEST = "sampled-sha256:" + "5" * 64


def write_tiles(
    path: Path,
    centres: np.ndarray,
    *,
    array_row: np.ndarray,
    array_col: np.ndarray,
    in_tissue: np.ndarray | None = None,
    pen_fraction: np.ndarray | None = None,
    blur: np.ndarray | None = None,
    sample: str = "S1",
) -> Path:
    count = len(centres)
    table = pa.table(
        {
            "tile_id": pa.array(np.arange(count), pa.int32()),
            "spot": pa.array([f"{c}x{r}" for r, c in zip(array_row, array_col, strict=True)], pa.string()),
            "x_level0_px": pa.array(centres[:, 0], pa.float64()),
            "y_level0_px": pa.array(centres[:, 1], pa.float64()),
            "array_row": pa.array(array_row, pa.int32()),
            "array_col": pa.array(array_col, pa.int32()),
            "tissue_fraction": pa.array(np.linspace(0.5, 1, count), pa.float32()),
            "pen_fraction": pa.array(np.zeros(count) if pen_fraction is None else pen_fraction, pa.float32()),
            "blur": pa.array(np.linspace(0, 0.3, count) if blur is None else blur, pa.float32()),
            "in_tissue": pa.array(np.ones(count, bool) if in_tissue is None else in_tissue, pa.bool_()),
        },
        schema=TILES.arrow(),
    )
    write_table(
        path,
        table,
        Provenance(artifact="tiles", schema_version=TILES.version, sample=sample, inputs={"slide": SLIDE_DIGEST}),
    )
    return path


def write_features(
    path: Path,
    tile_id: np.ndarray,
    columns: dict[str, np.ndarray],
    *,
    unreadable: tuple[int, ...] = (),
    slide_digest: str = SLIDE_DIGEST,
    sample: str = "S1",
) -> Path:
    """``columns``: [tile, length] by name; tiles whose id is in ``unreadable`` get null features."""
    gone = np.isin(tile_id, unreadable)
    fields, arrays = [], []
    for name, values in columns.items():
        dtype = pa.list_(pa.float16(), values.shape[1])
        rows = [None if lost else row for row, lost in zip(values.astype(np.float16), gone, strict=True)]
        fields.append(pa.field(name, dtype, nullable=True))
        arrays.append(pa.array(rows, dtype))
    status = pa.array(np.where(gone, "unreadable", "ok").tolist(), pa.string())
    table = pa.Table.from_arrays([pa.array(tile_id, pa.int32()), status, *arrays], schema=FEATURES.arrow(*fields))
    write_table(
        path,
        table,
        Provenance(artifact="features", schema_version=FEATURES.version, sample=sample, inputs={"slide": slide_digest}),
    )
    return path


def square_array(columns: int, rows: int, *, pitch_px: float = 290.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres [spot, 2], array rows and array columns of a full grid, row-major."""
    row, col = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    return np.stack([(col + 0.5) * pitch_px, (row + 0.5) * pitch_px], axis=-1), row, col


def visium_array(columns: int, rows: int, *, pitch_px: float = 290.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A hexagonal array with Visium's numbering: row and column have one parity."""
    row, half = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    col = 2 * half + row % 2
    return np.stack([col / 2 * pitch_px, row * pitch_px * np.sqrt(3) / 2], axis=-1), row, col
