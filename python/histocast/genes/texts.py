"""What a source says of the genes asked for, held to their ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from histocast.genes.digests import digest_of_file
from histocast.genes.resolve import NamedGene


@dataclass(frozen=True)
class SourceTexts:
    """The texts of one source."""

    kind: str
    """``ncbi``, ``entrez``, ``uniprot``, ``go`` or ``refined``."""
    by_symbol: Mapping[str, str]
    """The text by the gene's ``gene_symbol``."""
    digest: str
    """Of the file."""
    refused: Mapping[str, str]
    """By ``gene_symbol``: why what stands under that name was not taken."""

    @classmethod
    def of_records(cls, kind: str, texts: Mapping[str, str], path: Path, refused: Mapping[str, str]) -> SourceTexts:
        """Texts of a file of records: of those refused under a name, another record may have been the right one."""
        left = {symbol: reason for symbol, reason in refused.items() if symbol not in texts}
        return cls(kind, texts, digest_of_file(path), left)


class GeneIds:
    """Finds the gene, among those asked for, that a record's ids mean."""

    def __init__(self, genes: Sequence[NamedGene]) -> None:
        self.genes = tuple(genes)
        self._symbols: dict[str, NamedGene] = {}
        self._ids: dict[str, NamedGene] = {}
        for named in genes:
            self._symbols.update(dict.fromkeys(named.symbols, named))
        for named in genes:
            if named.gene is None:
                continue
            gene = named.gene
            keys = (gene.authority_id, gene.ensembl_id, _ncbi(gene.ncbi_gene_id), *map(_uniprot, gene.uniprot_ids))
            self._ids.update({key: named for key in keys if key})
            for symbol in gene.previous:
                self._symbols.setdefault(symbol, named)

    def by_id(
        self,
        *,
        authority: str | None = None,
        ensembl: str | None = None,
        ncbi: str | None = None,
        uniprot: str | None = None,
    ) -> NamedGene | None:
        """The gene that has one of these ids, the authority's asked first."""
        for key in (authority, _ncbi(ncbi), ensembl, _uniprot(uniprot)):
            if key and key in self._ids:
                return self._ids[key]
        return None

    def by_symbol(self, symbol: str) -> NamedGene | None:
        """The gene asked for by this symbol, or approved under it, or else formerly approved under it."""
        return self._symbols.get(symbol)

    def claim(
        self, symbol: str, refused: dict[str, str], *, authority: str | None = None, uniprot: str | None = None
    ) -> NamedGene | None:
        """The gene that has one of these ids, else the gene of this name where no such id is known of it.

        Where another id is known, that the name was not believed goes into ``refused``, by ``gene_symbol``.
        """
        found = self.by_id(authority=authority, uniprot=uniprot)
        other = self.by_symbol(symbol) if found is None else None
        gene = other.gene if other else None
        if other and gene and ((uniprot and gene.uniprot_ids) or (authority and gene.authority_id)):
            refused.setdefault(other.gene_symbol, f"{uniprot or authority} is not an accession of {other.gene_symbol}")
            return None
        return found or other


def _ncbi(gene_id: str | None) -> str | None:
    return f"NCBI:{gene_id}" if gene_id else None


def _uniprot(accession: str | None) -> str | None:
    return f"UniProt:{accession}" if accession else None


_CREDIT = re.compile(r"\s*\[(?:provided|supplied) by[^\]]*\]\.?")
_CITATION = re.compile(r"\s*\((?:PubMed:\d+(?:,\s*)?|Ref\.\d+(?:,\s*)?|By similarity|Probable)+\)")
_EVIDENCE = re.compile(r"\s*\{ECO:[^}]*\}\.?")


def without_citations(text: str) -> str:
    """Drop credits, citations and evidence tags, which say nothing of the gene, and even out white space.

    >>> without_citations("Binds DNA (PubMed:1, PubMed:2). [provided by RefSeq, Nov 2016]")
    'Binds DNA.'
    """
    for pattern in (_CREDIT, _EVIDENCE, _CITATION):
        text = pattern.sub("", text)
    return " ".join(text.split())
