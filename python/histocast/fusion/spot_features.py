"""The features of a slide's spots, read once from Parquet and gathered many times from scratch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from histocast.artifacts import BLURRED, FEATURES, TILES, UNDER_INK, open_parquet, read_table
from histocast.bundle import TensorSpec
from histocast.errors import DataError
from histocast.records import Provenance
from histocast.resources import scratch_array

# Half precision carries 11 bits: variation below a thousandth of a feature's size is rounding, and dividing
# by it would blow noise up to the size of a signal.
RELATIVE_SD_FLOOR = 1e-3
ABSOLUTE_SD_FLOOR = 1e-6

READ_ROWS = 1024

MIN_CLEAN_SPOTS = 10
"""Of fewer, a slide's statistics would be noise."""


@dataclass(frozen=True)
class SpotFeatures:
    """Every spot in tissue, in the order of ``tiles.parquet``, with its features in memory-mapped arrays."""

    tiles: pa.Table
    """The rows of ``tiles.parquet`` that are in tissue, all columns."""
    tile_id: NDArray[np.int32]
    """[spot]."""
    centres_level0_px: NDArray[np.float64]
    """[spot, 2] (x, y)."""
    array_row: NDArray[np.int32]
    """[spot]."""
    array_col: NDArray[np.int32]
    """[spot]."""
    readable: NDArray[np.bool_]
    """[spot]: whether the features exist; they are 0 elsewhere."""
    in_statistics: NDArray[np.bool_]
    """[spot]: whether it enters the slide's statistics and the context of other spots; see `choose_for_statistics`."""
    columns: Mapping[str, NDArray[np.float16]]
    """[spot, ...] by column of ``features.parquet``."""
    provenance: Provenance
    """Of ``features.parquet``."""
    tiles_provenance: Provenance = field(repr=False)
    """Of ``tiles.parquet``."""

    def __len__(self) -> int:
        return len(self.tile_id)

    @classmethod
    def open(cls, tiles: Path, features: Path, *, columns: Mapping[str, TensorSpec], scratch: Path) -> SpotFeatures:
        """Read the spots in tissue and spread their features into files under ``scratch``.

        ``columns``: feature columns and their tensors, as `Bundle.feature_columns` gives them; the first axis is the
            tile. An axis that is named must be the only one, and takes the length the file has.
        ``scratch``: an existing folder; the arrays live there as long as this object is used.
        Raises `DataError`: the two files are not of the same slide and bundle, a column is absent or has another
        length, or a tile in tissue has no row; `OutputError`: the scratch disk is full.
        """
        table, tiles_provenance = read_table(tiles, TILES)
        table = table.filter(table.column("in_tissue"))
        tile_id = table.column("tile_id").to_numpy()
        file, provenance = open_parquet(features, FEATURES)
        with file:
            _check_same_inputs(tiles_provenance, provenance)
            lengths = {name: _list_length(file, name) for name in columns}
            arrays = {
                name: scratch_array(
                    scratch, name, shape=(len(tile_id), *_item_shape(name, spec, lengths[name])), dtype=np.float16
                )
                for name, spec in columns.items()
            }
            readable = _fill(file, tile_id, arrays)
        return cls(
            tiles=table,
            tile_id=tile_id,
            centres_level0_px=np.stack(
                [table.column("x_level0_px").to_numpy(), table.column("y_level0_px").to_numpy()], axis=-1
            ),
            array_row=table.column("array_row").to_numpy(),
            array_col=table.column("array_col").to_numpy(),
            readable=readable,
            in_statistics=choose_for_statistics(table, readable),
            columns=arrays,
            provenance=provenance,
            tiles_provenance=tiles_provenance,
        )

    def select(self, spots: NDArray[np.int64]) -> SpotFeatures:
        """Some of the spots, as a slide that holds no other."""
        tiles, readable = self.tiles.take(spots), self.readable[spots]
        return replace(
            self,
            tiles=tiles,
            tile_id=self.tile_id[spots],
            centres_level0_px=self.centres_level0_px[spots],
            array_row=self.array_row[spots],
            array_col=self.array_col[spots],
            readable=readable,
            in_statistics=choose_for_statistics(tiles, readable),
            columns={name: values[spots] for name, values in self.columns.items()},
        )


def choose_for_statistics(tiles: pa.Table, readable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which spots [spot] may decide how others are predicted: readable, in focus and not under ink.

    All readable spots, where hardly anything else is there: fewer than `MIN_CLEAN_SPOTS` and less than half of them.
    """
    in_focus = tiles.column("blur").to_numpy() <= BLURRED
    without_ink = tiles.column("pen_fraction").to_numpy() <= UNDER_INK
    clean = readable & in_focus & without_ink
    return clean if clean.sum() >= min(MIN_CLEAN_SPOTS, readable.sum() / 2) else readable


def _check_same_inputs(tiles: Provenance, features: Provenance) -> None:
    for role in sorted(set(tiles.inputs) & set(features.inputs)):
        if tiles.inputs[role] != features.inputs[role]:
            raise DataError(
                f"features were made with {role} {features.inputs[role]}",
                expected=f"{role} {tiles.inputs[role]}, as the tiles",
                where=f"sample {features.sample}",
                advice="run encode again on these tiles",
            )


def _list_length(file: pq.ParquetFile, name: str) -> int:
    if name not in file.schema_arrow.names:
        raise DataError(
            f"no column {name!r}",
            expected="one column an encoder output",
            where="features.parquet",
            advice="run encode again with this bundle",
        )
    dtype = file.schema_arrow.field(name).type
    if not pa.types.is_fixed_size_list(dtype):
        raise DataError(f"column {name!r} is {dtype}", expected="a fixed-size list", where="features.parquet")
    return int(dtype.list_size)


def _item_shape(name: str, spec: TensorSpec, length: int) -> tuple[int, ...]:
    """Shape of one spot's value of a column; at most one axis may be left open by the contract."""
    stated = [axis if isinstance(axis, int) else -1 for axis in spec.shape[1:]]
    known = int(np.prod([axis for axis in stated if axis > 0], dtype=np.int64))
    if stated.count(-1) > 1 or length % known or (-1 not in stated and length != known):
        raise DataError(
            f"column {name!r} holds {length} numbers a tile",
            expected=f"shape {list(spec.shape[1:])}",
            where="features.parquet",
            advice="run encode again with this bundle",
        )
    return tuple(length // known if axis == -1 else axis for axis in stated)


def _fill(
    file: pq.ParquetFile, tile_id: NDArray[np.int32], arrays: Mapping[str, NDArray[np.float16]]
) -> NDArray[np.bool_]:
    """Write the rows that are ok to their places, a batch at a time; which spots were readable."""
    readable = np.zeros(len(tile_id), bool)
    met = np.zeros(len(tile_id), bool)
    order = np.argsort(tile_id, kind="stable")
    for batch in file.iter_batches(READ_ROWS, columns=["tile_id", "status", *arrays]):
        rows, known = _rows_of(batch.column("tile_id").to_numpy(), tile_id, order)
        ok = pc.equal(batch.column("status"), "ok").to_numpy(zero_copy_only=False) & known
        met[rows[known]] = True
        readable[rows[ok]] = True
        taken = batch.filter(pa.array(ok))
        for name, array in arrays.items():
            values = taken.column(name).flatten().to_numpy(zero_copy_only=False)
            if values.size != int(ok.sum()) * int(np.prod(array.shape[1:], dtype=np.int64)):
                raise DataError(f"column {name!r} is null where status is 'ok'", where="features.parquet")
            array[rows[ok]] = values.reshape(-1, *array.shape[1:])
    if not met.all():
        raise DataError(
            f"{int((~met).sum())} tiles in tissue have no row",
            expected=f"a row for each of {len(tile_id)} tiles",
            where="features.parquet",
            advice="run encode again on these tiles",
        )
    return readable


def _rows_of(
    wanted: NDArray[Any], tile_id: NDArray[np.int32], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Row of each wanted tile, and whether it exists."""
    if not len(order):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    place = np.minimum(np.searchsorted(tile_id, wanted, sorter=order), len(order) - 1)
    rows = order[place]
    return rows, tile_id[rows] == wanted


@dataclass(frozen=True)
class Standardisation:
    """Mean and sd of every dim of a feature column over spots of one slide, or of a training set."""

    mean: NDArray[np.float32]
    """[dim]."""
    sd: NDArray[np.float32]
    """[dim], never below what half precision resolves."""

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """``values`` [..., dim] brought to mean 0 and sd 1."""
        return (values - self.mean) / self.sd


def standardisation(column: str, slides: Sequence[SpotFeatures]) -> Standardisation | None:
    """Statistics of one column over the spots (and tokens) of some slides, in one pass of bounded memory.

    Spots are those of `SpotFeatures.in_statistics`. ``None`` for maps [spot, channel, row, column]: their axes are
    places, not features. Without any spot the statistics leave values as they are.
    """
    arrays = [slide.columns[column] for slide in slides]
    if arrays[0].ndim not in (2, 3):
        return None
    dim = arrays[0].shape[-1]
    count, mean, squares = 0, np.zeros(dim), np.zeros(dim)
    blocks = (
        values[rows]
        for values, slide in zip(arrays, slides, strict=True)
        for rows in _blocks_of(np.flatnonzero(slide.in_statistics))
    )
    for values in blocks:
        block = values.reshape(-1, dim).astype(np.float64)
        # Chan, Golub and LeVeque 1983: merge the moments of a block with those so far, without cancellation.
        block_mean = block.mean(axis=0)
        total = count + len(block)
        delta = block_mean - mean
        squares += ((block - block_mean) ** 2).sum(axis=0) + delta**2 * count * len(block) / total
        mean += delta * len(block) / total
        count = total
    if count == 0:
        return Standardisation(np.zeros(dim, np.float32), np.ones(dim, np.float32))
    sd = np.maximum(np.sqrt(squares / count), np.maximum(RELATIVE_SD_FLOOR * np.abs(mean), ABSOLUTE_SD_FLOOR))
    return Standardisation(mean.astype(np.float32), sd.astype(np.float32))


def _blocks_of(rows: NDArray[np.int64], size: int = 4096) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
