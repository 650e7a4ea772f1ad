"""TRAIN: one method on one fold, written as a bundle whose encoders are named and not shipped, but one it trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocast.sections.protocols import Protocol
from histocast.stages.recipe_choices import (
    Checkpoints,
    EncoderWeights,
    GeneText,
    Method,
    MethodOptions,
    Panel,
    RecipeName,
    SetFolder,
    UnseenGenes,
)
from histocast.stages.stage import Outdir, Stage

if TYPE_CHECKING:
    from histocast.training.train_fold import TrainRecord


class Train(Stage):
    """Train one method on one fold: a model folder.

    A training that was stopped continues from its last checkpoint.
    """

    set: SetFolder
    recipe: RecipeName
    method: Method = None
    panel: Panel = None
    protocol: Protocol | None = None
    """How labels are made, in place of the recipe's (docs/evaluation.md)."""
    fold: str | None = None
    """Patient or section to hold out; default: none, so that all are trained on."""
    gene_text: GeneText = None
    unseen_genes: UnseenGenes = None
    encoder_weights: EncoderWeights = None
    option: MethodOptions = ()
    checkpoints: Checkpoints = None
    outdir: Outdir = Path()

    def run(self) -> TrainRecord:
        """Do the work; return what ``train.json`` says.

        Raises
        ------
        UsageError
            Something is given that the method does not use; a plan has checked that for all of its methods.
        HistocastError
            As `histocast.training.train_fold.train` does.
        """
        from histocast.training.plan_models import refuse_unused
        from histocast.training.read_recipe import is_plan, read_recipe
        from histocast.training.train_fold import train

        chosen = read_recipe(
            self.recipe,
            panel=self.panel,
            method=self.method,
            options=self.option,
            encoder_weights=self.encoder_weights,
            unseen_genes=self.unseen_genes,
            gene_text=self.gene_text,
        )
        if not is_plan(self.recipe):
            refuse_unused(
                [chosen],
                gene_text=self.gene_text,
                encoder_weights=self.encoder_weights,
                checkpoints=self.checkpoints,
            )
        return train(
            self.set,
            recipe=chosen,
            fold=self.fold,
            protocol=self.protocol,
            outdir=self.outdir,
            gene_text=self.gene_text,
            checkpoints=self.checkpoints,
        )
