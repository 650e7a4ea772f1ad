"""``features.parquet`` as it grows: rows gathered into row groups of bounded size, in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from histocast.artifacts import FEATURES
from histocast.bundle import TensorSpec
from histocast.errors import ConfigError

ROW_GROUP_TILES = 1024
ROW_GROUP_BYTES = 32 * 2**20
"""A row group ends at whichever comes first, so that token features of a megabyte per tile stay bounded too."""

LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


def feature_lengths(columns: Mapping[str, TensorSpec]) -> dict[str, int]:
    """Numbers a tile in each feature column, its axes after the first flattened.

    Raises `ConfigError`: an encoder's output has an axis of no fixed length.
    """
    lengths = {}
    for name, spec in columns.items():
        axes = [axis for axis in spec.shape[1:] if isinstance(axis, int)]
        if len(axes) != len(spec.shape) - 1:
            raise ConfigError(
                f"shape {list(spec.shape)}",
                expected="a fixed length for every axis but the first",
                where=f"encoder output {name!r}",
                advice="export the encoder with fixed axes",
            )
        lengths[name] = int(np.prod(axes, dtype=np.int64))
    return lengths


def features_schema(lengths: Mapping[str, int]) -> pa.Schema:
    """The arrow schema of ``features.parquet`` for these columns."""
    return FEATURES.arrow(*(pa.field(name, pa.list_(pa.float16(), length)) for name, length in lengths.items()))


def to_float16(values: NDArray[Any], *, where: str) -> NDArray[np.float16]:
    """``values`` in half precision.

    Raises `ConfigError`: a value lies outside the range of float16 and would become infinite.
    """
    if values.dtype != np.float16 and values.size and (largest := float(np.abs(values).max())) > LARGEST_FLOAT16:
        raise ConfigError(
            f"a value of {largest:g}",
            expected=f"at most {LARGEST_FLOAT16:g}, the largest of float16",
            where=where,
            advice="scale the encoder's output, for example by a layer norm within its graph",
        )
    return values.astype(np.float16)


class FeatureRows:
    """Rows on their way into ``features.parquet``.

    ``writer``: takes row groups.
    ``lengths``: of the feature columns, from `feature_lengths`.
    """

    def __init__(self, writer: pq.ParquetWriter, lengths: Mapping[str, int]) -> None:
        self._writer = writer
        self._lengths = lengths
        self._schema = features_schema(lengths)
        self._tables: list[pa.Table] = []
        self._rows = 0
        self._bytes = 0

    def add(
        self, tile_id: NDArray[np.int32], readable: NDArray[np.bool_], features: Mapping[str, NDArray[Any]]
    ) -> None:
        """Append rows; ``features`` holds [tile, ...] of the readable ones alone, in the order of ``tile_id``."""
        columns: list[pa.Array] = [
            pa.array(tile_id, pa.int32()),
            pa.array(np.where(readable, "ok", "unreadable").tolist(), pa.string()),
        ]
        for name, length in self._lengths.items():
            spread = np.zeros((len(tile_id), length), np.float16)
            if readable.any():
                spread[readable] = to_float16(features[name], where=f"column {name!r}").reshape(-1, length)
            flat = pa.array(spread.reshape(-1), pa.float16())
            columns.append(pa.FixedSizeListArray.from_arrays(flat, length, mask=pa.array(~readable)))
            self._bytes += spread.nbytes
        self._tables.append(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows += len(tile_id)
        if self._rows >= ROW_GROUP_TILES or self._bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered as one row group."""
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables))
        self._tables, self._rows, self._bytes = [], 0, 0
