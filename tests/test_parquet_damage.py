"""A Parquet file that is damaged anywhere is refused as data by all that read one, whatever pyarrow raises of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from histocast.artifacts import TableSchema, read_table
from histocast.errors import DataError, HistocastError
from histocast.foreign_errors import known_error
from histocast.genes.name_tables import open_catalogue
from histocast.genes.resolve import read_symbols
from histocast.sections.gene_table import read_gene_table
from histocast.sections.read_counts import read_counts

ROWS = 50
DAMAGED_BYTES = 40

READERS: dict[str, Callable[[Path], object]] = {
    "artifact": lambda path: read_table(path, TableSchema("made", 1, ())),
    "symbols": read_symbols,
    "name table": lambda path: open_catalogue([path]),
    "gene table": read_gene_table,
    "counts": read_counts,
}


@pytest.mark.parametrize("name", READERS)
def test_damage_is_a_data_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    columns = {"gene_id": [f"ENSG{row:011d}" for row in range(ROWS)], "gene_symbol": [f"G{row}" for row in range(ROWS)]}
    if name == "counts":
        columns = {"spot": columns["gene_symbol"], "TP53": list(range(ROWS))}
    metadata = {b"histocast": b'{"artifact": "made", "schema_version": 1, "sample": "S1"}'}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    good = path.read_bytes()
    READERS[name](path)
    refused = 0
    for start in range(0, len(good), DAMAGED_BYTES):
        stop = start + DAMAGED_BYTES
        path.write_bytes(good[:start] + bytes(255 - byte for byte in good[start:stop]) + good[stop:])
        try:
            READERS[name](path)
        except HistocastError as error:
            assert isinstance(error, DataError), error  # noqa: PT017 - damage that changes no structure is no fault
            refused += 1
    assert refused > len(good) // DAMAGED_BYTES // 2


def test_an_error_without_a_number_is_of_the_file_and_not_of_the_system() -> None:
    assert isinstance(known_error(OSError("Unable to synchronously open file (file signature not found)")), DataError)
    assert known_error(TimeoutError("timed out")) is None
