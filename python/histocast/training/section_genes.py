"""What was measured of a panel, section by section: for logs, and for the tables of an evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from histocast.records import Record
from histocast.training.gene_names import clean_name
from histocast.training.panel import gene_columns, refuse_few

if TYPE_CHECKING:
    from histocast.training.counts import CountMatrix
    from histocast.training.recipe import Recipe
    from histocast.training.section import SectionRecord
    from histocast.training.training_set import TrainingSet

SHOWN = 10
"""Genes that a line names."""


class SectionGenes(Record):
    """One section in ``evaluation.json``."""

    sample: str
    found: int
    """Panel genes that the section measured."""
    absent: tuple[str, ...]
    """Symbols of the others: masked in the section, or taken for 0 counts where the recipe says so."""
    other_name: int
    """Panel genes that were found under another name than the panel's, such as an old symbol."""
    resolved_by_alias: int | None
    """Genes of all its counts that an old symbol or alias gave an Ensembl id; None where it was not recorded."""
    spots: int
    """Spots with a tile and counts."""
    spots_without_tile: int
    tiles_without_counts: int
    left_out: dict[str, int] = Field(default_factory=dict)
    """Names among the counts that are no genes, by kind."""
    tables: str | None = None
    """The name tables that were used, and their date."""


def describe_sections(training: TrainingSet) -> tuple[SectionGenes, ...]:
    """Every section of a set: panel genes found and absent, spots matched, names left out."""
    panel = training.panel
    asked = [clean_name(gene) for gene in training.recipe.panel]
    found = []
    for section in training.sections:
        record, columns = section.record, panel.columns[section.record.sample]
        there = np.flatnonzero(columns >= 0).tolist()
        names = record.names
        found.append(
            SectionGenes(
                sample=record.sample,
                found=len(there),
                absent=tuple(panel.gene_symbols[gene] for gene in np.flatnonzero(columns < 0).tolist()),
                other_name=sum(
                    asked[gene] not in (section.gene_ids[columns[gene]], section.gene_symbols[columns[gene]])
                    for gene in there
                ),
                resolved_by_alias=None if names is None else names.by_alias,
                spots=record.spots,
                spots_without_tile=record.spots_without_tile,
                tiles_without_counts=record.tiles_without_counts,
                left_out={} if names is None else names.left_out,
                tables=None if names is None else names.tables,
            )
        )
    return tuple(found)


def describe_counts(counts: CountMatrix, recipe: Recipe, *, sample: str) -> str:
    """The genes of counts and of a recipe's panel in them, in words.

    Raises
    ------
    DataError
        Too few genes of the panel were measured.
    """
    measured = gene_columns([clean_name(gene) for gene in recipe.panel], counts, sample=sample) >= 0
    where = f"sample {sample}, recipe {recipe.name}"
    refuse_few(recipe.panel, measured, counts, least=recipe.least_measured, where=where)
    absent = [recipe.panel[gene] for gene in np.flatnonzero(~measured).tolist()]
    parts = [f"{int(measured.sum())} of {len(measured)} panel genes measured"]
    if absent:
        how = {"mask": "masked", "zero": "taken for 0 counts", "refuse": "not measured"}[recipe.missing_genes]
        parts.append(f"{len(absent)} {how}: {', '.join(absent[:SHOWN])}{' ...' if len(absent) > SHOWN else ''}")
    if counts.names is not None:
        parts.append(counts.names.describe())
    return "; ".join(parts)


def describe_spots(record: SectionRecord) -> str:
    """How the spots of a section and of its counts fit together, in words."""
    return (
        f"{record.spots} spots matched, {record.spots_without_tile} counted without a tile, "
        f"{record.tiles_without_counts} tiles without counts"
    )
