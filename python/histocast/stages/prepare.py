"""PREPARE: sections of a training set from slides and counts."""

from __future__ import annotations

from pathlib import Path

from histocast.stages.recipe_choices import GeneTable, Panel, RecipeName, Sheet
from histocast.stages.stage import Outdir, Stage


class Prepare(Stage):
    """Tile and encode sections, and align their counts.

    Writes <outdir>/<sample>/.
    """

    input: Sheet
    recipe: RecipeName
    panel: Panel = None
    sample: tuple[str, ...] = ()
    """A row to prepare; may be repeated; default: all."""
    genes: GeneTable = None
    encoder: tuple[str, ...] = ()
    """An encoder in place of the recipe's; may be repeated."""
    exported: tuple[Path, ...] = ()
    """A folder of 'export-encoder', besides those of the recipe; may be repeated."""
    keep_pixels: bool = False
    """Keep the tiles' pixels, for a method that trains its encoder."""
    outdir: Outdir = Path()

    def run(self) -> None:
        """Do the work. Raises as `histocast.stages.prepare_sections.prepare_sections` does."""
        from histocast.stages.prepare_sections import prepare_sections
        from histocast.training.recipe import read_recipe

        prepare_sections(
            self.input,
            recipe=read_recipe(self.recipe, panel=self.panel, exported=self.exported),
            outdir=self.outdir,
            samples=self.sample,
            genes=self.genes,
            encoder_names=self.encoder,
            keep_pixels=self.keep_pixels,
        )
