"""Everything that was measured of held-out sections, as two long tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from histocast.artifacts import write_table
from histocast.evaluation.evaluation_plots import Example
from histocast.records import Provenance


class Key(NamedTuple):
    """What is scored, and where: the first columns of both tables."""

    method: str
    protocol: str
    subject: str
    """``model``, or the control that is scored beside the method."""
    fold: str
    sample: str
    patient: str


GENE_METRICS = (
    "pearson", "pearson_partial", "ceiling", "ceiling_share", "spearman", "mse", "mae", "rvd", "ssim",
    "morans_i_truth", "morans_i_predicted", "mean_truth", "mean_predicted",
)  # fmt: skip

SECTION_SCHEMA = dict.fromkeys((*Key._fields, "metric"), pl.String) | {"value": pl.Float64}
GENE_SCHEMA = dict.fromkeys((*Key._fields, "gene_id", "gene_symbol"), pl.String) | dict.fromkeys(
    GENE_METRICS, pl.Float64
)


class Scores:
    """Collects figures of sections and of genes, and some genes to draw."""

    def __init__(self) -> None:
        self._sections: list[tuple[object, ...]] = []
        self._genes: list[pl.DataFrame] = []
        self.examples: list[Example] = []

    def add_section(self, key: Key, values: Mapping[str, float]) -> None:
        """Metrics of a section, by name."""
        self._sections += [(*key, metric, value) for metric, value in values.items()]

    def add_genes(
        self, key: Key, by_gene: Mapping[str, NDArray[np.floating]], *, ids: Sequence[str], symbols: Sequence[str]
    ) -> None:
        """`metrics.gene_metrics` of a section."""
        of_genes = pl.DataFrame({"gene_id": ids, "gene_symbol": symbols, **by_gene})
        keys = (pl.lit(value).alias(name) for name, value in key._asdict().items())
        self._genes.append(of_genes.with_columns(*keys).select(*GENE_SCHEMA))

    def add(self, other: Scores) -> None:
        """Everything of another."""
        self._sections += other._sections
        self._genes += other._genes
        self.examples += other.examples

    @property
    def sections(self) -> pl.DataFrame:
        """One row per metric of a subject on a section, columns of `SECTION_SCHEMA`."""
        return pl.DataFrame(self._sections, schema=SECTION_SCHEMA, orient="row")

    @property
    def genes(self) -> pl.DataFrame:
        """One row per gene of a subject on a section, columns of `GENE_SCHEMA`; NaN for what is not known."""
        return pl.concat(self._genes) if self._genes else pl.DataFrame(schema=GENE_SCHEMA)

    def write(self, outdir: Path) -> None:
        """Write ``sections.parquet`` and ``genes.parquet``."""
        for name, table in (("sections", self.sections), ("genes", self.genes)):
            plain = pa.schema([(n, pa.float64() if t == pl.Float64 else pa.string()) for n, t in table.schema.items()])
            provenance = Provenance(artifact=f"evaluation_{name}", schema_version=1, sample="evaluation")
            write_table(outdir / f"{name}.parquet", table.to_arrow().cast(plain), provenance)
