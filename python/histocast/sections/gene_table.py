"""Gene tables a user gives: Ensembl ids of symbols, and panels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from histocast.errors import DataError, ErrorCollector, MissingInputError
from histocast.sections.counts import without_version
from histocast.text_table import read_gene_list

ID_COLUMN, SYMBOL_COLUMN = "gene_id", "gene_symbol"
_EXPECTED = "a table gene_id,gene_symbol"


def read_gene_table(path: Path) -> dict[str, str]:
    """Read ``gene_id,gene_symbol`` (CSV, TSV or Parquet) as ids by symbol, versions dropped.

    Raises `MissingInputError`: there is no such file; `DataError`: a column is absent, or a symbol has two ids.
    """
    ids: dict[str, str] = {}
    faults = ErrorCollector(str(path))
    for line, (gene_id, symbol) in enumerate(_pairs(path), start=2):
        named = without_version(gene_id)
        if ids.setdefault(symbol, named) != named:
            faults.add(f"{symbol!r} is {named} here and {ids[symbol]} before", row=line, expected="one id a symbol")
    faults.raise_if_any("keep the id that the counts were made with")
    return ids


def _pairs(path: Path) -> Sequence[tuple[str, str]]:
    if not path.is_file():
        raise MissingInputError("no such file", expected=_EXPECTED, where=str(path))
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        from histocast.parquet_damage import refuse_damaged_parquet

        with refuse_damaged_parquet(path, expected=_EXPECTED):
            table = pq.read_table(path)
        _require_columns(table.column_names, path)
        columns = (table[name].to_pylist() for name in (ID_COLUMN, SYMBOL_COLUMN))
        return [(str(gene_id or ""), str(symbol or "")) for gene_id, symbol in zip(*columns, strict=True)]
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="," if path.suffix == ".csv" else "\t")
            _require_columns(rows.fieldnames or (), path)
            return [(row[ID_COLUMN] or "", row[SYMBOL_COLUMN] or "") for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not a table: {error}", expected=_EXPECTED, where=str(path)) from error


def _require_columns(found: Sequence[str], path: Path) -> None:
    if missing := {ID_COLUMN, SYMBOL_COLUMN} - set(found):
        raise DataError(
            f"columns {', '.join(found) or 'none'}",
            expected=f"the column {' and '.join(sorted(missing))}",
            where=str(path),
        )


def read_panel(path: Path) -> tuple[str, ...]:
    """Read a panel: one gene per line, symbol or Ensembl id; empty lines and ``#`` comments are skipped.

    Raises `MissingInputError`: there is no such file; `DataError`: it names no gene, or one twice.
    """
    faults = ErrorCollector(str(path))
    genes: dict[str, int] = {}
    for line, name in read_gene_list(path, faults):
        gene = without_version(name)
        if gene in genes:
            faults.add(f"{gene!r} is on line {genes[gene]} too", row=line, expected="each gene once")
        genes.setdefault(gene, line)
    if not genes and not faults:
        faults.add("no gene", expected="one gene per line")
    faults.raise_if_any()
    return tuple(genes)
