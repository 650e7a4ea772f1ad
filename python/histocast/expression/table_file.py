"""Write ``<sample>.parquet``: a row a spot, a column a gene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from histocast.artifacts import EXPRESSION, parquet_writer
from histocast.expression.prediction import Prediction
from histocast.fusion.selected_genes import EVIDENCE, NEAREST_GENE
from histocast.records import Provenance

# Numbers in one row group, 8 MB of them, whatever the size of the panel.
ROW_GROUP_VALUES = 2_000_000


def gene_fields(genes: pa.Table) -> list[pa.Field]:
    """A float32 field a gene, whose metadata say what it is and on what its prediction stands."""
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

    Raises
    ------
    OutputError
        The folder cannot be written, or the disk is full. Nothing is left behind.
    """
    ids = prediction.genes.column("gene_id").to_pylist()
    schema = EXPRESSION.arrow(*gene_fields(prediction.genes))
    tiles = prediction.spots.tiles
    rows_at_once = max(256, ROW_GROUP_VALUES // max(len(ids), 1))
    with parquet_writer(path, schema, provenance) as writer:
        for rows in prediction.blocks(rows_at_once):
            count = rows.stop - rows.start
            part = tiles.slice(rows.start, count)
            values = np.asarray(prediction.expression[rows])
            missing = ~prediction.spots.readable[rows]
            columns = [
                pa.array([provenance.sample] * count, pa.string()),
                *(part.column(name).combine_chunks() for name in ("tile_id", "x_level0_px", "y_level0_px")),
                *(pa.array(np.ascontiguousarray(values[:, gene]), mask=missing) for gene in range(len(ids))),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
