"""Rows and gene statistics of every slide, in small batches, from slide summaries or from a cohort gathered before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from histocast.artifacts import (
    METADATA_PREFIX,
    SLIDE_FACTS_KEY,
    SLIDE_SUMMARY,
    SLIDES,
    SUMMARY,
    TableSchema,
    open_parquet,
    read_table,
)
from histocast.cohort.find_results import MATRIX_FILE, SLIDES_FILE, EarlierCohort, Results
from histocast.errors import DataError, StaleInputError
from histocast.expression.slide_summary import SlideFacts, incomparable
from histocast.parquet_damage import refuse_damaged_parquet
from histocast.storage.listing import fetch_files

Floats = NDArray[np.float32]

BATCH = 256
"""Slides at a time: what memory holds of the matrix, and a chunk of it on disk."""

X = "in_distribution_mean"
LAYERS = {
    "sd": "in_distribution_sd",
    "median": "in_distribution_median",
    "p10": "in_distribution_p10",
    "p90": "in_distribution_p90",
    "mean_se": "in_distribution_mean_se",
    "high_fraction": "high_fraction",
    "readable_mean": "mean",
}
"""Layer of ``cohort.h5ad``, and the column of a slide summary that it comes from."""

KNOWN_OF_GENES = ("gene_id", "gene_symbol", "evidence", "val_pcc", "training_mean")
_OF_SUMMARY = tuple({column.name for column in SLIDES.columns} & {column.name for column in SUMMARY.columns})
_OF_FACTS = tuple({column.name for column in SLIDES.columns} & set(SlideFacts.model_fields) - {"bundle_name"})


@dataclass(frozen=True)
class Batch:
    """Some slides: their rows of ``slides.parquet`` without outliers, and the statistics of those that have any."""

    rows: list[dict[str, Any]]
    statistics: Mapping[str, Floats]
    """[slide, gene] by `X` and by name of the layer, of the rows that are ``in_matrix``."""
    embedding: Floats
    """[slide, dim] of the same."""


@dataclass(frozen=True)
class Model:
    """What all slides of a cohort share."""

    bundle_digest: str
    genes_digest: str | None
    genes: pa.Table
    """`KNOWN_OF_GENES`, one row per gene."""
    embedding_column: str
    embedding_dim: int


class SlideReader:
    """Reads slides one batch after another, and refuses those that cannot be compared with the ones before.

    ``scratch``: folder for copies of objects, each of which is gone after its slide was read.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.model: Model | None = None

    def read(self, results: Results, *, skip: frozenset[str]) -> Iterator[Batch]:
        """Yield the slides of a run in the order of its samplesheet, without the samples of ``skip``.

        Raises `DataError`: they are of another bundle, or of other genes, than slides before; `ConfigError`: their
        bundle sees each slide relative to itself; `MissingInputError` or `StaleInputError` or `StorageUnavailable`: a
        file cannot be read, or is none of this version.
        """
        accounted: set[str] = set()
        for rows in _summary_rows(results.summary, self._scratch):
            accounted |= {row["sample"] for row in rows}
            yield self._batch([row for row in rows if row["sample"] not in skip], results.slides)
        # Slides that were predicted one by one are in no summary.
        others = sorted(set(results.slides) - accounted - skip)
        for start in range(0, len(others), BATCH):
            rows = [{"sample": sample, "outcome": "ok"} for sample in others[start : start + BATCH]]
            yield self._batch(rows, results.slides)

    def _batch(self, rows: list[dict[str, Any]], slides: Mapping[str, str]) -> Batch:
        # Of a slide that failed before REPORT an earlier run may have left a summary.
        predicted = [row for row in rows if row["sample"] in slides and row.get("failed_stage") in (None, "report")]
        values: dict[str, list[Floats]] = {name: [] for name in (X, *LAYERS)}
        embeddings = []
        paths = fetch_files([slides[row["sample"]] for row in predicted], self._scratch)
        for row, path in zip(predicted, paths, strict=True):
            table, facts = self._open(path, row["sample"])
            row.update(facts)
            if not facts["in_distribution_spots"]:
                continue
            for name, column in ((X, X), *LAYERS.items()):
                values[name].append(table[column].to_numpy())
            row.update(in_matrix=True, mean_expression=float(np.mean(values[X][-1], dtype=np.float64)))
            embeddings.append(np.asarray(row.pop("embedding"), np.float32))
        made = [{**_EMPTY, **{name: value for name, value in row.items() if name != "embedding"}} for row in rows]
        shape = (0, self.model.genes.num_rows if self.model else 0)
        stacked = {name: np.stack(found) if found else np.zeros(shape, np.float32) for name, found in values.items()}
        dim = self.model.embedding_dim if self.model else 0
        return Batch(made, stacked, np.stack(embeddings) if embeddings else np.zeros((0, dim), np.float32))

    def _open(self, path: Path, sample: str) -> tuple[pa.Table, dict[str, Any]]:
        """The table of a slide summary, and what it says of its row."""
        table, provenance = read_table(path, SLIDE_SUMMARY)
        where = f"sample {sample}"
        try:
            facts = SlideFacts.model_validate_json(table.schema.metadata.get(SLIDE_FACTS_KEY, b""))
        except ValidationError as error:
            raise StaleInputError("damaged facts of the slide", expected=SLIDE_SUMMARY.artifact, where=where) from error
        if {"bundle", "slide"} - set(provenance.inputs) or provenance.sample != sample:
            raise StaleInputError(
                f"the summary of sample {provenance.sample!r}", expected=f"of {sample!r}", where=where
            )
        if not facts.comparable_between_slides:
            raise incomparable(f"{where}, bundle {facts.bundle_name} {facts.bundle_version}")
        found = Model(
            bundle_digest=provenance.inputs["bundle"],
            genes_digest=provenance.inputs.get("genes"),
            genes=table.select(KNOWN_OF_GENES),
            embedding_column=facts.embedding_column,
            embedding_dim=len(facts.embedding),
        )
        self._accept(found, where=where)
        return table, {
            **{name: getattr(facts, name) for name in _OF_FACTS},
            "embedding": facts.embedding,
            "bundle_name": f"{facts.bundle_name} {facts.bundle_version}",
            "slide_digest": provenance.inputs.get("slide"),
            "bundle_digest": found.bundle_digest,
            "genes_digest": found.genes_digest,
        }

    def _accept(self, found: Model, *, where: str) -> None:
        """Take the first model as that of the cohort, and hold every other one to it."""
        if self.model is not None:
            for what, here, there in (
                ("bundle", found.bundle_digest, self.model.bundle_digest),
                ("genes", found.genes_digest, self.model.genes_digest),
            ):
                if here != there:
                    raise DataError(
                        f"predicted with {what} {here}",
                        expected=f"{there}, as the slides before: predictions of different models are not comparable",
                        where=where,
                        advice="gather one cohort for each bundle and each --genes, in folders of their own",
                    )
            if not found.genes["gene_id"].equals(self.model.genes["gene_id"]):
                raise DataError("other genes than the slides before", expected="one list of genes", where=where)
        # A slide without any spot in distribution does not show how long an embedding is.
        if self.model is None or not self.model.embedding_dim:
            self.model = found

    def read_earlier(self, cohort: EarlierCohort, *, skip: frozenset[str]) -> Iterator[Batch]:
        """Yield the slides of a cohort that was gathered before, without the samples of ``skip``; see `read`."""
        for table, path in zip(
            fetch_files([cohort.slides], self._scratch), fetch_files([cohort.matrix], self._scratch), strict=True
        ):
            with _opened_matrix(path, cohort.uri) as matrix:
                self._accept(_model_of(matrix), where=cohort.uri)
                start = 0
                for batch in _batches(table, SLIDES):
                    made = _earlier_batch(batch.to_pylist(), matrix, start, skip)
                    start += sum(batch["in_matrix"].to_pylist())
                    yield made
                if start != len(matrix["X"]):
                    raise StaleInputError(
                        f"{start} slides in {SLIDES_FILE}, {len(matrix['X'])} in {MATRIX_FILE}",
                        expected="one cohort",
                        where=cohort.uri,
                    )


@contextmanager
def _opened_matrix(path: Path, where: str) -> Iterator[h5py.File]:
    """Yield ``cohort.h5ad``; a file that is damaged, or another one, is refused."""
    try:
        with h5py.File(path, "r") as matrix:
            yield matrix
    except (OSError, KeyError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise StaleInputError(
            f"{MATRIX_FILE} is damaged, or no cohort of this version", where=where, advice="gather the cohort again"
        ) from error


def _batches(path: Path, schema: TableSchema, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    file, _ = open_parquet(path, schema)
    with file, refuse_damaged_parquet(path, expected=f"the {schema.artifact} artifact", kind=StaleInputError):
        named = None if columns is None else [*columns, *metadata_columns(file.schema_arrow)]
        yield from file.iter_batches(BATCH, columns=named)


def _earlier_batch(rows: list[dict[str, Any]], matrix: h5py.File, start: int, skip: frozenset[str]) -> Batch:
    """Rows of ``slides.parquet``, whose first one in the matrix stands there at ``start``."""
    kept = np.array([row["sample"] not in skip for row in rows if row["in_matrix"]], bool)
    names = {X: "X", **{name: f"layers/{name}" for name in LAYERS}}
    stop = start + len(kept)
    return Batch(
        [row for row in rows if row["sample"] not in skip],
        {name: _read_rows(matrix, place, start, stop)[kept] for name, place in names.items()},
        _read_rows(matrix, "obsm/mean_embedding", start, stop)[kept],
    )


_EMPTY: dict[str, Any] = {column.name: None for column in SLIDES.columns} | {"in_matrix": False}


def _summary_rows(summary: str | None, scratch: Path) -> Iterator[list[dict[str, Any]]]:
    """Rows of ``summary.parquet`` as far as a cohort takes them."""
    for path in fetch_files([summary] if summary else [], scratch):
        for batch in _batches(path, SUMMARY, _OF_SUMMARY):
            yield batch.to_pylist()


def metadata_columns(schema: pa.Schema) -> list[str]:
    """The columns of samplesheet metadata."""
    return [name for name in schema.names if name.startswith(METADATA_PREFIX)]


def _read_rows(matrix: h5py.File, name: str, start: int, stop: int) -> Floats:
    if name in matrix:
        return np.asarray(matrix[name][start:stop], np.float32)
    width = 0 if name == "obsm/mean_embedding" else matrix["X"].shape[1]
    return np.full((stop - start, width), np.nan, np.float32)


def _model_of(matrix: h5py.File) -> Model:
    from anndata.io import read_elem

    known = read_elem(matrix["uns/histocast"])
    var = read_elem(matrix["var"])
    genes = pa.table(
        {name: pa.array(var.index if name == "gene_id" else var[name], from_pandas=True) for name in KNOWN_OF_GENES}
    )
    return Model(
        bundle_digest=str(known["inputs"]["bundle"]),
        genes_digest=str(known["inputs"]["genes"]) if "genes" in known["inputs"] else None,
        genes=genes.cast(pa.schema([SLIDE_SUMMARY.arrow().field(name) for name in KNOWN_OF_GENES])),
        embedding_column=str(known["embedding_column"]),
        # A cohort without any slide like the training tissue has none.
        embedding_dim=int(matrix["obsm/mean_embedding"].shape[1]) if "obsm/mean_embedding" in matrix else 0,
    )
