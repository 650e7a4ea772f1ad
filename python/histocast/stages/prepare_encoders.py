"""PREPARE_ENCODERS: the encoders of a recipe, once for all sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocast.stages.recipe_choices import EncoderNames, ExportedEncoders, Panel, RecipeName
from histocast.stages.stage import Outdir, Stage

if TYPE_CHECKING:
    from histocast.bundle import Bundle


class PrepareEncoders(Stage):
    """Write the encoders that sections go through.

    Writes <outdir>/bundle.json and the encoders' graphs, for 'prepare --encoders' and 'export --encoders'.
    """

    recipe: RecipeName
    panel: Panel = None
    encoder: EncoderNames = ()
    exported: ExportedEncoders = ()
    outdir: Outdir

    def run(self) -> Bundle:
        """Do the work; return what was written. Raises as `histocast.training.export_encoders` does."""
        from histocast.training.export_encoders import export_encoders
        from histocast.training.read_recipe import read_preparation

        recipe, encoders, _ = read_preparation(self.recipe, panel=self.panel, exported=self.exported)
        return export_encoders(recipe, outdir=self.outdir, names=self.encoder or encoders)
