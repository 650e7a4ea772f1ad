"""Which gene each name of a count matrix means, decided name by name, and which names are no genes.

An Ensembl id is taken as it is. Other names are looked up: in the gene table that a user gives, then in the shipped
name tables, as NCBI Gene or HGNC ids and as approved, previous and alias symbols.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from histocast.genes.catalogue import Match
from histocast.genes.name_tables import open_catalogue, shipped_names
from histocast.genes.spreadsheet_damage import symbols_behind
from histocast.records import Record
from histocast.sections.counts import ENSEMBL_GENE, without_version

if TYPE_CHECKING:
    from histocast.genes.catalogue import Catalogue, Gene

FoundBy = Literal["id", "table", "ncbi id", "approved", "previous", "alias"]
"""What a name was resolved by, the surest first."""
_SURENESS: tuple[FoundBy, ...] = ("id", "table", "ncbi id", "approved", "previous", "alias")

_UNKNOWN = frozenset({"", "nan", "none", "na", "n/a", "<na>", "null", "-"})
_GENOME = re.compile(
    r"^(?:refdata-gex-)?(?P<genome>GRC[hmr]\d+|hg\d+|mm\d+|rn\d+|mRatBN[\d.]+)(?:-20\d\d-[A-Z])?(?:[_-]premrna)?[_-]+(?=.)"
)
_ID_AND_SYMBOL = re.compile(r"^(ENSG\d{11})(?:\.\d+)?[_|:;]+(.+)$")
_SYMBOL_AND_ID = re.compile(r"^(.+?)[_|:;]+(ENSG\d{11})(?:\.\d+)?$")
_HUMAN_GENOME = re.compile(r"GRCh\d+|hg\d+")
_NUMBER = re.compile(r"^(\d+)(?:\.0)?$")
_SECOND_COPY = re.compile(r"^ENSG\d{11}(?:\.\d+)?_PAR_Y$")
_NO_GENES = (
    (re.compile(r"^$"), "columns without a name"),
    (re.compile(r"^__"), "counts of reads that no one gene has"),
    (re.compile(r"^ERCC-\d{5}$"), "spike-ins"),
    # Of Xenium, CosMx and MERSCOPE.
    (
        re.compile(
            r"(?i)^(?:neg(?:ative)?[_-]?(?:control|ctrl|prb|probe|codeword|\d)|blank[_-]?\d|antisense[_-]|unassigned[_-]?codeword"
            r"|deprecated[_-]|deprecatedcodeword|system[_-]?control|falsecode|intergenic[_-]?region)"
        ),
        "control probes",
    ),
    (_SECOND_COPY, "copies on chromosome Y of genes of chromosome X"),
)

SPOT_METADATA = frozenset((
    "x", "y", "row", "col", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres", "imagerow",
    "imagecol", "pixel_x", "pixel_y", "new_x", "new_y", "in_tissue", "tissue", "barcode", "barcodes", "spot",
    "spots", "cell_id", "sample", "sample_id", "patient", "cluster", "clusters", "leiden", "louvain",
    "seurat_clusters", "orig.ident", "ncount_rna", "nfeature_rna", "ncount_spatial", "nfeature_spatial", "n_counts",
    "n_genes", "n_genes_by_counts", "total_counts", "total_counts_mt", "pct_counts_mt", "percent.mt", "percent_mt",
    "library_size", "label", "log1p_total_counts", "log1p_n_genes_by_counts",
))  # fmt: skip
"""Columns about spots that tables hold beside genes, in small letters."""


class GeneNames(Record):
    """How the genes of a section were named, for ``section.json``."""

    tables: str
    """The shipped name tables and their date."""
    resolved: dict[str, int] = Field(default_factory=dict)
    """Genes by what gave their Ensembl id: ``id`` of the counts, gene ``table``, ``ncbi id``, ``approved``,
    ``previous`` or ``alias`` symbol; ``nothing`` for those known by their symbol alone."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Names that are no genes, by kind. They are counted in no library size."""

    @property
    def by_alias(self) -> int:
        """Genes that were found under a previous symbol or an alias."""
        return self.resolved.get("previous", 0) + self.resolved.get("alias", 0)

    def describe(self) -> str:
        """The same in words."""
        total = sum(self.resolved.values())
        parts = [f"{total} genes, {self.by_alias} resolved by an old symbol or alias"]
        if unresolved := self.resolved.get("nothing", 0):
            parts.append(f"{unresolved} known by their symbol alone")
        parts += [f"left out: {count} {kind}" for kind, count in self.left_out.items()]
        return f"{'; '.join(parts)} (names: {self.tables})"


@dataclass(frozen=True)
class NamedGenes:
    """Names of a count matrix, resolved."""

    kept: NDArray[np.int64]
    """Columns that are genes."""
    ids: tuple[str, ...]
    """Of the kept columns: Ensembl ids, or the name as it was found where none is known."""
    symbols: tuple[str, ...]
    record: GeneNames


def name_genes(ids: Sequence[object], symbols: Sequence[object], *, table: Mapping[str, str] | None) -> NamedGenes:
    """Resolve the names of a count matrix.

    ``ids``, ``symbols``: two names of each column, either of which may be absent (NaN, empty). Genome prefixes
        (``GRCh38_``) and Ensembl versions are dropped.
    ``table``: Ensembl ids by symbol, which are taken before the shipped tables' names.
    """
    given = _without_genomes([_clean(name) for name in ids])
    called = _without_genomes([_clean(name) for name in symbols])
    given = [without_version(_parts(name)[0]) for name in given]
    called = [without_version(_parts(name)[1]) for name in called]
    own = [next((name for name in pair if ENSEMBL_GENE.match(name)), "") for pair in zip(given, called, strict=True)]
    numbers = sum(bool(_NUMBER.match(a or b)) for a, b in zip(given, called, strict=True))
    by_number = numbers * 2 > len(given)
    kinds = [
        None if found else no_gene(name if _SECOND_COPY.match(name) else symbol or name, by_number=by_number)
        for name, symbol, found in zip(given, called, own, strict=True)
    ]
    kept = np.flatnonzero([kind is None for kind in kinds])
    pairs = [(own[place], given[place], called[place]) for place in kept.tolist()]
    claims = _claims(pairs, table or {})
    resolved = _surest(claims)
    return NamedGenes(
        kept=kept,
        ids=tuple(
            found[1] if found else name or symbol for found, (_, name, symbol) in zip(resolved, pairs, strict=True)
        ),
        symbols=tuple(
            symbol if symbol and not ENSEMBL_GENE.match(symbol) else _symbol_of(found, symbol or name)
            for found, (_, name, symbol) in zip(resolved, pairs, strict=True)
        ),
        record=GeneNames(
            tables=shipped_names(),
            resolved=dict(Counter(found[0] if found else "nothing" for found in resolved)),
            left_out=dict(Counter(kind for kind in kinds if kind is not None)),
        ),
    )


def no_gene(name: str, *, by_number: bool = False) -> str | None:
    """What a name is that means no gene: a kind, in the plural; None for a gene.

    ``by_number``: whether the names beside it are mostly numbers, which are then ids of NCBI Gene and not a
        spreadsheet's dates.
    """
    if kind := next((kind for pattern, kind in _NO_GENES if pattern.match(name)), None):
        return kind
    if is_spot_metadata(name):
        return "columns about spots"
    if not (by_number and _NUMBER.match(name)) and symbols_behind(name) is not None:
        return "names that a spreadsheet has changed"
    return None


def are_numbered(names: Sequence[str]) -> bool:
    """Whether names count the columns, from 0 or 1, as programs write where there is no name: they are ids of no gene."""
    first = names[0] if names else ""
    return first in ("0", "1") and all(name == str(number) for number, name in enumerate(names, start=int(first)))


def is_spot_metadata(name: str) -> bool:
    """Whether a column of a table is about spots and not a gene."""
    return name.lower() in SPOT_METADATA or name.lower().startswith(("unnamed: ", "__index_level_"))


def find_gene(name: str, catalogue: Catalogue) -> tuple[FoundBy, Gene] | None:
    """The one human gene that a name means, and by what it was found; None where it means none or several."""
    if number := _NUMBER.match(name):
        gene = catalogue.by_ncbi_gene_id.get(number[1])
        return None if gene is None else ("ncbi id", gene)
    match = catalogue.known(name)
    return (match.matched_by, match.gene) if isinstance(match, Match) else None


def clean_name(name: object) -> str:
    """A name without genome prefix and Ensembl version, of an id and its symbol in one the id; empty where it is NaN."""
    return without_version(_parts(_GENOME.sub("", _clean(name)))[0])


def _parts(name: str) -> tuple[str, str]:
    """Id and symbol of a name that joins both, as ``ENSG00000141736_ERBB2``; of any other name twice the name.

    They are told apart only where the shipped tables have the symbol for the id.
    """
    if match := _ID_AND_SYMBOL.match(name):
        gene_id, symbol = match.groups()
    elif match := _SYMBOL_AND_ID.match(name):
        symbol, gene_id = match.groups()
    else:
        return name, name
    found = find_gene(symbol, open_catalogue())
    return (gene_id, symbol) if found and found[1].ensembl_id == gene_id else (name, name)


def of_other_species(names: Sequence[str], catalogue: Catalogue) -> bool:
    """Whether symbols are those of human genes in other letters, as in mouse and rat (Erbb2)."""
    approved = catalogue.approved_symbols
    same = sum(name in approved for name in names)
    other = sum(name not in approved and name.upper() in approved for name in names)
    return other > same


def _clean(name: object) -> str:
    text = str(name).strip() if name is not None else ""
    return "" if text.lower() in _UNKNOWN else text


def _without_genomes(names: Sequence[str]) -> list[str]:
    """Drop the genome before a name; of several genomes in one matrix that of human genes alone."""
    matches = [_GENOME.match(name) for name in names]
    several = len({match["genome"] for match in matches if match}) > 1
    return [
        name[match.end() :] if match and (not several or _HUMAN_GENOME.match(match["genome"])) else name
        for name, match in zip(names, matches, strict=True)
    ]


def _claims(pairs: Sequence[tuple[str, str, str]], table: Mapping[str, str]) -> list[tuple[FoundBy, str] | None]:
    """For each gene (own Ensembl id, other id, symbol) an Ensembl id and what says so."""
    found: list[tuple[FoundBy, str] | None] = []
    unknown = [symbol or name for own, name, symbol in pairs if not own and symbol not in table]
    catalogue = open_catalogue() if unknown else None
    human = catalogue is not None and not of_other_species(unknown, catalogue)
    foreign = any(own and not own.startswith("ENSG") for own, _, _ in pairs)
    for own, name, symbol in pairs:
        if own:
            found.append(("id", own))
        elif symbol in table:
            found.append(("table", table[symbol]))
        elif catalogue is None or not human or foreign:
            found.append(None)
        else:
            genes = (find_gene(each, catalogue) for each in dict.fromkeys((name, symbol)) if each)
            known = next((gene for gene in genes if gene and gene[1].ensembl_id), None)
            found.append((known[0], known[1].ensembl_id or "") if known else None)
    return found


def _surest(claims: Sequence[tuple[FoundBy, str] | None]) -> list[tuple[FoundBy, str] | None]:
    """Give each Ensembl id to the gene whose claim is the surest; of two alike that the tables made, to none."""
    best: dict[str, int] = {}
    times: Counter[tuple[FoundBy, str]] = Counter(claim for claim in claims if claim)
    for how, gene in times:
        best[gene] = min(best.get(gene, len(_SURENESS)), _SURENESS.index(how))
    return [
        claim
        if claim and best[claim[1]] == _SURENESS.index(claim[0]) and (times[claim] == 1 or claim[0] in ("id", "table"))
        else None
        for claim in claims
    ]


def _symbol_of(found: tuple[FoundBy, str] | None, name: str) -> str:
    """The approved symbol of a gene that the counts name by an id alone, else the id."""
    if found is None or not found[1].startswith("ENSG"):
        return name
    gene = find_gene(found[1], open_catalogue())
    return gene[1].symbol if gene else name
