"""Gather slides of one or several runs: ``slides.parquet``, ``cohort.h5ad``, ``signatures.parquet`` and ``cohort.html``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from histocast.artifacts import (
    METADATA_PREFIX,
    SIGNATURES,
    SLIDES,
    SUMMARY,
    open_parquet,
    parquet_writer,
    write_atomically,
)
from histocast.cohort.choose_sources import choose_sources
from histocast.cohort.cluster_slides import LEAST_GAIN, MOST_CLUSTERS
from histocast.cohort.cohort_page import Shown, write_cohort_page
from histocast.cohort.embed_slides import FEWEST_FOR_MAP, MOST_GENES, NEIGHBOURS, Embedding, embed_slides
from histocast.cohort.find_outliers import FEWEST_SLIDES, MEASURES, THRESHOLD, find_outliers
from histocast.cohort.find_results import (
    COHORT_FILES,
    MATRIX_FILE,
    PAGE_FILE,
    SIGNATURES_FILE,
    SLIDES_FILE,
    EarlierCohort,
    Results,
    find_results,
)
from histocast.cohort.matrix_file import MatrixFile, variables
from histocast.cohort.read_slides import BATCH, Model, SlideReader, metadata_columns
from histocast.cohort.replace_files import replace_files
from histocast.cohort.score_signatures import (
    LEAST_SHARE,
    Signature,
    find_signatures,
    read_gmt,
    score_slides,
    signature_rows,
)
from histocast.errors import DataError, UsageError
from histocast.expression.hdf5_file import create_hdf5
from histocast.progress import Meter, log
from histocast.records import Provenance
from histocast.software import software_versions
from histocast.storage.listing import fetch_files

COHORT_LIBRARIES = ("polars", "scanpy", "scikit-learn", "umap-learn")


@dataclass(frozen=True)
class Cohort:
    """What was gathered."""

    slides: pl.DataFrame
    """Rows of ``slides.parquet`` without pictures."""
    model: Model
    embedding: Embedding
    signatures: tuple[Signature, ...]


def gather_cohort(
    results: Sequence[str],
    *,
    outdir: Path,
    scratch: Path,
    signatures: Path | None = None,
    batch: str | None = None,
    pages: str | None = None,
) -> Cohort:
    """Write the tables of a cohort, and its page.

    Each slide summary is read once, and memory holds a few hundred slides at a time; of a folder that an earlier cohort was
    written to its tables are read in place of the slides' own files. ``outdir`` may be such a folder.

    ``results``: folders, or ``s3://`` prefixes, of results or of earlier cohorts.
    ``signatures``: a GMT file of gene sets to score.
    ``batch``: column of metadata within whose values outliers are looked for.
    ``pages``: where the samples' pages lie, relative to ``outdir``; default: the page links to none.
    Raises `DataError`: the same sample twice, of different slides; slides of different models; no slide was predicted;
    no set of which enough genes are predicted; `ConfigError`: the bundle sees each slide relative to itself, or scanpy
    is not installed; `UsageError`: no samplesheet has the column ``batch``, or ``pages`` is not relative;
    `MissingInputError` or `StaleInputError` or `StorageUnavailable`: a folder or a file cannot be read; `OutputError`:
    an output cannot be written.
    """
    if pages is not None and (pages.startswith("/") or ":" in pages):
        raise UsageError("not relative", expected="a folder relative to --outdir, as ..", where="--pages")
    found = [find_results(uri) for uri in results]
    skip = choose_sources(found, scratch)
    sets = read_gmt(signatures) if signatures else {}
    schema = SLIDES.arrow(*(pa.field(name, pa.string()) for name in _metadata(found, scratch)))
    column = _batch_column(batch, schema)
    rows = scratch / "rows.parquet"
    with replace_files(outdir, COHORT_FILES) as folder:
        with write_atomically(folder / MATRIX_FILE) as temporary, create_hdf5(temporary) as (file, check):
            matrix = MatrixFile(file)
            model = _gather(found, skip, matrix, rows=rows, schema=schema, scratch=scratch, check=check)
            # Names of a hundred thousand files, which nothing asks for any more.
            del found, skip
            slides = _with_outliers(rows, column)
            scored = find_signatures(sets, model.genes) if sets else ()
            provenance = _provenance(model, batch=batch, signatures=scored)
            if scored:
                samples = slides.filter("in_matrix")["sample"].to_list()
                _write_signatures(folder / SIGNATURES_FILE, matrix, scored, samples, provenance)
            embedding = _finish(matrix, slides, model, provenance, scratch=scratch)
            write_cohort_page(
                folder / PAGE_FILE,
                Shown(
                    slides=slides,
                    pictures=rows,
                    matrix=matrix,
                    model=model,
                    embedding=embedding,
                    signatures=folder / SIGNATURES_FILE if scored else None,
                    pages=pages,
                ),
            )
            check()
        _write_slides(folder / SLIDES_FILE, rows, slides, SLIDES.provenance_like(provenance))
    return Cohort(slides, model, embedding, scored)


def _finish(
    matrix: MatrixFile, slides: pl.DataFrame, model: Model, provenance: Provenance, *, scratch: Path
) -> Embedding:
    """Embed the slides and finish ``cohort.h5ad``; return what the page shows of the embedding, the rest is in the file."""
    mean, sd = matrix.moments()
    embedding = embed_slides(matrix.values, sd=sd, scratch=scratch)
    matrix.finish(
        obs=slides.filter("in_matrix"),
        var=variables(model.genes, mean=mean, sd=sd),
        embedding=embedding,
        uns=_uns(provenance, model, embedding),
    )
    return replace(embedding, components=None, distances=None, connectivities=None)


def _write_signatures(
    path: Path, matrix: MatrixFile, scored: Sequence[Signature], samples: Sequence[str], provenance: Provenance
) -> None:
    """``signatures.parquet``: a score of each set on each slide, batch by batch."""
    mean, sd = matrix.moments()
    with parquet_writer(path, SIGNATURES.arrow(), SIGNATURES.provenance_like(provenance)) as writer:
        for start, values in matrix.blocks():
            scores = score_slides(values, scored, mean=mean, sd=sd)
            writer.write_table(signature_rows(samples[start : start + BATCH], scored, scores))


def _metadata(found: Sequence[Results | EarlierCohort], scratch: Path) -> list[str]:
    """Columns of metadata of all sources, in the order in which they come."""
    names: dict[str, None] = {}
    for source in found:
        is_earlier = isinstance(source, EarlierCohort)
        table = source.slides if isinstance(source, EarlierCohort) else source.summary
        for path in fetch_files([table] if table else [], scratch):
            with open_parquet(path, SLIDES if is_earlier else SUMMARY)[0] as file:
                names |= dict.fromkeys(metadata_columns(file.schema_arrow))
    return list(names)


def _batch_column(batch: str | None, schema: pa.Schema) -> str | None:
    if batch is None:
        return None
    column = f"{METADATA_PREFIX}{batch.removeprefix(METADATA_PREFIX)}"
    if column not in schema.names:
        known = ", ".join(name.removeprefix(METADATA_PREFIX) for name in metadata_columns(schema)) or "none"
        raise UsageError(f"no column {batch!r} in any samplesheet", expected=f"one of: {known}", where="--batch")
    return column


def _gather(
    found: Sequence[Results | EarlierCohort],
    skip: Sequence[frozenset[str]],
    matrix: MatrixFile,
    *,
    rows: Path,
    schema: pa.Schema,
    scratch: Path,
    check: Any,
) -> Model:
    """Read every slide: statistics go into the matrix, rows into a file of their own. Return what the slides share."""
    reader = SlideReader(scratch)
    with (
        pq.ParquetWriter(rows, schema, compression="zstd") as writer,
        Meter("cohort", total=None, unit="slides") as meter,
    ):
        for source, left_out in zip(found, skip, strict=True):
            read = reader.read_earlier if isinstance(source, EarlierCohort) else reader.read
            for batch in read(source, skip=left_out):  # type: ignore[arg-type]
                matrix.append(batch)
                check()
                writer.write_table(pa.Table.from_pylist(batch.rows, schema=schema))
                meter.advance(len(batch.rows))
    if reader.model is None:
        raise DataError(
            "no slide with a prediction",
            expected="at least one",
            where=", ".join(source.uri for source in found),
            advice="see summary.html of the runs for what became of their slides",
        )
    if not matrix.slides:
        log("cohort: no slide has tissue like the training tissue, so cohort.h5ad has no rows; see slides.parquet")
        matrix.create(genes=reader.model.genes.num_rows)
    return reader.model


def _with_outliers(rows: Path, batch: str | None) -> pl.DataFrame:
    slides = pl.scan_parquet(rows).drop("picture_jpeg").collect(engine="streaming")
    return slides.with_columns(find_outliers(slides, batch=batch))


def _write_slides(path: Path, rows: Path, slides: pl.DataFrame, provenance: Provenance) -> None:
    """``slides.parquet``: the rows with the outliers found among all of them, and their pictures, batch by batch."""
    with pq.ParquetFile(rows) as file, parquet_writer(path, file.schema_arrow, provenance) as writer:
        start = 0
        for batch in file.iter_batches(BATCH):
            part = slides.slice(start, len(batch)).to_arrow()
            columns = [
                batch.column(name) if name == "picture_jpeg" else part[name].combine_chunks()
                for name in batch.schema.names
            ]
            cast = [
                pa.chunked_array([column]).cast(field.type) for column, field in zip(columns, batch.schema, strict=True)
            ]
            writer.write_table(pa.table(cast, schema=file.schema_arrow))
            start += len(batch)


def _provenance(model: Model, *, batch: str | None, signatures: Sequence[Signature]) -> Provenance:
    inputs = {"bundle": model.bundle_digest}
    if model.genes_digest:
        inputs["genes"] = model.genes_digest
    return Provenance(
        artifact="cohort",
        schema_version=1,
        sample="*",
        inputs=inputs,
        parameters={
            "batch": batch or "",
            "outlier_threshold": THRESHOLD,
            "outlier_least_slides": FEWEST_SLIDES,
            "outlier_measures": [measure.column for measure in MEASURES],
            "signature_least_share": LEAST_SHARE,
            "signatures": [signature.name for signature in signatures],
            "neighbours": NEIGHBOURS,
            "most_variable_genes": MOST_GENES,
            "most_clusters": MOST_CLUSTERS,
            "cluster_least_gain": LEAST_GAIN,
        },
        software=software_versions(*COHORT_LIBRARIES),
    )


def _uns(provenance: Provenance, model: Model, embedding: Embedding) -> dict[str, Any]:
    """``uns['histocast']``."""
    if embedding.map is None:
        log(f"cohort: fewer than {FEWEST_FOR_MAP} slides, so there is no map of them")
    parameters = {
        name: np.array(value) if isinstance(value, list) else value for name, value in provenance.parameters.items()
    }
    return {
        "schema_version": provenance.schema_version,
        "histocast_version": provenance.histocast_version,
        "inputs": provenance.inputs,
        "parameters": parameters,
        "software": provenance.software,
        "embedding_column": model.embedding_column,
    }
