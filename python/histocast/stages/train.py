"""TRAIN: one method on one fold, written as a bundle whose encoders are named and not shipped, but one it trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocast.sections.protocols import Protocol
from histocast.stages.recipe_choices import Checkpoints, ChoosesRecipe, RecipeName
from histocast.stages.stage import Outdir

if TYPE_CHECKING:
    from histocast.training.train_record import TrainRecord


class Train(ChoosesRecipe):
    """Train one method on one fold: a model folder.

    A training that was stopped continues from its last checkpoint.
    """

    recipe: RecipeName
    protocol: Protocol | None = None
    """How labels are made, in place of the recipe's (docs/evaluation.md)."""
    fold: str | None = None
    """Patient or section to hold out; default: none, so that all are trained on."""
    checkpoints: Checkpoints = None
    outdir: Outdir = Path()

    def run(self) -> TrainRecord:
        """Do the work; return what ``train.json`` says.

        Raises `UsageError`: something is given that the method does not use; a plan has checked that for all of its
        methods; `HistocastError`: as `histocast.training.train_fold.train` does.
        """
        from histocast.training.train_fold import train

        return train(
            self.set,
            recipe=self.read_recipe(self.recipe, checkpoints=self.checkpoints),
            fold=self.fold,
            protocol=self.protocol,
            outdir=self.outdir,
            gene_text=self.gene_text,
            checkpoints=self.checkpoints,
        )
