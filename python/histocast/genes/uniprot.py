"""What UniProt says of a protein's function: their JSON or TSV export."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from histocast.errors import DataError
from histocast.genes.resolve import NamedGene
from histocast.genes.texts import GeneIds, SourceTexts, without_citations
from histocast.text_file import open_text, require_columns


@dataclass(frozen=True)
class _Protein:
    accession: str
    symbol: str
    authority: str | None
    function: str


def read_uniprot(path: Path, genes: Sequence[NamedGene]) -> SourceTexts:
    """Read the function texts of UniProt for ``genes``.

    An entry belongs to the gene whose HGNC id or accession it has. By its gene name alone it is taken only where no
    accession is known of the gene.

    Raises `MissingInputError` or `DataError`: there is no such file, or it is not an export of UniProt.
    """
    ids = GeneIds(genes)
    texts: dict[str, str] = {}
    refused: dict[str, str] = {}
    for protein in _proteins(path):
        named = ids.claim(protein.symbol, refused, authority=protein.authority, uniprot=protein.accession)
        if named is not None and protein.function:
            texts.setdefault(named.gene_symbol, protein.function)
    return SourceTexts.of_records("uniprot", texts, path, refused)


def _proteins(path: Path) -> Iterator[_Protein]:
    with open_text(path, expected="an export of UniProt") as stream:
        first = stream.readline()
        if first.lstrip()[:1] in {"{", "["}:
            yield from _from_json(first + stream.read(), path)
        else:
            yield from _from_table(chain([first], stream), path)


def _from_table(lines: Iterable[str], path: Path) -> Iterator[_Protein]:
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    needed = {"Entry", "Function [CC]"}
    names = next((name for name in ("Gene Names (primary)", "Gene Names") if name in (rows.fieldnames or ())), None)
    advice = "choose Entry, Gene Names (primary) and Function [CC] when exporting from UniProt"
    require_columns(rows.fieldnames, needed, path, advice=advice)
    for row in rows:
        symbol = ((row.get(names) or "") if names else "").replace(";", " ").split()
        yield _Protein(row["Entry"], symbol[0] if symbol else "", None, _function(row["Function [CC]"] or ""))


def _from_json(text: str, path: Path) -> Iterator[_Protein]:
    try:
        document = json.loads(text)
        entries: Sequence[Mapping[str, Any]] = document["results"] if isinstance(document, dict) else document
        for entry in entries:
            genes = entry.get("genes") or [{}]
            authority = next(
                (
                    link["id"]
                    for link in entry.get("uniProtKBCrossReferences", ())
                    if link["database"] in {"HGNC", "MGI"}
                ),
                None,
            )
            function = " ".join(
                part["value"]
                for comment in entry.get("comments", ())
                if comment["commentType"] == "FUNCTION"
                for part in comment.get("texts", ())
            )
            symbol = genes[0].get("geneName", {}).get("value", "")
            yield _Protein(entry["primaryAccession"], symbol, authority, _function(function))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise DataError("not UniProt's JSON", expected="results with primaryAccession", where=str(path)) from error


def _function(text: str) -> str:
    return without_citations(text.replace("FUNCTION:", " "))
