"""The verb `genes prepare`: genes prepared for a bundle, with its own text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocast.genes.gene_options import Sources
from histocast.stages.genes_embed import Device, EncoderFiles
from histocast.stages.genes_resolve import GeneList, NameTables, Species
from histocast.stages.stage import Outdir, Stage

if TYPE_CHECKING:
    from histocast.genes.embed import EmbedFacts


class GenesPrepare(Sources, Stage):
    """Prepare genes for a bundle, with its text encoder.

    Resolves, describes and embeds them. Writes <outdir>/genes.parquet, for 'predict --genes'.
    """

    genes: GeneList
    bundle: Path
    """Bundle that is to predict them: its folder."""
    species: Species = "human"
    names: NameTables = ()
    weights: EncoderFiles = None
    device: Device = "cpu"
    outdir: Outdir = Path()

    def run(self) -> EmbedFacts:
        """Do the work. Raises as `histocast.genes.prepare_genes.prepare_genes` does."""
        from histocast.genes.prepare_genes import prepare_genes
        from histocast.progress import log

        facts = prepare_genes(
            self.genes,
            bundle=self.bundle,
            outdir=self.outdir,
            sources=self,
            species=self.species,
            names=self.names,
            weights=self.weights,
            device=self.device,
        )
        log(f"{facts.genes} selected genes, {facts.truncated} texts cut short: {facts.path}")
        return facts
