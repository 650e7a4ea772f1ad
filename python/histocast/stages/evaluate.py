"""EVALUATE: score trained models on the sections they did not see, next to controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocast.errors import UsageError
from histocast.stages.recipe_choices import ChoosesRecipe
from histocast.stages.stage import Outdir, Threads

if TYPE_CHECKING:
    from histocast.evaluation.summary import Evaluation


class Evaluate(ChoosesRecipe):
    """Score models on held-out sections, next to controls.

    Writes evaluation.json and evaluation.md.
    """

    model: tuple[Path, ...] = ()
    """A model folder of 'train'; may be repeated."""
    recipe: str | None = None
    """Train and score every fold of this recipe under every protocol instead."""
    threads: Threads = None
    outdir: Outdir = Path()

    def run(self) -> Evaluation:
        """Do the work; return what ``evaluation.json`` says.

        Raises `UsageError`: both or none of ``model`` and ``recipe`` are given, or something that is not used;
        `HistocastError`: as `histocast.evaluation.evaluate_models` does.
        """
        from histocast.evaluation.evaluate_models import cross_validate, evaluate
        from histocast.resources import available_threads

        if bool(self.model) == (self.recipe is not None):
            raise UsageError("both or none of --model and --recipe", expected="one of them")
        threads = self.threads or available_threads()
        if self.recipe is None:
            chosen = [name for name in ChoosesRecipe.model_fields if name != "set" and getattr(self, name)]
            if unused := [f"--{name.replace('_', '-')}" for name in chosen]:
                raise UsageError(
                    f"{', '.join(unused)} would change nothing: models are trained already",
                    expected="--model alone, or --recipe with what is chosen in place of its own",
                )
            return evaluate(self.set, models=self.model, outdir=self.outdir, threads=threads)
        recipe = self.read_recipe(self.recipe)
        return cross_validate(self.set, recipe=recipe, outdir=self.outdir, threads=threads, gene_text=self.gene_text)
