"""Verbs of gene knowledge: genes resolve|describe|embed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from histocast.cli import options

Names = Annotated[
    list[Path] | None,
    typer.Option(
        help="HGNC complete set, NCBI gene_info, MGI report or a table with gene_symbol; give it often, the surest "
        "first. The shipped HGNC names without it."
    ),
]


class SpeciesName(StrEnum):
    """Whose genes."""

    human = "human"
    mouse = "mouse"


class OnUnknownName(StrEnum):
    """What to do about a gene that is not known."""

    refuse = "refuse"
    keep = "keep"


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line, under ``genes``."""
    genes = typer.Typer(
        help="Gene knowledge: resolve symbols, describe genes, embed the descriptions.", no_args_is_help=True
    )
    for verb in (resolve,):
        genes.command()(verb)
    app.add_typer(genes, name="genes")


def resolve(
    *,
    genes: Annotated[Path, typer.Option(help="A gene a line, or a table: symbols, or Ensembl, HGNC or MGI ids.")],
    species: Annotated[SpeciesName, typer.Option(help="Whose genes.")] = SpeciesName.human,
    names: Names = None,
    on_unknown: Annotated[
        OnUnknownName, typer.Option(help="refuse genes that are not known, or keep them without ids.")
    ] = OnUnknownName.refuse,
    outdir: options.Outdir = Path(),
) -> None:
    """Find the ids of genes: <outdir>/gene-names.parquet."""
    from histocast.genes.name_tables import open_catalogue
    from histocast.genes.resolve import resolve_genes
    from histocast.progress import log

    catalogue = open_catalogue(names or (), species=species.value)
    facts = resolve_genes(genes, catalogue=catalogue, outdir=outdir, on_unknown=on_unknown.value)
    for match in facts.renamed:
        log(f"{match.query} is {match.gene.label}, {match.matched_by} symbol")
    for refusal in facts.unknown:
        log(f"{refusal.query} is kept without ids: {refusal.found}")
    log(f"{facts.genes} genes, {len(facts.renamed)} under another symbol, {len(facts.unknown)} unknown: {facts.path}")
