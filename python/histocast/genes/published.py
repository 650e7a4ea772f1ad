"""Descriptions that others have refined and published, as one more source."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from histocast.genes.digests import digest_of_file
from histocast.genes.resolve import NamedGene
from histocast.genes.texts import GeneIds, SourceTexts
from histocast.text_file import open_text, require_columns

OWN_SYMBOL = re.compile(r"gene symbol:\s*(\S+?)[.,;]?(?:\s|$)", re.IGNORECASE)


def read_refined(path: Path, genes: Sequence[NamedGene], *, wrong: Mapping[str, str]) -> SourceTexts:
    """Read a table of ``symbol`` and ``description``.

    ``wrong``: genes whose database record was found to be of another gene, with the reason. A description refined from
        that record speaks of the other gene under this one's symbol, and is refused.
    Raises `MissingInputError` or `DataError`: there is no such file, or it lacks a column.
    """
    ids = GeneIds(genes)
    texts: dict[str, str] = {}
    refused: dict[str, str] = {}
    for symbol, text in _descriptions(path):
        named = ids.by_symbol(symbol)
        if named is None or not text:
            continue
        own = OWN_SYMBOL.match(text)
        if named.gene_symbol in wrong:
            refused[named.gene_symbol] = f"refined from another gene's record: {wrong[named.gene_symbol]}"
        elif own and ids.by_symbol(own[1]) is not named:
            refused[named.gene_symbol] = f"it calls itself {own[1]}"
        else:
            texts[named.gene_symbol] = text
    return SourceTexts("refined", texts, digest_of_file(path), refused)


def _descriptions(path: Path) -> Iterator[tuple[str, str]]:
    with open_text(path, expected="refined descriptions") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        require_columns(rows.fieldnames, ("symbol", "description"), path)
        for row in rows:
            yield row["symbol"], " ".join((row["description"] or "").split())
