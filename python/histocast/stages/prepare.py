"""PREPARE: sections of a training set from slides and counts."""

from __future__ import annotations

from pathlib import Path

from histocast.stages.recipe_choices import EncoderNames, ExportedEncoders, GeneTable, Panel, RecipeName, Sheet
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
    encoder: EncoderNames = ()
    exported: ExportedEncoders = ()
    encoders: Path | None = None
    """Folder of 'prepare-encoders'; default: they are written to <outdir>/encoders."""
    keep_pixels: bool = False
    """Keep the tiles' pixels, for a method that trains its encoder."""
    outdir: Outdir = Path()

    def run(self) -> None:
        """Do the work. Raises as `histocast.stages.prepare_sections.prepare_sections` does."""
        from histocast.stages.prepare_sections import prepare_sections
        from histocast.training.read_recipe import read_preparation

        recipe, encoders, pixels = read_preparation(self.recipe, panel=self.panel, exported=self.exported)
        prepare_sections(
            self.input,
            recipe=recipe,
            outdir=self.outdir,
            samples=self.sample,
            genes=self.genes,
            encoder_names=self.encoder or encoders,
            encoders=self.encoders,
            keep_pixels=self.keep_pixels or pixels,
        )
