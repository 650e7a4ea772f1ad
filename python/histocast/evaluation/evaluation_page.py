"""``evaluation.html``: the figures of an evaluation with plots, and what predictions look like beside measurements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from histocast import __version__
from histocast.evaluation.controls import SHUFFLED
from histocast.evaluation.evaluation_plots import Bar, Example, draw_bars, draw_example, draw_genes
from histocast.evaluation.metrics import mean_known
from histocast.evaluation.scores import Scores
from histocast.evaluation.summary import MODEL, Evaluation, SubjectSummary
from histocast.evaluation.tables import (
    MEASURED_COLUMNS,
    describe_measured,
    describe_protocol,
    describe_unseen,
    format_figure,
    measured_rows,
    name_subjects,
    unseen_rows,
)
from histocast.networks.correlation import gene_pearson
from histocast.report.page import plural, write_page
from histocast.sections.protocols import Protocol

COLUMNS = {
    "pearson": "Pearson",
    "ceiling": "noise ceiling",
    "ceiling_share": "share of it",
    "pearson_partial": "without depth",
    "pearson_median": "median",
    "pearson_iqr": "IQR",
    "pearson_share_above_0.2": "above 0.2",
    "pearson_hpg50": "HPG",
    "pearson_heg50": "HEG",
    "pearson_hvg50": "HVG",
    "spearman": "Spearman",
    "mse": "MSE",
    "mae": "MAE",
    "rvd": "RVD",
    "ssim": "SSIM",
    "morans_i_predicted": "Moran's I",
    "morans_i_truth": "Moran's I measured",
    "coverage_80": "in 80 %",
    "coverage_90": "in 90 %",
    "crop_slope": "crop slope",
    "slide_means_pearson": "slide means, Pearson",
    "slide_means_slope": "slide means, slope",
}


def write_evaluation_page(path: Path, evaluation: Evaluation, scores: Scores) -> None:
    """Write the page; of the genes to draw it shows those of the best model."""
    genes = scores.genes
    protocols = dict.fromkeys(summary.protocol for summary in evaluation.summaries)
    write_page(
        path,
        "evaluation.html",
        recipe=evaluation.recipe,
        split=evaluation.split[:1].upper() + evaluation.split[1:],
        amount=(
            f"{plural(evaluation.genes, 'gene')}, {plural(evaluation.sections, 'section')}, "
            f"{plural(evaluation.spots, 'spot')} scored."
        ),
        one_patient=evaluation.patients == 1,
        interval=f"Lines are 95 % bootstrap intervals over {evaluation.resampled}.",
        protocols=[_protocol(evaluation, protocol, genes, scores.examples) for protocol in protocols],
        measured=_measured(evaluation),
        unseen=_unseen(evaluation),
        version=__version__,
    )


def _protocol(
    evaluation: Evaluation, protocol: Protocol, genes: pl.DataFrame, examples: Sequence[Example]
) -> dict[str, Any]:
    named = name_subjects([summary for summary in evaluation.summaries if summary.protocol == protocol])
    best = max((summary for summary in named.values() if summary.subject == MODEL), key=_pearson)
    return {
        "name": protocol,
        "facts": describe_protocol(evaluation, protocol),
        # Shuffled spots of every method are near 0; the table has them.
        "bars": draw_bars([_bar(name, summary) for name, summary in named.items() if summary.subject != SHUFFLED]),
        "columns": list(COLUMNS.values()),
        "rows": [
            {"name": name, "cells": [format_figure(summary.figure(metric)) for metric in COLUMNS]}
            for name, summary in named.items()
        ],
        "genes": _genes(named, best, genes.filter(pl.col("protocol") == protocol)),
        "maps": _maps(
            [example for example in examples if (example.method, example.protocol) == (best.method, protocol)]
        ),
    }


def _measured(evaluation: Evaluation) -> dict[str, Any] | None:
    if not evaluation.measured:
        return None
    rows = [{"name": name, "cells": cells} for name, cells in measured_rows(evaluation)]
    return {"facts": describe_measured(evaluation), "columns": MEASURED_COLUMNS, "rows": rows}


def _unseen(evaluation: Evaluation) -> dict[str, Any] | None:
    if not evaluation.unseen:
        return None
    rows = [{"name": name, "cell": format_figure(figure)} for name, figure in unseen_rows(evaluation)]
    return {"facts": describe_unseen(evaluation), "rows": rows}


def _pearson(summary: SubjectSummary) -> float:
    figure = summary.figure("pearson")
    return -1.0 if figure is None or figure.mean is None else figure.mean


def _bar(name: str, summary: SubjectSummary) -> Bar:
    figure = summary.figure("pearson")
    low, high = (None, None) if figure is None else (figure.low, figure.high)
    return Bar(name, max(_pearson(summary), 0.0), low, high, is_control=summary.subject != MODEL)


def _genes(named: dict[str, SubjectSummary], best: SubjectSummary, genes: pl.DataFrame) -> dict[str, Any]:
    """The best model against the best of its controls that predicts gene by gene."""
    scored = set(genes.filter(pl.col("method") == best.method)["subject"])
    control = max((s for s in named.values() if s.subject != MODEL and s.subject in scored), key=_pearson)
    model_pearson, control_pearson = _by_gene(genes, best), _by_gene(genes, control)
    better = float(np.nanmean(model_pearson > control_pearson))
    picture = draw_genes(model_pearson, control_pearson, names=(best.method, control.subject))
    caption = (
        f"One dot per gene, mean Pearson over sections. {best.method} is above {control.subject}, the strongest control, "
        f"for {100 * better:.0f} % of the genes."
    )
    return picture._asdict() | {"caption": caption}


def _by_gene(genes: pl.DataFrame, whose: SubjectSummary) -> NDArray[np.float64]:
    """Mean over sections of Pearson: [gene], by id."""
    mine = genes.filter(pl.col("method") == whose.method, pl.col("subject") == whose.subject)
    found = mine.group_by("gene_id").agg(pl.col("pearson").drop_nans().mean()).sort("gene_id")
    return found["pearson"].to_numpy().astype(np.float64)


def _maps(examples: Sequence[Example]) -> dict[str, Any] | None:
    """The section that the model predicts middling well, so that the page shows neither its best nor its worst."""
    if not examples:
        return None
    order = sorted(examples, key=lambda example: mean_known(gene_pearson(example.truth, example.predicted)))
    shown = order[len(order) // 2]
    pearson = gene_pearson(shown.truth, shown.predicted)
    pictures = [
        draw_example(shown, gene)._asdict() | {"symbol": symbol, "caption": f"Pearson {pearson[gene]:.2f}"}
        for gene, symbol in enumerate(shown.symbols)
    ]
    choice = (
        f"By {shown.method}, the best model. The genes were chosen on training sections: the two it did best on there, "
        "one in the middle and one of the poorest tenth. The section is the middling one. Each map has its own colours: "
        "predictions vary less than measurements."
    )
    return {"sample": shown.sample, "choice": choice, "genes": pictures}
