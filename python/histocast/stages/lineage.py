"""LINEAGE: what the bundles of a training run were made of, as an RO-Crate."""

from __future__ import annotations

from pathlib import Path

from histocast.stages.recipe_choices import GeneText, Panel, RecipeName, UnseenGenes
from histocast.stages.stage import Outdir, RunFile, Stage


class Lineage(Stage):
    """Describe a training run as an RO-Crate.

    Writes provenance.json.
    """

    run_file: RunFile
    parts: Path
    """Folder with the section.json, train.json and bundle.json of the run, at any depth."""
    evaluation: Path
    """Folder of 'evaluate'."""
    recipe: RecipeName
    panel: Panel = None
    gene_text: GeneText = None
    unseen_genes: UnseenGenes = None
    outdir: Outdir = Path()

    def run(self) -> None:
        """Do the work. Raises as `histocast.stages.describe_training.write_lineage` does."""
        from histocast.stages.describe_training import write_lineage
        from histocast.training.read_recipe import read_recipe

        recipe = read_recipe(self.recipe, panel=self.panel, gene_text=self.gene_text, unseen_genes=self.unseen_genes)
        write_lineage(self.run_file, parts=self.parts, evaluation=self.evaluation, recipe=recipe, outdir=self.outdir)
