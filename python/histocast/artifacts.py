"""The files stages meet through: their columns, dtypes, units and versions, and how they are written.

Every stage reads what the one before it wrote, and nothing else. An artifact appears whole or not at all: it
is written under a temporary name beside its place, flushed to disk and renamed. Parquet artifacts carry a
`Provenance` in their file metadata under the key ``histocast``.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from histocast.errors import MissingInputError, OutputError, StaleInputError
from histocast.foreign_errors import is_out_of_memory
from histocast.parquet_damage import refuse_damaged_parquet
from histocast.records import Provenance

METADATA_KEY = b"histocast"


@dataclass(frozen=True)
class Column:
    """One column of a Parquet artifact."""

    name: str
    dtype: pa.DataType
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class TableSchema:
    """The fixed columns of a Parquet artifact."""

    artifact: str
    version: int
    columns: tuple[Column, ...]

    def provenance(self, sample: str, **facts: Any) -> Provenance:
        """The provenance of this artifact; ``facts`` are its inputs, parameters and software."""
        return Provenance(artifact=self.artifact, schema_version=self.version, sample=sample, **facts)

    def provenance_like(self, other: Provenance) -> Provenance:
        """The provenance of this artifact, made of the same inputs as another one."""
        return other.model_copy(update={"artifact": self.artifact, "schema_version": self.version})

    def arrow(self, *extra: pa.Field) -> pa.Schema:
        """The arrow schema, with the columns that depend on the data appended."""
        fixed = [pa.field(column.name, column.dtype, nullable=column.nullable) for column in self.columns]
        return pa.schema([*fixed, *extra])


TILES = TableSchema(
    "tiles",
    1,
    (
        Column("tile_id", pa.int32(), "row-major number of the tile or spot within the slide, from 0"),
        Column("spot", pa.string(), "name of a measured spot in its table; null on a grid", nullable=True),
        Column("x_level0_px", pa.float64(), "x of the tile's centre, level-0 pixels, to the right"),
        Column("y_level0_px", pa.float64(), "y of the tile's centre, level-0 pixels, down"),
        Column("array_row", pa.int32(), "row on the grid or the capture array"),
        Column("array_col", pa.int32(), "column on the grid or the capture array"),
        Column("tissue_fraction", pa.float32(), "share of the tile's area that is tissue, 0 to 1"),
        Column("pen_fraction", pa.float32(), "share of the tile's area under pen marks, 0 to 1"),
        Column("blur", pa.float32(), "0 sharp to 1 blurred, measured on the thumbnail's scale"),
        Column("in_tissue", pa.bool_(), "whether the tile is encoded and predicted"),
    ),
)

BLURRED = 0.5
"""``blur`` above which a tile is out of focus."""

UNDER_INK = 0.05
"""``pen_fraction`` above which a tile lies under ink."""

FEATURES = TableSchema(
    "features",
    1,
    (
        Column("tile_id", pa.int32(), "the tile's number in tiles.parquet"),
        Column("status", pa.string(), "'ok' or 'unreadable'; features of an unreadable tile are null"),
    ),
)

EXPRESSION = TableSchema(
    "expression",
    2,
    (
        Column("sample", pa.string(), "the samplesheet's sample"),
        Column("spot", pa.string(), "name in the table of spots, or tile<tile_id>; unique within the sample"),
        Column("tile_id", pa.int32(), "the tile's number in tiles.parquet"),
        Column("x_level0_px", pa.float64(), "x of the spot's centre, level-0 pixels"),
        Column("y_level0_px", pa.float64(), "y of the spot's centre, level-0 pixels"),
        Column("in_tissue", pa.bool_(), "whether the tile was encoded and predicted"),
        Column("status", pa.string(), "'ok' or 'unreadable'; values of an unreadable tile are null"),
        Column("blur", pa.float32(), "0 sharp to 1 blurred"),
        Column("pen_fraction", pa.float32(), "share of the tile's area under pen marks, 0 to 1"),
        Column("in_statistics", pa.bool_(), "whether the tile enters the slide's statistics"),
        Column("ood_score", pa.float32(), "distance to the training tiles; null where unreadable", nullable=True),
        Column("ood_flag", pa.bool_(), "whether that distance passes the bundle's threshold"),
    ),
)

PREDICTED_GENES = TableSchema(
    "predicted-genes",
    1,
    (
        Column("gene_id", pa.string(), "Ensembl gene without version; the symbol where none is known"),
        Column("gene_symbol", pa.string(), "symbol as in the training data"),
        Column("seen_in_training", pa.bool_(), "whether measured values of this gene trained the model"),
        Column(
            "evidence", pa.string(), "on what its prediction stands: 'trained', 'similar_text' or 'dissimilar_text'"
        ),
        Column("nearest_gene", pa.string(), "of a gene never measured, the training gene described most alike"),
        Column("text_distance", pa.float32(), "distance to that gene's description, 0 to 2", nullable=True),
        Column("val_pcc", pa.float32(), "mean Pearson on held-out sections; null if unknown", nullable=True),
        Column("training_mean", pa.float32(), "mean in the training set, on the bundle's scale", nullable=True),
        Column("interval_half_width_sd", pa.float32(), "half-width of the interval, in units of sd", nullable=True),
    ),
)

PIXELS_FILE = "pixels.npy"
"""Pixels of every tile in tissue, in the order of ``tiles.parquet``: uint8 [tile, row, column, rgb]. Kept in a prepared
section for a method that trains its encoder."""

GENES = TableSchema(
    "genes",
    1,
    (
        Column("gene_id", pa.string(), "Ensembl gene without version; the symbol where none is known"),
        Column("gene_symbol", pa.string(), "symbol as in the training data"),
        Column("seen_in_training", pa.bool_(), "whether measured values of this gene trained the model"),
        Column("val_pcc", pa.float32(), "mean Pearson on held-out sections; null if unknown", nullable=True),
        Column("mean", pa.float32(), "mean in the training set, on the bundle's expression scale"),
        Column("interval_80", pa.float32(), "conformal half-width of the 80 % interval, in units of sd"),
        Column("interval_90", pa.float32(), "conformal half-width of the 90 % interval, in units of sd"),
    ),
)

_NAMED_GENE = (
    Column("gene_id", pa.string(), "Ensembl gene without version; the symbol where none is known"),
    Column("gene_symbol", pa.string(), "symbol as asked for; the approved one where an id was asked for"),
    Column("approved_symbol", pa.string(), "approved symbol; null where the gene is unknown", nullable=True),
)

GENE_NAMES = TableSchema(
    "gene-names",
    1,
    (
        *_NAMED_GENE,
        Column("name", pa.string(), "approved name", nullable=True),
        Column("species", pa.string(), "'human' or 'mouse'"),
        Column("authority_id", pa.string(), "HGNC:<n> or MGI:<n>", nullable=True),
        Column("ncbi_gene_id", pa.string(), "NCBI Gene", nullable=True),
        Column("uniprot_ids", pa.list_(pa.string()), "UniProt accessions"),
        Column("previous", pa.list_(pa.string()), "symbols the gene was approved under before"),
        Column("families", pa.list_(pa.string()), "HGNC gene groups, by number"),
        Column("matched_by", pa.string(), "'id', 'approved', 'previous', 'alias'; null where unknown", nullable=True),
        Column("reason", pa.string(), "why the gene is unknown; null where it is known", nullable=True),
        Column("digest", pa.string(), "sha256 of the row's other columns"),
    ),
)

GENE_TEXTS = TableSchema(
    "gene-texts",
    1,
    (
        *_NAMED_GENE,
        Column("text", pa.string(), "what the encoder reads"),
        Column("source", pa.string(), "where the text is from: 'ncbi+go', 'refined', 'llm:<model>' ..."),
        Column("digest", pa.string(), "sha256 of the text"),
    ),
)

# A file called genes.parquet in a bundle is `GENES`; this one says what is known of genes, measured or not.
GENE_EMBEDDINGS = TableSchema(
    "gene-embeddings",
    1,
    (
        *_NAMED_GENE,
        Column("text", pa.string(), "what the encoder read"),
        Column("source", pa.string(), "where the text is from"),
        Column("text_sha256", pa.string(), "sha256 of the text"),
        Column("encoder", pa.string(), "name of the text encoder, with its pooling"),
        Column("encoder_revision", pa.string(), "commit or digest of the encoder's weights"),
        Column("tokens", pa.int32(), "tokens of the text; null where the encoder does not say", nullable=True),
        Column("truncated", pa.bool_(), "whether the encoder read the beginning only; null if unknown", nullable=True),
        Column("digest", pa.string(), "sha256 of the embedding's bytes with its encoder and text"),
    ),
)
"""Besides these: ``embedding``, a fixed-size list of f32 as long as the encoder's output."""

GENE_P90 = "p90"
"""Column of `GENES` in bundles that state it: 90th percentile in the training set, float32, null of genes never measured."""

GENE_EMBEDDING = "embedding"
"""Column of `GENES` in bundles whose fusion graph takes genes by their descriptions: fixed-size list of float32,
fed as the graph's input ``gene``."""

SLIDE_SUMMARY = TableSchema(
    "slide-summary",
    1,
    (
        Column("gene_id", pa.string(), "Ensembl gene without version; the symbol where none is known"),
        Column("gene_symbol", pa.string(), "symbol as in the training data"),
        Column(
            "evidence", pa.string(), "on what its prediction stands: 'trained', 'similar_text' or 'dissimilar_text'"
        ),
        Column("val_pcc", pa.float32(), "mean Pearson on held-out sections; null if unknown", nullable=True),
        Column("training_mean", pa.float32(), "mean in the training set, on the bundle's scale", nullable=True),
        *(
            Column(f"{prefix}{name}", pa.float32(), f"{meaning} over the {spots} spots", nullable=True)
            for prefix, spots in (("", "readable"), ("in_distribution_", "in-distribution"))
            for name, meaning in (
                ("mean", "mean"),
                ("sd", "standard deviation"),
                ("median", "median"),
                ("p10", "10th percentile"),
                ("p90", "90th percentile"),
                ("mean_se", "standard error of the mean, by spatial block bootstrap,"),
            )
        ),
        Column(
            "high_fraction",
            pa.float32(),
            "share of the in-distribution spots above the training set's 90th percentile; null where that is unknown",
            nullable=True,
        ),
    ),
)
"""One row per gene; all statistics are null where a slide has no such spot."""

SLIDE_FACTS_KEY = b"histocast.slide"
"""Key of the metadata of `SLIDE_SUMMARY`: the slide's quality, mean embedding and picture, as JSON."""

METADATA_PREFIX = "meta."
"""Of a column that holds a samplesheet's metadata: ``meta.<column>``, a string, null where the cell is empty."""

SUMMARY = TableSchema(
    "summary",
    1,
    (
        Column("sample", pa.string(), "the samplesheet's sample; one row each, in its order"),
        Column("outcome", pa.string(), "'ok' or 'failed'"),
        Column("verdict", pa.string(), "'good', 'reserved' or 'empty'; null where a stage failed", nullable=True),
        Column(
            "reservations", pa.list_(pa.string()), "kinds of reservations; null where a stage failed", nullable=True
        ),
        Column("reservation_texts", pa.list_(pa.string()), "the same in words, in the same order", nullable=True),
        Column("failed_stage", pa.string(), "first stage that failed or left no record", nullable=True),
        Column("error_kind", pa.string(), "class of the error; 'DidNotRun' without a record", nullable=True),
        Column("message", pa.string(), "what was found, expected and where", nullable=True),
        Column("advice", pa.string(), "what to do", nullable=True),
        Column("tiles", pa.int64(), "tiles in tissue", nullable=True),
        Column("tissue_area_mm2", pa.float64(), "area of tissue", nullable=True),
        Column("unreadable", pa.int64(), "tiles that could not be read", nullable=True),
        Column("tiles_per_s", pa.float64(), "speed of ENCODE", nullable=True),
        Column("spots", pa.int64(), "rows of the expression artifact", nullable=True),
        Column("genes", pa.int64(), "genes predicted", nullable=True),
        Column("ood_flagged", pa.int64(), "spots unlike the training tissue", nullable=True),
        Column("mean_val_pcc", pa.float64(), "mean over genes of the bundle's held-out Pearson", nullable=True),
        Column("tile_s", pa.float64(), "duration of TILE", nullable=True),
        Column("encode_s", pa.float64(), "duration of ENCODE", nullable=True),
        Column("predict_s", pa.float64(), "duration of PREDICT", nullable=True),
        Column("report_s", pa.float64(), "duration of REPORT", nullable=True),
    ),
)

_OF_SUMMARY = (
    *("outcome", "verdict", "reservations", "failed_stage", "error_kind", "message", "advice", "tissue_area_mm2"),
)

SLIDES = TableSchema(
    "slides",
    1,
    (
        Column("sample", pa.string(), "the samplesheet's sample; one row each"),
        *(
            Column(column.name, column.dtype, column.meaning, column.nullable)
            for column in SUMMARY.columns
            if column.name in _OF_SUMMARY
        ),
        Column("in_matrix", pa.bool_(), "whether it is a row of cohort.h5ad: it has in-distribution spots"),
        Column("vendor", pa.string(), "of the scanner, as the slide's file says", nullable=True),
        Column("objective_power", pa.float64(), "as the slide's file says", nullable=True),
        Column("um_per_px", pa.float64(), "of level 0", nullable=True),
        Column("layout", pa.string(), "'grid' or 'spots'", nullable=True),
        Column("pen_fraction", pa.float64(), "share of the slide under pen", nullable=True),
        Column("unreadable_fraction", pa.float64(), "share of the slide that could not be read", nullable=True),
        Column("stain_absorbance", pa.float64(), "median optical density of the tissue in green light", nullable=True),
        Column("colourless", pa.bool_(), "whether the slide shows no colour at all", nullable=True),
        Column("spots", pa.int64(), "in tissue", nullable=True),
        Column("readable_spots", pa.int64(), "of these, readable", nullable=True),
        Column("in_distribution_spots", pa.int64(), "of these, clean and like the training tissue", nullable=True),
        Column("ood_fraction", pa.float64(), "share of readable spots unlike the training tissue", nullable=True),
        Column("blurred_fraction", pa.float64(), "share of the spots out of focus", nullable=True),
        Column("inked_fraction", pa.float64(), "share of the spots under ink", nullable=True),
        Column("mean_expression", pa.float64(), "mean over the genes of the in-distribution mean", nullable=True),
        Column("outlier", pa.bool_(), "null where its batch is too small to say", nullable=True),
        Column("outlier_in", pa.list_(pa.string()), "columns in which it is an outlier", nullable=True),
        Column("slide_digest", pa.string(), "of the slide's bytes", nullable=True),
        Column("bundle_digest", pa.string(), "of the bundle", nullable=True),
        Column("genes_digest", pa.string(), "of what --genes gave", nullable=True),
        Column("bundle_name", pa.string(), "the bundle's name and version", nullable=True),
        Column("method", pa.string(), "the bundle's method", nullable=True),
        Column("picture_jpeg", pa.string(), "the overview at no more than 96 pixels, base64", nullable=True),
    ),
)
"""One row per row of the samplesheets; quality is null where a slide failed before it was known."""

SIGNATURES = TableSchema(
    "signatures",
    1,
    (
        Column("sample", pa.string(), "a slide of cohort.h5ad"),
        Column("signature", pa.string(), "name of the gene set"),
        Column("score", pa.float32(), "mean z-score of its genes; null where too few are predicted", nullable=True),
        Column("genes", pa.int32(), "genes of the set"),
        Column("predicted", pa.int32(), "of these, predicted"),
    ),
)


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it and rename it to ``path``.

    Raises `OutputError`: the folder cannot be written, or the disk is full. Nothing is left behind.
    """
    temporary = _temporary_beside(path)
    try:
        with _as_output_error(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush(temporary)
            temporary.replace(path)
    finally:
        # Where the folder could not be made there is nothing to take away.
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


@contextmanager
def write_folder_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` for a folder; on success flush its files and rename it to ``path``.

    A folder that is there already is replaced; an interruption between two renames leaves none.

    Raises `OutputError`: the folder cannot be written, or the disk is full. Nothing is left behind.
    """
    temporary = _temporary_beside(path)
    leaving = temporary.with_suffix(".leaving")
    try:
        with _as_output_error(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Processes of containers often have the number of one that was killed.
            shutil.rmtree(temporary, ignore_errors=True)
            yield temporary
            for part in temporary.rglob("*"):
                if part.is_file():
                    _flush(part)
            if path.exists():
                path.rename(leaving)
            temporary.rename(path)
    finally:
        for folder in (temporary, leaving):
            shutil.rmtree(folder, ignore_errors=True)


def _temporary_beside(path: Path) -> Path:
    # The suffix stays last, because writers choose their format by it.
    return path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def _as_output_error(path: Path, temporary: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # A missing or damaged *input* read inside the block is not ours to rename into an output error, nor is memory.
        if is_out_of_memory(error):
            raise
        if error.filename is not None:
            named = Path(os.fsdecode(error.filename))
            if named not in (path, path.parent) and not named.is_relative_to(temporary):
                raise
        raise OutputError(
            f"cannot write {path.name}: {error.strerror or error}",
            where=str(path.parent),
            advice="make room or choose another output folder, then run again with -resume",
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, model: BaseModel) -> None:
    """Write a pydantic model as indented JSON, atomically."""
    write_text(path, model.model_dump_json(indent=2) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows, which all have the columns of the first, as CSV, atomically."""
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def with_provenance(schema: pa.Schema, provenance: Provenance) -> pa.Schema:
    """``schema`` with ``provenance`` in its file metadata, besides what is there."""
    return schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: provenance.model_dump_json().encode()})


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema, provenance: Provenance) -> Iterator[pq.ParquetWriter]:
    """Yield a writer that takes row groups as they come, so that memory does not grow with the slide."""
    with (
        write_atomically(path) as temporary,
        pq.ParquetWriter(temporary, with_provenance(schema, provenance), compression="zstd") as writer,
    ):
        yield writer


def write_table(path: Path, table: pa.Table, provenance: Provenance) -> None:
    """Write a whole table as Parquet, atomically."""
    with parquet_writer(path, table.schema, provenance) as writer:
        writer.write_table(table)


def open_parquet(path: Path, schema: TableSchema) -> tuple[pq.ParquetFile, Provenance]:
    """Open a Parquet artifact and verify that it is the one expected.

    Raises `MissingInputError`: there is no such file; `StaleInputError`: it is not Parquet, not this artifact, of
    another schema version, or lacks a column.
    """
    if not path.is_file():
        raise MissingInputError("no such file", expected=f"the {schema.artifact} artifact", where=str(path))
    with _refuse_damaged(path, schema):
        file = pq.ParquetFile(path)
    metadata = file.schema_arrow.metadata or {}
    if METADATA_KEY not in metadata:
        raise StaleInputError(
            "a Parquet file without histocast metadata", expected=f"the {schema.artifact} artifact", where=str(path)
        )
    try:
        provenance = Provenance.model_validate_json(metadata[METADATA_KEY])
    except ValidationError as error:
        raise StaleInputError("damaged histocast metadata", expected=schema.artifact, where=str(path)) from error
    found = (provenance.artifact, provenance.schema_version)
    if found != (schema.artifact, schema.version):
        raise StaleInputError(
            f"artifact {found[0]!r} of schema version {found[1]}",
            expected=f"{schema.artifact!r} of schema version {schema.version}",
            where=str(path),
            advice="run the stage that writes it again with this version of histocast",
        )
    missing = {column.name for column in schema.columns} - set(file.schema_arrow.names)
    if missing:
        raise StaleInputError(f"columns missing: {', '.join(sorted(missing))}", where=str(path))
    return file, provenance


def read_table(path: Path, schema: TableSchema) -> tuple[pa.Table, Provenance]:
    """Read a whole Parquet artifact; for tables whose size is that of the tile list, not of the pixels."""
    file, provenance = open_parquet(path, schema)
    with file, _refuse_damaged(path, schema):
        return file.read(), provenance


def _refuse_damaged(path: Path, schema: TableSchema) -> AbstractContextManager[None]:
    return refuse_damaged_parquet(path, expected=f"the {schema.artifact} artifact", kind=StaleInputError)
