"""The networks of docs/evaluation.md on five real sections: methods, ablations and genes never seen in training.

Judges in torch, without exporting each fold; `histocast evaluate --recipe her2st --method NAME` judges the exported
graphs, which differ by less than 1e-4. Prints a JSON line a run; takes minutes a method on two idle cores.

    python benchmarks/networks.py --set results/her2st/set --panel her2st.txt --gene-text genes/genes.parquet \
        --methods domainst alignst dkan [--protocols strict paper] [--folds C2 C4] [--ablations] [--unseen 50]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from histocast.methods.correlation import gene_pearson
from histocast.methods.onnx_file import run_torch
from histocast.training import Recipe, read_recipe
from histocast.training.fit import OUTPUTS, fit
from histocast.training.folds import split_sections
from histocast.training.metrics import mean_known
from histocast.training.training_set import open_training_set
from histocast.training.unseen import judge_unseen

ABLATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "domainst": {
        "no multi-scale": {"trunk": {"multi_scale": False}},
        "no gene text": {"gene_text": False},
        "no experts": {"experts": []},
        "no distillation": {"distillation": 0.0},
        "no correlation loss": {"correlation": 0.0},
    },
    "alignst": {
        "no multi-scale": {"scales": ["target"], "spot_graph": False},
        "no spot graph": {"spot_graph": False},
        "no gene text": {"gene_text": False},
        "no prompts": {"prompts": 0},
        "no gene interaction": {"interaction": False},
        "with nuclei": {"nuclei": True},
    },
    "dkan": {
        "no multi-scale": {"trunk": {"multi_scale": False}},
        "no gene text": {"gene_text": False},
        "one key (as released)": {"keys": "fused"},
        "no direct path": {"direct": False},
        "no contrastive": {"contrastive": False},
        "fixed weights": {"weights": "fixed"},
        "no distillation": {"distillation": 0.0},
    },
}


def judge(recipe: Recipe, arguments: argparse.Namespace, *, protocol: str) -> dict[str, float]:
    """Mean Pearson of each held-out section."""
    found = {}
    with open_training_set(arguments.set, recipe) as training:
        split = split_sections(training.records, by=recipe.folds)
        for fold in split.folds:
            if arguments.folds and fold.name not in arguments.folds:
                continue
            train, (test,) = training.choose(fold.train), training.choose(fold.test)
            fitted = fit(training, train, protocol=protocol, by=split.by, gene_text=arguments.gene_text)
            fixed = {} if fitted.gene_text is None else {"gene": fitted.gene_text.panel}
            inputs = training.gather(test, fitted.fusion, fixed=fixed)(test.measured)
            predicted = run_torch(fitted.module, inputs, outputs=OUTPUTS)["expression"]
            found[fold.name] = mean_known(gene_pearson(training.labels(test, protocol), predicted))
    return found


def judge_zero_shot(recipe: Recipe, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Controls of each held-out section, over genes that are left out of training (strict: of the whole library)."""
    order = np.random.default_rng(0).permutation(len(recipe.panel))
    held = tuple(recipe.panel[place] for place in sorted(order[: arguments.unseen]))
    seen = recipe.model_copy(update={"panel": tuple(gene for gene in recipe.panel if gene not in held)})
    found = {}
    with (
        open_training_set(arguments.set, seen) as training,
        open_training_set(arguments.set, recipe.model_copy(update={"panel": held})) as truth,
    ):
        split = split_sections(training.records, by=recipe.folds)
        for fold in split.folds:
            if arguments.folds and fold.name not in arguments.folds:
                continue
            sections, (test,) = training.choose(fold.train), training.choose(fold.test)
            fitted = fit(training, sections, protocol="strict", by=split.by, gene_text=arguments.gene_text)
            labels = truth.labels(truth.choose(fold.test)[0], "strict")
            found[fold.name] = judge_unseen(fitted, training, test, genes=truth.panel.gene_symbols, labels=labels)
    return found


def make_recipe(arguments: argparse.Namespace, method: str, model: Mapping[str, Any]) -> Recipe:
    """The HER2ST recipe for a method with some parts changed."""
    recipe = read_recipe("her2st", panel=arguments.panel, method=method)
    nuclei = "nuclei.map" if model.get("nuclei") else None
    return recipe.model_copy(update={"options": {"model": dict(model)} if model else {}, "nuclei": nuclei})


def show(started_s: float, **facts: object) -> None:
    """One JSON line."""
    print(json.dumps(facts | {"seconds": round(time.monotonic() - started_s)}), flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--panel", type=Path, required=True)
    parser.add_argument("--gene-text", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["domainst", "alignst", "dkan"])
    parser.add_argument("--protocols", nargs="+", default=["strict", "paper"])
    parser.add_argument("--folds", nargs="*", default=[])
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--unseen", type=int, default=0)
    arguments = parser.parse_args()
    for method in arguments.methods:
        runs: dict[str, dict[str, Any]] = ABLATIONS.get(method, {}) if arguments.ablations else {"default": {}}
        for name, model in runs.items():
            recipe = make_recipe(arguments, method, model)
            if arguments.unseen:
                started_s = time.monotonic()
                show(started_s, method=method, unseen=arguments.unseen, sections=judge_zero_shot(recipe, arguments))
                continue
            for protocol in arguments.protocols:
                started_s = time.monotonic()
                sections = judge(recipe, arguments, protocol=protocol)
                mean = float(np.mean(list(sections.values())))
                show(started_s, method=method, run=name, protocol=protocol, mean=mean, sections=sections)


if __name__ == "__main__":
    main()
