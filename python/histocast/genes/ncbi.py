"""Summaries of NCBI Gene: records on file, and Entrez itself.

Records are asked for and taken by id. A search's first hit is another gene often enough: asked for FLG it gives
FGFR1, whose alias that is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from histocast.errors import ConfigError, DataError, StorageUnavailable
from histocast.genes.digests import digest_of
from histocast.genes.journal import Journal
from histocast.genes.resolve import NamedGene
from histocast.genes.texts import GeneIds, SourceTexts, without_citations
from histocast.progress import Meter
from histocast.text_file import read_text

# NCBI takes 200 ids in one request, and 3 requests a second without a key.
IDS_A_REQUEST = 200


def read_ncbi_records(path: Path, genes: Sequence[NamedGene]) -> SourceTexts:
    """Read NCBI Gene records: JSON lines of ``query``, ``symbol``, ids and ``summary``.

    A record belongs to the gene whose HGNC, NCBI or Ensembl id it has, whatever it was found by. Where the query was
    one of ``genes`` and the record is of another, that is noted as refused.

    Raises `MissingInputError` or `DataError`: there is no such file, or a line is no record.
    """
    ids = GeneIds(genes)
    texts: dict[str, str] = {}
    refused: dict[str, str] = {}
    for record in _records(path):
        named = ids.by_id(
            authority=record.get("hgnc_id"), ncbi=record.get("ncbi_gene_id"), ensembl=record.get("ensembl_id")
        )
        asked = ids.by_symbol(str(record.get("query") or record.get("symbol")))
        if asked is not None and asked is not named:
            what = f"{record.get('symbol')} ({record.get('hgnc_id') or record.get('ncbi_gene_id') or 'no id'})"
            refused[asked.gene_symbol] = f"the record found for {asked.gene_symbol} is of {what}"
        if named is not None and (summary := without_citations(str(record.get("summary") or ""))):
            texts[named.gene_symbol] = summary
    return SourceTexts.of_records("ncbi", texts, path, refused)


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    # JSON may hold line separators of Unicode as they are, at which splitlines() would cut a record in two.
    lines = read_text(path, expected="NCBI Gene records").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError("not JSON", expected="one record per line", where=f"{path}, line {number}") from error
        if not isinstance(record, dict) or "summary" not in record:
            raise DataError("no summary", expected="an NCBI Gene record", where=f"{path}, line {number}")
        yield record


def fetch_ncbi_summaries(genes: Sequence[NamedGene], *, email: str, journal: Journal) -> SourceTexts:
    """Ask Entrez for the summaries of genes, by NCBI Gene id; what the journal holds is not asked again.

    ``email``: whom NCBI writes to when requests trouble it; NCBI asks for it.
    Raises `ConfigError`: the extra ``genes`` is not installed; `StorageUnavailable`: NCBI did not answer; `DataError`:
    it answered something else than summaries.
    """
    asked = {named.gene.ncbi_gene_id: named for named in genes if named.gene and named.gene.ncbi_gene_id}
    questions = {gene_id: digest_of({"entrez": "gene", "id": gene_id}) for gene_id in asked}
    waiting = [gene_id for gene_id, question in questions.items() if question not in journal]
    with Meter("NCBI Gene", total=len(waiting), unit="genes") as meter:
        for start in range(0, len(waiting), IDS_A_REQUEST):
            gene_ids = waiting[start : start + IDS_A_REQUEST]
            for gene_id, summary in _ask_entrez(gene_ids, email=email).items():
                journal.add(questions[gene_id], {"summary": summary})
            meter.advance(len(gene_ids))
    texts: dict[str, str] = {}
    for gene_id, named in asked.items():
        summary = journal[questions[gene_id]]["summary"] if questions[gene_id] in journal else ""
        if text := without_citations(summary):
            texts[named.gene_symbol] = text
    return SourceTexts("entrez", texts, digest_of(texts), {})


def _ask_entrez(gene_ids: Sequence[str], *, email: str) -> dict[str, str]:
    try:
        from Bio import Entrez
    except ImportError as error:
        raise ConfigError("biopython is not installed", advice="pip install 'histocast[genes]'") from error
    entrez: Any = Entrez
    entrez.email, entrez.tool = email, "histocast"
    try:
        with entrez.esummary(db="gene", id=",".join(gene_ids), retmode="json") as stream:
            answer = json.load(stream)
    except (OSError, HTTPException) as error:
        raise StorageUnavailable(
            f"NCBI did not answer: {error}", where="Entrez", advice="run it again: what was answered is kept"
        ) from error
    except ValueError as error:
        raise DataError("NCBI's answer is no JSON", expected="summaries", where="Entrez") from error
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, dict) or not all(isinstance(result.get(gene_id, {}), dict) for gene_id in gene_ids):
        raise DataError("NCBI's answer holds no result", expected="summaries", where="Entrez")
    # Only records under the ids asked for are taken; one that NCBI has withdrawn comes with an error and no summary.
    return {gene_id: str(result[gene_id].get("summary", "")) for gene_id in gene_ids if gene_id in result}
