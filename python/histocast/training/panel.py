"""Which columns of each section's counts are the genes of a panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError
from histocast.training.counts import ENSEMBL_GENE, without_version
from histocast.training.section import Section


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


def find_panel(
    panel: Sequence[str], sections: Sequence[Section], *, missing: Literal["refuse", "zero"], where: str
) -> Panel:
    """Find every panel gene in every section, by Ensembl id, else by symbol.

    Raises
    ------
    DataError
        A gene is in no section, or (unless ``missing`` is ``zero``) not in one of them; a symbol names two genes.
    """
    wanted = [without_version(gene) for gene in panel]
    columns = {section.record.sample: gene_columns(wanted, section) for section in sections}
    found = np.stack([columns[section.record.sample] >= 0 for section in sections])
    _refuse_missing(panel, found, sections, missing=missing, where=where)
    ids, symbols = [], []
    for gene, name in enumerate(wanted):
        known = [(s.gene_ids[c], s.gene_symbols[c]) for s in sections if (c := columns[s.record.sample][gene]) >= 0]
        ensembl = sorted({gene_id for gene_id, _ in known if ENSEMBL_GENE.match(gene_id)})
        if len(ensembl) > 1:
            raise DataError(
                f"{name!r} is {' and '.join(ensembl)} in different sections", expected="one gene", where=where,
                advice="give the gene by its Ensembl id",
            )  # fmt: skip
        ids.append(ensembl[0] if ensembl else known[0][0])
        symbols.append(known[0][1])
    _refuse_same(ids, wanted, where=where)
    return Panel(tuple(ids), tuple(symbols), columns)


def gene_columns(wanted: Sequence[str], section: Section) -> NDArray[np.int64]:
    """Column of each gene, by Ensembl id or symbol, in a section's counts: [gene], -1 where it was not measured.

    Raises
    ------
    DataError
        A symbol names two genes.
    """
    by_id = {gene: column for column, gene in enumerate(section.gene_ids)}
    by_symbol: dict[str, list[int]] = {}
    for column, symbol in enumerate(section.gene_symbols):
        by_symbol.setdefault(symbol, []).append(column)
    columns = np.full(len(wanted), -1, np.int64)
    for gene, name in enumerate(wanted):
        if name in by_id:
            columns[gene] = by_id[name]
        elif found := by_symbol.get(name, []):
            if len(found) > 1:
                raise DataError(
                    f"the symbol {name!r} names {len(found)} genes: {', '.join(section.gene_ids[c] for c in found)}",
                    expected="one gene",
                    where=f"sample {section.record.sample}",
                    advice="give the gene by its Ensembl id",
                )
            columns[gene] = found[0]
    return columns


def _refuse_missing(
    panel: Sequence[str],
    found: NDArray[np.bool_],
    sections: Sequence[Section],
    *,
    missing: Literal["refuse", "zero"],
    where: str,
) -> None:
    absent = ~found.any(axis=0) if missing == "zero" else ~found.all(axis=0)
    if not absent.any():
        return
    genes = [panel[gene] for gene in np.flatnonzero(absent).tolist()]
    lacking = [s.record.sample for s, row in zip(sections, found, strict=True) if (~row & absent).any()]
    raise DataError(
        f"{len(genes)} panel genes were not measured: {', '.join(genes[:10])}{' ...' if len(genes) > 10 else ''}",
        expected="every panel gene in the counts of every section",
        where=f"{where}, sections {', '.join(lacking[:10])}",
        advice="take them from the panel, or give their names as the counts have them"
        + ("" if missing == "zero" else "; where a gene without a count was left out, set missing_genes to 'zero'"),
    )


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
