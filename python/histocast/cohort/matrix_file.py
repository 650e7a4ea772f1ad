"""``cohort.h5ad``: slides by genes, in AnnData's on-disk format, written a batch of slides at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from histocast.artifacts import METADATA_PREFIX
from histocast.cohort.read_slides import BATCH, LAYERS, Batch, X

if TYPE_CHECKING:
    import pandas as pd

    from histocast.cohort.embed_slides import Embedding

GENES_PER_CHUNK = 64
_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}

NOT_IN_OBS = ("sample", "in_matrix", "picture_jpeg", "failed_stage", "error_kind", "message", "advice")
"""Columns of ``slides.parquet`` that ``obs`` does not have."""


class MatrixFile:
    """The matrices of a cohort, as they grow; memory holds one batch of slides.

    ``file``: a new HDF5 file.
    """

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._datasets: dict[str, h5py.Dataset] = {}
        self._sum = self._squares = np.zeros(0)
        self.slides = 0

    def append(self, batch: Batch) -> None:
        """Add the slides of a batch."""
        values = batch.statistics[X]
        count = len(values)
        if not count:
            return
        if not self._datasets:
            # Without the bundle's 90th percentiles there is no such share of any slide.
            known = [name for name in LAYERS if name != "high_fraction" or np.isfinite(batch.statistics[name]).any()]
            self.create(genes=values.shape[1], layers=known, embedding_dim=batch.embedding.shape[1])
        for name, dataset in self._datasets.items():
            dataset.resize(self.slides + count, axis=0)
            dataset[self.slides :] = batch.embedding if name == "embedding" else batch.statistics[name]
        self._sum += values.sum(axis=0, dtype=np.float64)
        self._squares += np.square(values, dtype=np.float64).sum(axis=0)
        self.slides += count

    def create(self, *, genes: int, layers: Sequence[str] = (), embedding_dim: int = 0) -> None:
        """Begin with no slide; `append` does so by itself."""
        self._sum, self._squares = np.zeros(genes), np.zeros(genes)
        self._datasets[X] = self._dataset("X", genes)
        self._datasets |= {name: self._dataset(f"layers/{name}", genes) for name in layers}
        if embedding_dim:
            self._datasets["embedding"] = self._dataset("obsm/mean_embedding", embedding_dim)

    def _dataset(self, name: str, width: int) -> h5py.Dataset:
        chunks = (BATCH, min(width, GENES_PER_CHUNK))
        dataset = self._file.create_dataset(
            name, shape=(0, width), maxshape=(None, width), chunks=chunks, dtype=np.float32, **_COMPRESSION
        )
        dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return dataset

    @property
    def values(self) -> h5py.Dataset:
        """[slide, gene] the mean over in-distribution spots."""
        return self._datasets[X]

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and sd of each gene over the slides, [gene] each; of no slide NaN and 0."""
        if not self.slides:
            return np.full(len(self._sum), np.nan), np.zeros(len(self._sum))
        mean = self._sum / self.slides
        sd = np.sqrt(np.maximum(self._squares / self.slides - mean**2, 0.0))
        # What rounding leaves of a gene that is the same everywhere is no difference.
        return mean, np.where(sd > 1e-6 * np.maximum(np.abs(mean), 1.0), sd, 0.0)

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield first row and values [slide, gene] of some slides at a time."""
        for start in range(0, self.slides, BATCH):
            yield start, self.values[start : start + BATCH]

    def finish(self, *, obs: pl.DataFrame, var: pd.DataFrame, embedding: Embedding, uns: Mapping[str, Any]) -> None:
        """Add what is known of slides and genes, so that the file is an AnnData file."""
        from anndata.io import write_elem

        self._file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for group in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
            self._file.require_group(group).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        table = observations(obs)
        if embedding.clusters is not None:
            table["cluster"] = np.char.mod("%d", embedding.clusters)
            table["cluster"] = table["cluster"].astype(object).astype("category")
        write_elem(self._file, "obs", table)
        write_elem(self._file, "var", var)
        if embedding.components is not None:
            write_elem(self._file, "obsm/X_pca", embedding.components)
            pca = {"variance_ratio": embedding.variance_ratio, "genes": embedding.gene_index}
            write_elem(self._file, "uns/pca", pca)
        if embedding.map is not None:
            write_elem(self._file, "obsm/X_umap", embedding.map)
            write_elem(self._file, "obsp/distances", embedding.distances)
            write_elem(self._file, "obsp/connectivities", embedding.connectivities)
            write_elem(self._file, "uns/neighbors", embedding.neighbours)
        write_elem(self._file, "uns/histocast", dict(uns))


def observations(slides: pl.DataFrame) -> pd.DataFrame:
    """``obs`` from rows of ``slides.parquet``: text is categorical, metadata that are all numbers are numbers."""
    import pandas as pd

    wanted = [name for name in slides.columns if name not in NOT_IN_OBS]
    table: pd.DataFrame = slides.select(
        *(number_or_text(slides[name]) if name.startswith(METADATA_PREFIX) else _flat(slides[name]) for name in wanted)
    ).to_pandas()
    for name in table.columns:
        values = table[name]
        if values.dtype == object or str(values.dtype).startswith("str"):
            table[name] = values.astype(object).astype("category")
    table.index = pd.Index(slides["sample"].to_list(), name="sample", dtype=object)
    return table


def _flat(column: pl.Series) -> pl.Series:
    """A column that AnnData can hold: lists as text, unknown flags as numbers."""
    if isinstance(column.dtype, pl.List):
        return column.list.join(" ").alias(column.name)
    if column.dtype == pl.Boolean and column.null_count():
        return column.cast(pl.Float64)
    return column.cast(pl.Float64) if column.dtype == pl.Int64 and column.null_count() else column


def number_or_text(column: pl.Series) -> pl.Series:
    """Numbers, where every cell of a column of metadata is one; ``007`` is a name."""
    known = column.drop_nulls()
    plain = known.str.contains(r"^[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$")
    return column.cast(pl.Float64) if len(known) and plain.all() else column


def variables(genes: pa.Table, *, mean: NDArray[np.float64], sd: NDArray[np.float64]) -> pd.DataFrame:
    """``var``: index gene_id, what is known of each gene, and its mean and sd over the slides."""
    table: pd.DataFrame = genes.to_pandas().set_index("gene_id")
    table["evidence"] = table["evidence"].astype("category")
    table["slides_mean"], table["slides_sd"] = mean.astype(np.float32), sd.astype(np.float32)
    return table
