"""PLAN: every choice of a training run, checked and resolved before anything long starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocast.stages.recipe_choices import (
    Checkpoints,
    EncoderWeights,
    GeneTable,
    GeneText,
    MethodOptions,
    Panel,
    RecipeName,
    Sheet,
    UnseenGenes,
)
from histocast.stages.stage import Outdir, Stage

if TYPE_CHECKING:
    from histocast.training.plan_models import Plan as PlanRecord


class Plan(Stage):
    """Check a training sheet and list the models to train.

    Writes <outdir>/plan.json, which every other verb takes as its --recipe: it holds all choices, resolved.
    """

    input: Sheet
    recipe: RecipeName
    method: tuple[str, ...] = ()
    """A method or variant in place of the recipe's method; may be repeated."""
    panel: Panel = None
    option: MethodOptions = ()
    gene_text: GeneText = None
    unseen_genes: UnseenGenes = None
    genes: GeneTable = None
    encoder_weights: EncoderWeights = None
    checkpoints: Checkpoints = None
    outdir: Outdir = Path()

    def run(self) -> PlanRecord:
        """Do the work; return what was written.

        Raises `UsageError`: something is given that none of the methods uses; `HistocastError`: as
        `histocast.training.plan_models.plan_models` does.
        """
        from histocast.artifacts import write_json
        from histocast.training.plan_models import PLAN_FILE, plan_models, refuse_unused

        planned = plan_models(
            self.input,
            recipe=self.recipe,
            methods=self.method,
            panel=self.panel,
            gene_text=self.gene_text,
            unseen_genes=self.unseen_genes,
            genes=self.genes,
            options=self.option,
        )
        refuse_unused(
            list(planned.recipes.values()),
            gene_text=self.gene_text,
            encoder_weights=self.encoder_weights,
            checkpoints=self.checkpoints,
        )
        self.outdir.mkdir(parents=True, exist_ok=True)
        write_json(self.outdir / PLAN_FILE, planned)
        return planned
