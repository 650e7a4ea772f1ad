"""Which columns of each section's counts are the genes of a panel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.genes.catalogue import Catalogue
from histocast.genes.name_tables import open_catalogue
from histocast.sections.counts import ENSEMBL_GENE
from histocast.sections.gene_names import clean_name, find_gene, of_other_species
from histocast.sections.labels import MissingGenes

if TYPE_CHECKING:
    from histocast.sections.section import Section

SHOWN = 10
"""Genes or sections that a message names."""


class NamedCounts(Protocol):
    """Counts whose genes are named: a section, or what `read_counts` read."""

    @property
    def gene_ids(self) -> tuple[str, ...]:
        """Ensembl ids, or symbols where none is known."""

    @property
    def gene_symbols(self) -> tuple[str, ...]:
        """Symbols as the counts have them."""


@dataclass(frozen=True)
class Panel:
    """The genes of a model, in the order of its gene axis."""

    gene_ids: tuple[str, ...]
    """Ensembl ids where any section knows them, else symbols."""
    gene_symbols: tuple[str, ...]
    columns: Mapping[str, NDArray[np.int64]]
    """By sample: [gene] column in the section's counts, -1 where it did not measure the gene."""

    def __len__(self) -> int:
        return len(self.gene_ids)

    def measured(self, sample: str) -> NDArray[np.bool_]:
        """Bool [gene]: which genes a section measured; the others are masked there, or 0 where that is asked for."""
        return self.columns[sample] >= 0

    def refuse_unmeasured(self, samples: Sequence[str], *, where: str) -> None:
        """Raise `DataError` for genes that none of some sections measured."""
        never = ~np.any([self.measured(sample) for sample in samples], axis=0)
        if never.any():
            raise DataError(
                f"{int(never.sum())} panel genes were measured in no section that is trained on: "
                f"{_some([self.gene_symbols[gene] for gene in np.flatnonzero(never)])}",
                expected="every panel gene in the counts of a section of the training side",
                where=where,
                advice="take them from the panel, or train on more sections that measured them",
            )


def find_panel(
    panel: Sequence[str], sections: Sequence[Section], *, missing: MissingGenes, least: float = 0.0, where: str
) -> Panel:
    """Find every panel gene in every section, under any of its names.

    ``missing``: with ``refuse``, every section must have measured every gene.
    ``least``: share of the panel that every section must have measured; none at all is too few in any case.
    Raises `DataError`: a section measured too few of the genes; a gene is in no section, or not in all where it has to
    be; a symbol names two genes.
    """
    wanted = [clean_name(gene) for gene in panel]
    columns = {s.record.sample: gene_columns(wanted, s, sample=s.record.sample) for s in sections}
    for section in sections:
        sample = section.record.sample
        refuse_few(panel, columns[sample] >= 0, section, least=least, where=f"sample {sample}, {where}")
    found = np.stack([columns[section.record.sample] >= 0 for section in sections])
    _refuse_missing(panel, found, sections, missing=missing, where=where)
    ids, symbols = [], []
    for gene, name in enumerate(wanted):
        known = [(s.gene_ids[c], s.gene_symbols[c]) for s in sections if (c := columns[s.record.sample][gene]) >= 0]
        ids.append(_one_id(name, known, where=where))
        symbols.append(_one_symbol([symbol for _, symbol in known]))
    _refuse_same(ids, wanted, where=where)
    return Panel(tuple(ids), tuple(symbols), columns)


def gene_columns(wanted: Sequence[str], counts: NamedCounts, *, sample: str) -> NDArray[np.int64]:
    """Column of each gene in a section's counts: [gene], -1 where it was not measured.

    A gene is found by the name that is asked for, as Ensembl id or symbol, else by the ids and symbols that the
    shipped name tables have for it.

    Raises `DataError`: a symbol names two genes.
    """
    by_id = {gene: column for column, gene in enumerate(counts.gene_ids)}
    by_symbol: dict[str, list[int]] = {}
    for column, symbol in enumerate(counts.gene_symbols):
        by_symbol.setdefault(symbol, []).append(column)
    columns = np.full(len(wanted), -1, np.int64)
    human = not of_other_genome(counts)
    for gene, name in enumerate(wanted):
        for other in _names_of(name) if human else (name,):
            if other in by_id:
                columns[gene] = by_id[other]
            elif found := by_symbol.get(other, []):
                if len(found) > 1:
                    raise DataError(
                        f"the symbol {other!r} names {len(found)} genes: {', '.join(counts.gene_ids[c] for c in found)}",
                        expected="one gene",
                        where=f"sample {sample}",
                        advice="give the gene by its Ensembl id",
                    )
                columns[gene] = found[0]
            else:
                continue
            break
    return columns


def refuse_few(
    panel: Sequence[str], measured: NDArray[np.bool_], counts: NamedCounts, *, least: float, where: str
) -> None:
    """Raise `DataError` where counts have none, or less than the share ``least``, of the panel [gene]."""
    found = int(measured.sum())
    if found and found >= least * len(panel):
        return
    absent = [panel[gene] for gene in np.flatnonzero(~measured).tolist()]
    raise DataError(
        f"{found} of {len(panel)} panel genes were measured; not {_some(absent)}",
        expected=f"at least {max(1, int(np.ceil(least * len(panel))))} (least_measured {least:g})",
        where=where,
        advice=_likely_cause(counts),
    )


def _likely_cause(counts: NamedCounts) -> str:
    catalogue = open_catalogue()
    shown = ", ".join(dict.fromkeys((*counts.gene_symbols[:3], *counts.gene_ids[:2])))
    if of_other_genome(counts) or of_other_species(counts.gene_symbols, catalogue):
        return (
            f"the counts are of another species (genes such as {shown}): leave the section out, or give its own panel"
        )
    if not any(find_gene(name, catalogue) for name in counts.gene_symbols[:1000]):
        return f"the counts name genes in an unknown way ({shown}): give a table gene_id,gene_symbol by --genes"
    return (
        f"the section was measured for other genes (such as {shown}): leave it out, or take the genes from the panel, "
        "or set least_measured of the recipe lower"
    )


def _names_of(name: str) -> Iterator[str]:
    """The names a gene may have in a section, the given one first; the tables are read only where it is not enough."""
    yield name
    catalogue = open_catalogue()
    found = find_gene(name, catalogue)
    if found is None:
        return
    gene = found[1]
    yield from (each for each in (gene.ensembl_id, gene.symbol) if each)
    for symbol in (*gene.previous, *gene.aliases):
        other = find_gene(symbol, catalogue)
        if other is not None and other[1] is gene:
            yield symbol


def of_other_genome(counts: NamedCounts) -> bool:
    """Whether counts have Ensembl ids of genes that are not human."""
    return any(ENSEMBL_GENE.match(gene) and not gene.startswith("ENSG") for gene in counts.gene_ids)


def _one_id(name: str, known: Sequence[tuple[str, str]], *, where: str) -> str:
    """The Ensembl id of a gene from its (id, symbol) in each section that has it; its symbol where none knows one."""
    ensembl = sorted({gene_id for gene_id, _ in known if ENSEMBL_GENE.match(gene_id)})
    if len(ensembl) > 1:
        # One of two may have been withdrawn: the tables know the other alone.
        catalogue: Catalogue = open_catalogue()
        current = [gene_id for gene_id in ensembl if find_gene(gene_id, catalogue)]
        if len(current) != 1:
            raise DataError(
                f"{name!r} is {' and '.join(ensembl)} in different sections", expected="one gene", where=where,
                advice="give the gene by its Ensembl id",
            )  # fmt: skip
        return current[0]
    return ensembl[0] if ensembl else known[0][0]


def _one_symbol(symbols: Sequence[str]) -> str:
    """The symbol of a gene from that of each section: theirs where they agree, else the approved one."""
    if len(set(symbols)) > 1:
        catalogue = open_catalogue()
        genes = [found[1].symbol for symbol in symbols if (found := find_gene(symbol, catalogue))]
        if genes:
            return genes[0]
    return symbols[0]


def _refuse_missing(
    panel: Sequence[str],
    found: NDArray[np.bool_],
    sections: Sequence[Section],
    *,
    missing: MissingGenes,
    where: str,
) -> None:
    absent = ~found.all(axis=0) if missing == "refuse" else ~found.any(axis=0)
    if not absent.any():
        return
    genes = [panel[gene] for gene in np.flatnonzero(absent).tolist()]
    lacking = [s.record.sample for s, row in zip(sections, found, strict=True) if (~row & absent).any()]
    raise DataError(
        f"{len(genes)} panel genes were not measured: {_some(genes)}",
        expected=f"every panel gene in the counts of {'every' if missing == 'refuse' else 'a'} section",
        where=f"{where}, sections {_some(lacking)}",
        advice="take them from the panel, or give their names as the counts have them"
        + ("; missing_genes 'mask' leaves them out of the sections that lack them" if missing == "refuse" else ""),
    )


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"


def _refuse_same(ids: Sequence[str], wanted: Sequence[str], *, where: str) -> None:
    first: dict[str, str] = {}
    for gene_id, name in zip(ids, wanted, strict=True):
        if first.setdefault(gene_id, name) != name:
            raise DataError(
                f"{first[gene_id]!r} and {name!r} are the same gene, {gene_id}",
                expected="each gene once",
                where=where,
                advice="take one of them from the panel",
            )
