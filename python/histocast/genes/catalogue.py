"""What genes there are and what they are and were called: the ground on which symbols are resolved."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Literal

from histocast.genes.spreadsheet_damage import symbols_behind

Species = Literal["human", "mouse"]
MatchedBy = Literal["id", "approved", "previous", "alias"]

_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(_PAR_Y)?")
_AUTHORITY_ID = re.compile(r"(?:HGNC|MGI):\d+")
_ENSEMBL_PREFIX: dict[Species, str] = {"human": "ENSG0", "mouse": "ENSMUSG0"}
# Accessions of sequenced clones, and names of clones in their libraries.
_CLONE = re.compile(r"(?:[A-Z]{1,2}\d{5,6}|RP\d+-\w+|CT[ABCD]-\w+)\.\d+")
SUGGESTIONS = 3


def without_version(query: str) -> str:
    """Drop the version of an Ensembl id; other names, which may hold dots, are returned as they are."""
    match = _ENSEMBL.fullmatch(query)
    return match[1] if match else query


@dataclass(frozen=True)
class Gene:
    """One gene: its names and its ids in the databases that describe it."""

    symbol: str
    """The approved symbol."""
    name: str = ""
    authority_id: str | None = None
    """``HGNC:<n>`` or ``MGI:<n>``."""
    ensembl_id: str | None = None
    """Without version."""
    ncbi_gene_id: str | None = None
    uniprot_ids: tuple[str, ...] = ()
    previous: tuple[str, ...] = ()
    """Symbols it was approved under before."""
    aliases: tuple[str, ...] = ()
    """Symbols the literature uses, which other genes may share."""
    families: tuple[str, ...] = ()
    """Gene groups of HGNC, by number."""
    locus_type: str = ""

    @property
    def label(self) -> str:
        """The gene in a message: ``ATP5F1B (HGNC:830, ATP synthase F1 subunit beta)``."""
        known = ", ".join(part for part in (self.authority_id or self.ensembl_id, self.name) if part)
        return f"{self.symbol} ({known})" if known else self.symbol


@dataclass(frozen=True)
class Match:
    """A query, and the one gene it means."""

    query: str
    gene: Gene
    matched_by: MatchedBy


@dataclass(frozen=True)
class Refusal:
    """A query that means no gene, or several."""

    query: str
    found: str
    expected: str
    advice: str | None = None
    candidates: tuple[Gene, ...] = ()
    keepable: bool = True
    """Whether a gene without ids is the worst it can mean; not where several genes or no gene at all are meant."""


@dataclass(frozen=True)
class Catalogue:
    """The genes of one species, findable by every name and id they have.

    An approved symbol is taken before a previous one, and a previous one before an alias; what names several genes
    in the first of these tiers that knows it is refused. Spelling counts, since KRT5 is human and Krt5 is of the
    mouse.
    """

    genes: tuple[Gene, ...]
    species: Species
    digest: str
    """Of the files the genes come from."""
    source: str
    """The same in words, for messages."""
    _tiers: tuple[tuple[MatchedBy, dict[str, list[Gene]]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tiers: tuple[tuple[MatchedBy, dict[str, list[Gene]]], ...] = (
            ("approved", _index((gene, (gene.symbol,)) for gene in self.genes)),
            ("previous", _index((gene, gene.previous) for gene in self.genes)),
            ("alias", _index((gene, gene.aliases) for gene in self.genes)),
        )
        object.__setattr__(self, "_tiers", tiers)

    @cached_property
    def _by_id(self) -> dict[str, list[Gene]]:
        return _index((gene, [key for key in (gene.authority_id, gene.ensembl_id) if key]) for gene in self.genes)

    @cached_property
    def by_ncbi_gene_id(self) -> dict[str, Gene]:
        """Genes by their NCBI Gene id."""
        return {gene.ncbi_gene_id: gene for gene in self.genes if gene.ncbi_gene_id}

    @cached_property
    def _spellings(self) -> dict[str, dict[str, str]]:
        """Every symbol by its first letter and its spelling in capitals."""
        spellings: dict[str, dict[str, str]] = defaultdict(dict)
        for _, index in reversed(self._tiers):
            for symbol in index:
                spellings[symbol[:1].upper()][symbol.upper()] = symbol
        return spellings

    @cached_property
    def approved_symbols(self) -> frozenset[str]:
        """The approved symbol of every gene."""
        return frozenset(gene.symbol for gene in self.genes)

    def find(self, query: str) -> Match | Refusal:
        """The gene a symbol, an Ensembl id (with or without version), or an HGNC or MGI id means."""
        return self.known(query) or self._unknown(query)

    def known(self, query: str) -> Match | Refusal | None:
        """As `find`, and None for what no gene is called."""
        if key := _id_in(query):
            candidates = self._by_id.get(key)
            return _only(query, candidates, "id") if candidates else None
        for tier, index in self._tiers:
            if candidates := index.get(query):
                return _only(query, candidates, tier)
        return None

    def _unknown_id(self, query: str, key: str) -> Refusal:
        expected = f"an id among the {len(self.genes)} {self.species} genes of {self.source}"
        advice = "ask for the gene by its symbol, or give newer names with --names"
        if key.startswith("ENS") and not key.startswith(_ENSEMBL_PREFIX[self.species]):
            advice = f"this is no {self.species} id; say --species"
        return Refusal(query, f"unknown id {query!r}", expected, advice)

    def _unknown(self, query: str) -> Refusal:
        if key := _id_in(query):
            return self._unknown_id(query, key)
        expected = f"a symbol among the {len(self.genes)} {self.species} genes of {self.source}"
        damaged = symbols_behind(query)
        if damaged is not None:
            spelled = [symbol.capitalize() for symbol in damaged] if self.species == "mouse" else damaged
            meant = [match for match in map(self.find, spelled) if isinstance(match, Match)]
            return Refusal(
                query,
                f"{query!r} is no symbol but what a spreadsheet makes of one",
                " or ".join(f"{match.query} (now {match.gene.symbol})" for match in meant) or "a symbol",
                "take the column from the original file, or format it as text before typing symbols",
                tuple(match.gene for match in meant),
                keepable=False,
            )
        if _CLONE.fullmatch(query):
            found = f"{query!r} is a clone's name, which Ensembl gives to genes without an approved symbol"
            return Refusal(
                query, found, expected, "give its Ensembl id in a table of your own with --names, or drop it"
            )
        near = self.resembling(query)
        advice = f"did you mean {' or '.join(near)}?" if near else "give newer names with --names, or drop it"
        return Refusal(query, f"unknown gene {query!r}", expected, advice)

    def in_other_case(self, query: str) -> str | None:
        """A symbol with the letters of ``query``, whatever their case."""
        return self._spellings.get(query[:1].upper(), {}).get(query.upper())

    def resembling(self, query: str) -> Sequence[str]:
        """Up to three symbols that look like ``query``, the same letters in another case first."""
        spellings = self._spellings.get(query[:1].upper(), {})
        upper = query.upper()
        if same := self.in_other_case(query):
            return [same]
        # Comparing with every symbol of the genome is slow: typing errors seldom touch the first letter or the length.
        alike = [spelling for spelling in spellings if abs(len(spelling) - len(upper)) <= 1]
        return [spellings[spelling] for spelling in get_close_matches(upper, alike, n=SUGGESTIONS, cutoff=0.7)]


def _id_in(query: str) -> str | None:
    """The Ensembl id without version, or the HGNC or MGI id that a query is."""
    match = _ENSEMBL.fullmatch(query)
    return match[1] if match else query if _AUTHORITY_ID.fullmatch(query) else None


def _index(named: Iterable[tuple[Gene, Iterable[str]]]) -> dict[str, list[Gene]]:
    index: dict[str, list[Gene]] = {}
    for gene, names in named:
        for name in dict.fromkeys(names):
            index.setdefault(name, []).append(gene)
    return index


def _only(query: str, candidates: list[Gene], tier: MatchedBy) -> Match | Refusal:
    if len(candidates) == 1:
        return Match(query, candidates[0], tier)
    what = {"id": "the id", "approved": "the approved symbol", "previous": "a previous symbol", "alias": "an alias"}
    return Refusal(
        query,
        f"{query!r} is {what[tier]} of {len(candidates)} genes",
        " or ".join(gene.label for gene in candidates),
        "write the approved symbol or the id of the one that is meant",
        tuple(candidates),
        keepable=False,
    )
