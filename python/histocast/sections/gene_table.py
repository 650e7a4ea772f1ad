"""Gene tables a user gives: Ensembl ids of symbols, and panels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from histocast.errors import ErrorCollector
from histocast.parquet_damage import read_parquet
from histocast.sections.counts import without_version
from histocast.text_file import open_text, require_columns
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
    if path.suffix == ".parquet":
        table = read_parquet(path, expected=_EXPECTED)
        require_columns(table.column_names, (ID_COLUMN, SYMBOL_COLUMN), path)
        columns = (table[name].to_pylist() for name in (ID_COLUMN, SYMBOL_COLUMN))
        return [(str(gene_id or ""), str(symbol or "")) for gene_id, symbol in zip(*columns, strict=True)]
    with open_text(path, expected=_EXPECTED) as stream:
        rows = csv.DictReader(stream, delimiter="," if path.suffix == ".csv" else "\t")
        require_columns(rows.fieldnames, (ID_COLUMN, SYMBOL_COLUMN), path)
        return [(row[ID_COLUMN] or "", row[SYMBOL_COLUMN] or "") for row in rows]


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
