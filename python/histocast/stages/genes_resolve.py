"""The verb `genes resolve`: the ids of genes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from histocast.stages.stage import Outdir, Stage

if TYPE_CHECKING:
    from histocast.genes.resolve import ResolveFacts

GeneList = Annotated[
    Path, Field(description="A list with one gene per line, or a table: symbols, or Ensembl, HGNC or MGI ids.")
]
Species = Annotated[Literal["human", "mouse"], Field(description="Whose genes.")]
NameTables = Annotated[
    tuple[Path, ...],
    Field(
        description="HGNC complete set, NCBI gene_info, MGI report or a table with gene_symbol; may be repeated, the "
        "surest first; default: the shipped HGNC names."
    ),
]


class GenesResolve(Stage):
    """Find the ids of genes: <outdir>/gene-names.parquet."""

    genes: GeneList
    species: Species = "human"
    names: NameTables = ()
    on_unknown: Literal["refuse", "keep"] = "refuse"
    """refuse genes that are not known, or keep them without ids."""
    outdir: Outdir = Path()

    def run(self) -> ResolveFacts:
        """Do the work and log what was renamed. Raises as `histocast.genes.resolve.resolve_genes` does."""
        from histocast.genes.name_tables import open_catalogue
        from histocast.genes.resolve import resolve_genes
        from histocast.progress import log

        catalogue = open_catalogue(self.names, species=self.species)
        facts = resolve_genes(self.genes, catalogue=catalogue, outdir=self.outdir, on_unknown=self.on_unknown)
        for match in facts.renamed:
            log(f"{match.query} is {match.gene.label}, {match.matched_by} symbol")
        for refusal in facts.unknown:
            log(f"{refusal.query} is kept without ids: {refusal.found}")
        log(
            f"{facts.genes} genes, {len(facts.renamed)} under another symbol, {len(facts.unknown)} unknown: {facts.path}"
        )
        return facts
