"""What was measured of a panel, section by section: for logs, and for the tables of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from histocast.progress import log
from histocast.records import Record
from histocast.sections.gene_names import clean_name
from histocast.sections.match_spots import match_spots
from histocast.sections.measured_panel import gene_columns, refuse_few
from histocast.sections.read_10x import find_matrix
from histocast.sections.read_counts import read_counts
from histocast.tiles.spots import read_spots

if TYPE_CHECKING:
    from histocast.sections.counts import CountMatrix
    from histocast.sections.gene_names import GeneNames
    from histocast.sections.measured_panel import NamedCounts
    from histocast.sections.read_training_sheet import TrainingRow
    from histocast.sections.section import SectionRecord
    from histocast.training.recipe import Recipe
    from histocast.training.training_set import TrainingSet

SHOWN = 10
"""Genes that a line names."""

MOST_BYTES = 64 << 20
"""Largest counts that a plan reads: all of a Visium section, in the memory of a light task."""


class SectionGenes(Record):
    """One section in ``evaluation.json`` and ``plan.json``."""

    sample: str
    found: int
    """Panel genes that the section measured."""
    absent: tuple[str, ...]
    """The others, by symbol, in a plan as the panel names them: masked in the section, or taken for 0 counts where the recipe says so."""
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
    return tuple(
        _describe(
            section,
            section.record.names,
            training.recipe,
            training.panel.columns[section.record.sample],
            training.panel.gene_symbols,
            sample=section.record.sample,
            spots=section.record.spots,
            spots_without_tile=section.record.spots_without_tile,
            tiles_without_counts=section.record.tiles_without_counts,
        )
        for section in training.sections
    )


def _describe(
    counts: NamedCounts,
    names: GeneNames | None,
    recipe: Recipe,
    columns: NDArray[np.int64],
    called: Sequence[str],
    **of_spots: Any,
) -> SectionGenes:
    """What was measured of a recipe's panel, whose genes [gene] are in ``columns`` and ``called`` so."""
    asked = [clean_name(gene) for gene in recipe.panel]
    there = np.flatnonzero(columns >= 0).tolist()
    return SectionGenes(
        found=len(there),
        absent=tuple(called[gene] for gene in np.flatnonzero(columns < 0).tolist()),
        other_name=sum(
            asked[gene] not in (counts.gene_ids[columns[gene]], counts.gene_symbols[columns[gene]]) for gene in there
        ),
        resolved_by_alias=None if names is None else names.by_alias,
        left_out={} if names is None else names.left_out,
        tables=None if names is None else names.tables,
        **of_spots,
    )


def describe_counts(counts: CountMatrix, recipe: Recipe, *, sample: str) -> str:
    """The genes of counts and of a recipe's panel in them, in words.

    Raises `DataError`: too few genes of the panel were measured.
    """
    measured = _find_genes(counts, recipe, sample=sample) >= 0
    absent = [recipe.panel[gene] for gene in np.flatnonzero(~measured).tolist()]
    parts = [f"{int(measured.sum())} of {len(measured)} panel genes measured"]
    if absent:
        how = {"mask": "masked", "zero": "taken for 0 counts", "refuse": "not measured"}[recipe.missing_genes]
        parts.append(f"{len(absent)} {how}: {', '.join(absent[:SHOWN])}{' ...' if len(absent) > SHOWN else ''}")
    if counts.names is not None:
        parts.append(counts.names.describe())
    return "; ".join(parts)


def describe_spots(section: SectionRecord | SectionGenes) -> str:
    """How the spots of a section and of its counts fit together, in words."""
    return (
        f"{section.spots} spots matched, {section.spots_without_tile} counted without a tile, "
        f"{section.tiles_without_counts} tiles without counts"
    )


def measure_row(row: TrainingRow, recipe: Recipe, *, genes: Path | None = None) -> SectionGenes | None:
    """What the counts of a row of the training sheet measured of a panel, and its spots; logged in words.

    None where the row names no spots, or its files are not on this disk or too large to read for a plan: `prepare`
    then says it first.

    ``genes``: as in `read_counts`.
    Raises `DataError`: the counts or spots cannot be read, do not belong together, or have too few genes of the panel.
    """
    counts_path, spots_path = Path(row.counts), Path(row.spots or "")
    if not row.spots or not spots_path.is_file() or not 0 < _size_bytes(counts_path) <= MOST_BYTES:
        log(f"plan {row.sample}: its counts are read in prepare")
        return None
    counts = read_counts(counts_path, genes=genes)
    columns = _find_genes(counts, recipe, sample=row.sample)
    spots = read_spots(spots_path)
    tiles = pa.table({"spot": spots.names, "in_tissue": spots.in_tissue})
    matched = len(match_spots(tiles, counts, sample=row.sample)[0])
    found = _describe(
        counts,
        counts.names,
        recipe,
        columns,
        recipe.panel,
        sample=row.sample,
        spots=matched,
        spots_without_tile=len(counts.spots) - matched,
        tiles_without_counts=len(spots) - matched,
    )
    log(f"plan {row.sample}: {describe_counts(counts, recipe, sample=row.sample)}; {describe_spots(found)}")
    return found


def _find_genes(counts: CountMatrix, recipe: Recipe, *, sample: str) -> NDArray[np.int64]:
    columns = gene_columns([clean_name(gene) for gene in recipe.panel], counts, sample=sample)
    where = f"sample {sample}, recipe {recipe.name}"
    refuse_few(recipe.panel, columns >= 0, counts, least=recipe.least_measured, where=where)
    return columns


def _size_bytes(counts: Path) -> int:
    """Size of counts on this disk, a file or a folder of Space Ranger; 0 where they are not there."""
    if not counts.exists():
        return 0
    found = find_matrix(counts) if counts.is_dir() else counts
    return sum(path.stat().st_size for path in (found.iterdir() if found.is_dir() else [found]))
