"""EVALUATE: score trained models on the sections they did not see, next to controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocast.errors import UsageError
from histocast.stages.recipe_choices import (
    EncoderWeights,
    GeneText,
    Method,
    MethodOptions,
    Panel,
    SetFolder,
    UnseenGenes,
)
from histocast.stages.stage import Outdir, Stage, Threads

if TYPE_CHECKING:
    from histocast.evaluation.summary import Evaluation


class Evaluate(Stage):
    """Score models on held-out sections, next to controls.

    Writes evaluation.json and evaluation.md.
    """

    set: SetFolder
    model: tuple[Path, ...] = ()
    """A model folder of 'train'; may be repeated."""
    recipe: str | None = None
    """Train and score every fold of this recipe under every protocol instead."""
    method: Method = None
    panel: Panel = None
    gene_text: GeneText = None
    unseen_genes: UnseenGenes = None
    encoder_weights: EncoderWeights = None
    option: MethodOptions = ()
    threads: Threads = None
    outdir: Outdir = Path()

    def run(self) -> Evaluation:
        """Do the work; return what ``evaluation.json`` says.

        Raises
        ------
        UsageError
            Both or none of ``model`` and ``recipe`` are given, or something that is not used.
        HistocastError
            As `histocast.evaluation.evaluate_models` does.
        """
        from histocast.evaluation.evaluate_models import cross_validate, evaluate
        from histocast.resources import available_threads
        from histocast.training.plan_models import refuse_unused
        from histocast.training.read_recipe import is_plan, read_recipe

        if bool(self.model) == (self.recipe is not None):
            raise UsageError("both or none of --model and --recipe", expected="one of them")
        threads = self.threads or available_threads()
        if self.recipe is None:
            choices = ("method", "panel", "gene_text", "unseen_genes", "encoder_weights", "option")
            if unused := [f"--{name.replace('_', '-')}" for name in choices if getattr(self, name)]:
                raise UsageError(
                    f"{', '.join(unused)} would change nothing: models are trained already",
                    expected="--model alone, or --recipe with what is chosen in place of its own",
                )
            return evaluate(self.set, models=self.model, outdir=self.outdir, threads=threads)
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
            refuse_unused([chosen], gene_text=self.gene_text, encoder_weights=self.encoder_weights)
        return cross_validate(self.set, recipe=chosen, outdir=self.outdir, threads=threads, gene_text=self.gene_text)
