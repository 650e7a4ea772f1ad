"""Write a text about each gene, from sources held to its ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from histocast.artifacts import GENE_TEXTS, write_table
from histocast.errors import DataError
from histocast.genes.digests import digest_of_file, digest_of_text
from histocast.genes.gene_ontology import read_annotations
from histocast.genes.gene_options import Sources
from histocast.genes.journal import Journal
from histocast.genes.ncbi import fetch_ncbi_summaries, read_ncbi_records
from histocast.genes.published import read_refined
from histocast.genes.refine import RefineFacts, Refinement, refine_texts
from histocast.genes.resolve import NamedGene, read_named_genes
from histocast.genes.texts import SourceTexts
from histocast.genes.uniprot import read_uniprot
from histocast.records import Provenance

TEXTS_FILE = "gene-texts.parquet"
JOURNAL_FILE = "describe.journal.jsonl"
OnRefused = Literal["fail", "source"]


@dataclass(frozen=True)
class DescribeFacts:
    """What `describe_genes` did."""

    path: Path
    genes: int
    by_source: Mapping[str, int]
    """Genes by what their text is from."""
    refused: Sequence[str]
    """What a source held under a gene's name that is not of this gene."""
    refinement: RefineFacts | None


@dataclass
class _Text:
    named: NamedGene
    text: str
    source: str


def describe_genes(
    names: Path,
    *,
    outdir: Path,
    sources: Sources,
    head: bool = True,
    refinement: Refinement | None = None,
    on_refused: OnRefused = "fail",
) -> DescribeFacts:
    """Describe the genes of ``gene-names.parquet`` and write ``gene-texts.parquet``.

    A published description is taken as it is. Other texts are the gene's symbol and name, NCBI's summary, UniProt's
    function and GO's terms, in this order, as far as a source has them; then, where asked for, a language model
    condenses them.

    ``head``: begin with symbol and name; without, a gene of which no source says anything has its symbol only.
    ``refinement``: the language model, if any.
    ``on_refused``: what to do when no answer of the model is fit: ``fail``, or take the text of the sources.
    Raises `MissingInputError` or `DataError`: a source is absent or unreadable, or answers of the model were refused.
    `TransientError` or `ConfigError`: entrez or the model fails. What they answered is kept in the journal beside the
    output.
    """
    genes = read_named_genes(names)
    outdir.mkdir(parents=True, exist_ok=True)
    with Journal(outdir / JOURNAL_FILE) as journal:
        found = _read_sources(genes, sources, journal)
        texts = [_compose(named, found, head=head) for named in genes]
        facts = _refine(texts, how=refinement, journal=journal, on_refused=on_refused) if refinement else None
    path = outdir / TEXTS_FILE
    _write(path, texts, _provenance(names, found, sources=sources, head=head, refinement=refinement))
    counts: dict[str, int] = {}
    for text in texts:
        counts[text.source] = counts.get(text.source, 0) + 1
    refused = [f"{symbol}: {why} ({source.kind})" for source in found for symbol, why in source.refused.items()]
    return DescribeFacts(path, len(texts), counts, refused, facts)


def _read_sources(genes: Sequence[NamedGene], sources: Sources, journal: Journal) -> list[SourceTexts]:
    found: list[SourceTexts] = []
    wrong: dict[str, str] = {}
    if sources.ncbi:
        found.append(read_ncbi_records(sources.ncbi, genes))
        wrong.update(found[-1].refused)
    if sources.entrez_email:
        known = found[-1].by_symbol if found else {}
        missing = [named for named in genes if named.gene_symbol not in known]
        found.append(fetch_ncbi_summaries(missing, email=sources.entrez_email, journal=journal))
    if sources.uniprot:
        found.append(read_uniprot(sources.uniprot, genes))
    if sources.go:
        keep = sources.keep_expression_evidence
        found.append(read_annotations(sources.go, genes, keep_expression_evidence=keep, terms=sources.go_terms))
    if sources.refined:
        found.append(read_refined(sources.refined, genes, wrong=wrong))
    return found


def _compose(named: NamedGene, found: Sequence[SourceTexts], *, head: bool) -> _Text:
    said = {
        source.kind: source.by_symbol[named.gene_symbol] for source in found if named.gene_symbol in source.by_symbol
    }
    if "refined" in said:
        return _Text(named, said["refined"], "refined")
    symbol = named.gene.symbol if named.gene else named.gene_symbol
    parts = [f"{_LEAD[kind]}{text}" for kind, text in said.items()]
    if head or not parts:
        known = named.gene.name if named.gene and head else ""
        parts.insert(0, f"gene symbol: {symbol}." + (f" Name: {known}." if known else ""))
    source = "+".join(said) or ("name" if head and named.gene else "symbol")
    return _Text(named, " ".join(parts), source)


_LEAD = {"ncbi": "", "entrez": "", "uniprot": "Function: ", "go": "Gene Ontology: "}


def _refine(texts: Sequence[_Text], *, how: Refinement, journal: Journal, on_refused: OnRefused) -> RefineFacts:
    raw = [text for text in texts if text.source != "refined"]
    facts = refine_texts([(text.named, text.text) for text in raw], how=how, journal=journal)
    if facts.refused and on_refused == "fail":
        listing = "\n".join(f"{symbol}: {why}" for symbol, why in sorted(facts.refused.items()))
        raise DataError(
            f"no fit answer about {len(facts.refused)} of {len(raw)} genes\n{listing}",
            where=f"model {how.endpoint.model!r}",
            advice="raise --attempts, take another model, or --on-refused source; what was answered is kept",
        )
    for text in raw:
        if text.named.gene_symbol in facts.texts:
            text.text, text.source = facts.texts[text.named.gene_symbol], f"llm:{how.endpoint.model}"
    return facts


def _provenance(
    names: Path, found: Sequence[SourceTexts], *, sources: Sources, head: bool, refinement: Refinement | None
) -> Provenance:
    parameters: dict[str, Any] = {"head": head, "keep_expression_evidence": sources.keep_expression_evidence}
    if refinement:
        parameters["refinement"] = refinement.parameters
    return GENE_TEXTS.provenance(
        "genes",
        inputs={"names": digest_of_file(names)} | {source.kind: source.digest for source in found},
        parameters=parameters,
    )


def _write(path: Path, texts: Sequence[_Text], provenance: Provenance) -> None:
    import pyarrow as pa

    rows = [
        {
            "gene_id": text.named.gene_id,
            "gene_symbol": text.named.gene_symbol,
            "approved_symbol": text.named.gene.symbol if text.named.gene else None,
            "text": text.text,
            "source": text.source,
            "digest": digest_of_text(text.text),
        }
        for text in texts
    ]
    write_table(path, pa.Table.from_pylist(rows, schema=GENE_TEXTS.arrow()), provenance)
