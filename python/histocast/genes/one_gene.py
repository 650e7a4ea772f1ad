"""Bring together what several rows, or several tables, say of one gene."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from histocast.genes.catalogue import Gene


def one_a_gene(rows: Iterable[Gene]) -> list[Gene]:
    """Make rows of one gene one: those with the same HGNC or MGI id, else Ensembl id, else symbol.

    Tables that were joined with another hold a gene as often as that has an id for it. The first row's symbol and ids
    stand; names and ids of the others are added.
    """
    groups: dict[str, list[Gene]] = {}
    for row in rows:
        groups.setdefault(row.authority_id or row.ensembl_id or row.symbol, []).append(row)
    return [group[0] if len(group) == 1 else _joined(group) for group in groups.values()]


def _joined(rows: Sequence[Gene]) -> Gene:
    gene = rows[0]
    for row in rows[1:]:
        gene = _with_facts_of(gene, row)
    known = {gene.symbol, *gene.previous}
    names = dict.fromkeys(name for row in rows for name in (*row.aliases, row.symbol))
    return replace(
        gene,
        uniprot_ids=tuple(dict.fromkeys(accession for row in rows for accession in row.uniprot_ids)),
        previous=tuple(dict.fromkeys(symbol for row in rows for symbol in row.previous)),
        aliases=tuple(name for name in names if name not in known),
    )


def supplement(genes: Sequence[Gene], later: Iterable[Gene]) -> list[Gene]:
    """Add the genes of a later table, and to those known already the ids they lack.

    A gene of the later table that shares a symbol or an id with a known one and contradicts it in another id is left
    out: the earlier table is the surer one.
    """
    known = list(genes)
    places = {key: place for place, gene in enumerate(known) for key in _keys(gene)}
    added: list[Gene] = []
    for gene in later:
        place = next((places[key] for key in _keys(gene) if key in places), None)
        if place is None:
            added.append(gene)
        elif _agree(known[place], gene):
            known[place] = _with_facts_of(known[place], gene)
    return known + added


def _keys(gene: Gene) -> list[str]:
    return [key for key in (gene.authority_id, gene.ensembl_id, gene.symbol) if key]


def _agree(first: Gene, second: Gene) -> bool:
    """Whether no id of two genes says that they are two; an authority's id that both have is the last word."""
    if first.authority_id and second.authority_id:
        return first.authority_id == second.authority_id
    return not (first.ensembl_id and second.ensembl_id) or first.ensembl_id == second.ensembl_id


def _with_facts_of(gene: Gene, other: Gene) -> Gene:
    return replace(
        gene,
        name=gene.name or other.name,
        authority_id=gene.authority_id or other.authority_id,
        ensembl_id=gene.ensembl_id or other.ensembl_id,
        ncbi_gene_id=gene.ncbi_gene_id or other.ncbi_gene_id,
        uniprot_ids=gene.uniprot_ids or other.uniprot_ids,
        families=gene.families or other.families,
        locus_type=gene.locus_type or other.locus_type,
    )
