"""Name genes once and for all: from symbols and ids to HGNC or MGI, NCBI and Ensembl ids."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from histocast.artifacts import GENE_NAMES, read_table, write_table
from histocast.errors import DataError, ErrorCollector
from histocast.genes.catalogue import Catalogue, Gene, Match, Refusal, without_version
from histocast.genes.digests import digest_of, digest_of_file
from histocast.parquet_damage import read_parquet
from histocast.records import Provenance
from histocast.text_file import read_text

NAMES_FILE = "gene-names.parquet"
OnUnknown = Literal["refuse", "keep"]


@dataclass(frozen=True)
class ResolveFacts:
    """What `resolve_genes` did."""

    path: Path
    genes: int
    renamed: tuple[Match, ...]
    """Genes whose approved symbol is not the one asked for."""
    unknown: tuple[Refusal, ...]
    """Kept without ids, where that was asked for."""


def resolve_genes(genes: Path, *, catalogue: Catalogue, outdir: Path, on_unknown: OnUnknown = "refuse") -> ResolveFacts:
    """Resolve the genes of a panel and write ``gene-names.parquet``.

    ``genes``: one gene per line, or a table (see `read_symbols`).
    ``catalogue``: the genes there are (see `open_catalogue`).
    ``on_unknown``: ``refuse``: what names no gene is an error; ``keep``: it stands in the table without ids, with the
        reason. What names several genes, or a gene named twice, is an error either way.
    Raises `MissingInputError` or `DataError`: the file is absent or unreadable; or every fault of it at once.
    """
    wanted = read_symbols(genes)
    answers = [(line, catalogue.find(query)) for line, query in wanted]
    unknown = [answer for _, answer in answers if isinstance(answer, Refusal)]
    advice = "fix the list; --on-unknown keep keeps unknown genes without ids"
    if _seem_of_other_species(unknown, catalogue):
        advice = f"most of these have the letters of {catalogue.species} genes in another case; say whose they are with --species"
    _refuse_faults(answers, where=str(genes), keep_unknown=on_unknown == "keep", advice=advice)
    rows = [_row(answer, catalogue) for _, answer in answers]
    provenance = GENE_NAMES.provenance(
        "genes",
        inputs={"genes": digest_of_file(genes), "names": catalogue.digest},
        parameters={"species": catalogue.species, "on_unknown": on_unknown, "names": catalogue.source},
    )
    path = outdir / NAMES_FILE
    write_rows(path, rows, provenance)
    renamed = [
        answer for _, answer in answers if isinstance(answer, Match) and answer.matched_by in {"previous", "alias"}
    ]
    return ResolveFacts(path, len(rows), tuple(renamed), tuple(unknown))


def write_rows(path: Path, rows: Sequence[dict[str, Any]], provenance: Provenance) -> None:
    """Write rows of `GENE_NAMES`."""
    import pyarrow as pa

    write_table(path, pa.Table.from_pylist(list(rows), schema=GENE_NAMES.arrow()), provenance)


def _seem_of_other_species(unknown: Sequence[Refusal], catalogue: Catalogue) -> bool:
    other_case = [refusal for refusal in unknown if catalogue.in_other_case(refusal.query)]
    return len(other_case) > len(unknown) / 2 and len(unknown) > 1


def _refuse_faults(
    answers: Sequence[tuple[int, Match | Refusal]], *, where: str, keep_unknown: bool, advice: str
) -> None:
    faults = ErrorCollector(where)
    first: dict[str, tuple[int, str]] = {}
    for line, answer in answers:
        if isinstance(answer, Refusal):
            if not (keep_unknown and answer.keepable):
                faults.add(answer.found, row=line, expected=answer.expected, advice=answer.advice)
            key = answer.query
        else:
            key = answer.gene.label
        if key in first:
            before, query = first[key]
            same = f"{answer.query!r} is already on line {before}"
            also = f"{answer.query!r} and {query!r} of line {before} are both {key}"
            faults.add(same if query == answer.query else also, row=line, expected="each gene once")
        first.setdefault(key, (line, answer.query))
    if not answers:
        faults.add("no gene", expected="one gene symbol or id a line")
    faults.raise_if_any(advice)


def _row(answer: Match | Refusal, catalogue: Catalogue) -> dict[str, Any]:
    gene = answer.gene if isinstance(answer, Match) else None
    by_id = isinstance(answer, Match) and answer.matched_by == "id"
    symbol = gene.symbol if gene and by_id else without_version(answer.query)
    row: dict[str, Any] = {
        "gene_id": gene.ensembl_id if gene and gene.ensembl_id else symbol,
        "gene_symbol": symbol,
        "approved_symbol": gene.symbol if gene else None,
        "name": gene.name if gene else None,
        "species": catalogue.species,
        "authority_id": gene.authority_id if gene else None,
        "ncbi_gene_id": gene.ncbi_gene_id if gene else None,
        "uniprot_ids": list(gene.uniprot_ids) if gene else [],
        "previous": list(gene.previous) if gene else [],
        "families": list(gene.families) if gene else [],
        "matched_by": answer.matched_by if isinstance(answer, Match) else None,
        "reason": None if isinstance(answer, Match) else answer.found,
    }
    return {**row, "digest": digest_of(row)}


@dataclass(frozen=True)
class NamedGene:
    """A row of ``gene-names.parquet``: the gene, and the symbol under which it was asked for."""

    gene_id: str
    gene_symbol: str
    gene: Gene | None
    """None where nothing but the symbol is known."""

    @property
    def symbols(self) -> frozenset[str]:
        """The symbols that mean this gene and no other: as asked for, approved."""
        return frozenset({self.gene_symbol, self.gene.symbol if self.gene else self.gene_symbol})


def read_named_genes(path: Path) -> list[NamedGene]:
    """Read ``gene-names.parquet``.

    Raises `MissingInputError` or `DataError`: it is absent, or another file.
    """
    table, _ = read_table(path, GENE_NAMES)
    return [NamedGene(row["gene_id"], row["gene_symbol"], _gene(row)) for row in table.to_pylist()]


def _gene(row: dict[str, Any]) -> Gene | None:
    if row["approved_symbol"] is None:
        return None
    return Gene(
        symbol=row["approved_symbol"],
        name=row["name"] or "",
        authority_id=row["authority_id"],
        ensembl_id=row["gene_id"] if row["gene_id"].startswith("ENS") else None,
        ncbi_gene_id=row["ncbi_gene_id"],
        uniprot_ids=tuple(row["uniprot_ids"]),
        previous=tuple(row["previous"]),
        families=tuple(row["families"]),
    )


# The columns that name a gene in panels, count matrices' feature tables and DataFrames, the surest first.
COLUMNS = ("gene_symbol", "symbol", "gene_id", "ensembl_id", "gene")


def read_symbols(path: Path) -> list[tuple[int, str]]:
    """Read the genes of a panel, each with its line: one gene per line, or a CSV, TSV or Parquet table.

    Of a table the first column of `COLUMNS` that it has is taken. Empty lines and what follows ``#`` are skipped.

    Raises `MissingInputError` or `DataError`: there is no such file, or it is not one of these.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    lines = read_text(path, expected="one gene per line, or a table").splitlines()
    delimiter = next((mark for mark in "\t," if lines and mark in lines[0]), None)
    if delimiter is None:
        start = 1 if lines and lines[0].strip() in COLUMNS else 0
        cells = [line.split("#", 1)[0].strip() for line in lines]
        return [(number, cell) for number, cell in enumerate(cells, start=1) if cell and number > start]
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"not a table: {error}", expected="one gene per line, or a table", where=str(path)) from error
    place = rows[0].index(_column(rows[0], path))
    named = ((number, row[place].strip() if len(row) > place else "") for number, row in enumerate(rows, start=1))
    return [(number, name) for number, name in named if name and number > 1]


def _read_parquet(path: Path) -> list[tuple[int, str]]:
    table = read_parquet(path, expected="one gene per line, or a table")
    values = table[_column(table.column_names, path)].to_pylist()
    return [(number, str(value)) for number, value in enumerate(values, start=1) if value]


def _column(header: Sequence[str], path: Path) -> str:
    for name in COLUMNS:
        if name in header:
            return name
    raise DataError(
        f"columns {', '.join(header[:8])}", expected=f"one of the columns {', '.join(COLUMNS)}", where=str(path)
    )
