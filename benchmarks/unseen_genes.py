"""Zero-shot figures of docs/evaluation.md: genes left out of training, predicted from their descriptions.

Leaves genes of the panel out, trains on the others with one section held out at a time, and judges the genes that no
network has seen on the section that it has not seen, beside the controls of `histocast.training.unseen`. Judges in
torch, without exporting each fold. Prints a JSON line a method; takes minutes a fold.

    python benchmarks/unseen_genes.py --set set --panel her2st.txt --gene-text genes.parquet [--unseen 50]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from histocast.training import Recipe, read_recipe
from histocast.training.fit import fit
from histocast.training.folds import split_sections
from histocast.training.training_set import open_training_set
from histocast.training.unseen import judge_unseen

PROTOCOL = "strict"
"""Its library is of all genes of a spot, so that leaving genes out changes no label."""


def judge(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Mean Pearson of the left-out genes by held-out section and control."""
    order = np.random.default_rng(0).permutation(len(recipe.panel))
    unseen = tuple(recipe.panel[place] for place in sorted(order[: arguments.unseen]))
    seen = tuple(gene for gene in recipe.panel if gene not in unseen)
    found = {}
    with (
        open_training_set(arguments.set, recipe.model_copy(update={"panel": seen})) as training,
        open_training_set(arguments.set, recipe.model_copy(update={"panel": unseen})) as truth,
    ):
        split = split_sections(training.records, by=recipe.folds)
        for fold in split.folds:
            if arguments.folds and fold.name not in arguments.folds:
                continue
            sections, (test,) = training.choose(fold.train), training.choose(fold.test)
            fitted = fit(training, sections, protocol=PROTOCOL, by=split.by, gene_text=arguments.gene_text)
            labels = truth.labels(truth.choose(fold.test)[0], PROTOCOL)
            found[fold.name] = judge_unseen(fitted, training, test, genes=truth.panel.gene_symbols, labels=labels)
    return found


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--panel", type=Path, required=True)
    parser.add_argument("--gene-text", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["dkan", "alignst"])
    parser.add_argument("--folds", nargs="*", default=[])
    parser.add_argument("--unseen", type=int, default=50)
    arguments = parser.parse_args()
    for method in arguments.methods:
        sections = judge(read_recipe("her2st", panel=arguments.panel, method=method), arguments)
        subjects = next(iter(sections.values()))
        mean = {name: float(np.mean([values[name] for values in sections.values()])) for name in subjects}
        print(
            json.dumps({"method": method, "unseen": arguments.unseen, "mean": mean, "sections": sections}), flush=True
        )


if __name__ == "__main__":
    main()
