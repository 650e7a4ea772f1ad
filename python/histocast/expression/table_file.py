"""Write ``<sample>.parquet``, one row per spot and one column per gene, and ``<sample>.genes.parquet``, one row per gene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from histocast.artifacts import EXPRESSION, PREDICTED_GENES, parquet_writer, write_table
from histocast.expression.prediction import Prediction
from histocast.fusion.selected_genes import EVIDENCE, NEAREST_GENE
from histocast.records import Provenance

# Numbers in one row group, 8 MB of them, whatever the size of the panel.
ROW_GROUP_VALUES = 2_000_000


def gene_fields(genes: pa.Table) -> list[pa.Field]:
    """One float32 field per gene, whose metadata say what it is and on what its prediction stands."""
    return [
        pa.field(
            row["gene_id"],
            pa.float32(),
            metadata={
                "gene_symbol": row["gene_symbol"],
                "seen_in_training": str(row["seen_in_training"]).lower(),
                EVIDENCE: row[EVIDENCE],
                **({NEAREST_GENE: row[NEAREST_GENE]} if row[NEAREST_GENE] else {}),
            },
        )
        for row in genes.select(["gene_id", "gene_symbol", "seen_in_training", EVIDENCE, NEAREST_GENE]).to_pylist()
    ]


def write_expression_table(path: Path, prediction: Prediction, provenance: Provenance) -> None:
    """Write the expression table of one sample.

    Gene columns are named by ``gene_id``, because symbols change and need not be unique; each field's
    metadata holds its ``gene_symbol``, ``seen_in_training`` (``true`` or ``false``),
    ``evidence`` and, of a gene that was never measured, ``nearest_gene``. Values of unreadable spots are null.

    Raises `OutputError`: the folder cannot be written, or the disk is full. Nothing is left behind.
    """
    ids = prediction.genes.column("gene_id").to_pylist()
    schema = EXPRESSION.arrow(*gene_fields(prediction.genes))
    spots = _spot_columns(prediction, provenance.sample)
    rows_at_once = max(256, ROW_GROUP_VALUES // max(len(ids), 1))
    with parquet_writer(path, schema, provenance) as writer:
        for rows in prediction.blocks(rows_at_once):
            values = np.asarray(prediction.expression[rows])
            missing = ~prediction.spots.readable[rows]
            part = spots.slice(rows.start, rows.stop - rows.start).combine_chunks()
            columns = [
                *(part.column(name).chunk(0) for name in spots.column_names),
                *(pa.array(np.ascontiguousarray(values[:, gene]), mask=missing) for gene in range(len(ids))),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _spot_columns(prediction: Prediction, sample: str) -> pa.Table:
    """The fixed columns of the expression table, all spots."""
    tiles, readable = prediction.spots.tiles, prediction.spots.readable
    columns = {
        "sample": pa.array([sample] * len(prediction), pa.string()),
        "spot": pa.array(prediction.spot_names(), pa.string()),
        **{
            name: tiles[name] for name in ("tile_id", "x_level0_px", "y_level0_px", "in_tissue", "blur", "pen_fraction")
        },
        "status": pa.array(np.where(readable, "ok", "unreadable").tolist(), pa.string()),
        "in_statistics": pa.array(prediction.spots.in_statistics),
        "ood_score": pa.array(prediction.ood_score, mask=~readable),
        "ood_flag": pa.array(prediction.ood_flag),
    }
    return pa.table({column.name: columns[column.name] for column in EXPRESSION.columns}).cast(EXPRESSION.arrow())


def write_gene_table(path: Path, prediction: Prediction, provenance: Provenance) -> None:
    """Write what is known of each predicted gene (`artifacts.PREDICTED_GENES`), in the order of the gene columns.

    Raises `OutputError`: the folder cannot be written, or the disk is full. Nothing is left behind.
    """
    columns = {
        **{name: prediction.genes[name] for name in prediction.genes.column_names},
        "training_mean": prediction.genes["mean"],
        "interval_half_width_sd": pa.array(prediction.half_width, from_pandas=True),
    }
    table = pa.table({column.name: columns[column.name] for column in PREDICTED_GENES.columns})
    write_table(path, table.cast(PREDICTED_GENES.arrow()), PREDICTED_GENES.provenance_like(provenance))
