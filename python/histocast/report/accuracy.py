"""How accurate the predictions are, in the words and tables of a sample's page."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histocast.fusion.selected_genes import DISSIMILAR_TEXT, EVIDENCE, NEAREST_GENE, SIMILAR_TEXT, TRAINED
from histocast.report.page import count, percent, plural
from histocast.report.sample_data import SampleData, choose_genes

if TYPE_CHECKING:
    import pandas as pd

PROTOCOL_FACTS = {
    "split": "Split",
    "normalisation": "Normalisation",
    "smoothing": "Smoothing",
    "averaging": "Averaging",
}

MODEL = "model"
UNKNOWN = "\u2013"

MEASURES = {
    "pearson": "Pearson r",
    "ceiling": "Pearson r that noise in the measurement allows at most",
    "ceiling_share": "Share of that reached",
    "pearson_partial": "Pearson r, sequencing depth regressed out",
    "pearson_median": "Pearson r, median gene",
    "pearson_iqr": "Pearson r, interquartile range over genes",
    "pearson_share_above_0.2": "Share of genes with r above 0.2",
    "pearson_hpg50": "Pearson r, best 50",
    "pearson_heg50": "Pearson r, 50 of highest mean",
    "pearson_hvg50": "Pearson r, 50 of highest variance",
    "pearson_hpg50_chosen_on_test": "Pearson r, best 50 as published",
    "spearman": "Spearman",
    "mse": "Mean squared error",
    "mae": "Mean absolute error",
    "rvd": "Variance collapse (RVD)",
    "ssim": "Similarity of maps (SSIM)",
    "morans_i_truth": "Moran's I, measured",
    "morans_i_predicted": "Moran's I, predicted",
    "morans_i_agreement": "Agreement of Moran's I over genes",
    "coverage_80": "Coverage of the 80 % interval",
    "coverage_90": "Coverage of the 90 % interval",
    "crop_slope": "Contrast kept by windows predicted as slides",
    "slide_means_pearson": "Pearson r of slide means",
    "slide_means_slope": "Slope of slide means, measured on predicted",
}
"""How a page calls the figures training writes, in the order it shows them; others follow by their own name."""

# The table is there to look a gene up; a panel of all genes would make the page larger than its pictures.
TABLE_GENES = 300

BAR_WIDTH_PCC = 0.05
HISTOGRAM_PX = (640, 120)


def signed(value: float, digits: int = 2) -> str:
    """A number with a true minus sign; a dash where it is unknown."""
    return f"{value:.{digits}f}".replace("-", "\u2212") if np.isfinite(value) else UNKNOWN


def protocols(metrics: pd.DataFrame) -> list[dict[str, Any]]:
    """The bundle's metrics: for those that share a protocol, a table of what controls were measured by too, and a list.

    The table has one row per measure and one column per subject; the list has the measures of the model alone. The genes
    that most rows are about stand with the protocol; a row about others says so itself.
    """
    names = list(PROTOCOL_FACTS)
    groups = [(facts, group.to_dict("records")) for facts, group in metrics.groupby(names, sort=False)]
    return [
        {"title": f"Protocol {number}" if len(groups) > 1 else "", **_protocol([str(fact) for fact in facts], rows)}
        for number, (facts, rows) in enumerate(groups, start=1)
    ]


def _protocol(facts: list[str], rows: list[dict[Any, Any]]) -> dict[str, Any]:
    subjects = sorted({row["subject"]: None for row in rows}, key=lambda subject: subject != MODEL)
    values = {(row["name"], row["genes"], row["subject"]): row["value"] for row in rows}
    order = list(MEASURES)
    measures = sorted(
        dict.fromkeys((row["name"], row["genes"]) for row in rows),
        key=lambda measure: order.index(measure[0]) if measure[0] in MEASURES else len(order),
    )
    usual_genes = Counter(genes for _, genes in measures).most_common(1)[0][0]
    said = [
        {
            "name": MEASURES.get(name, name),
            "note": genes if genes != usual_genes else "",
            "cells": [signed(values.get((name, genes, subject), np.nan), 3) for subject in subjects],
        }
        for name, genes in measures
    ]
    compared = [row for row in said if any(cell != UNKNOWN for cell in row["cells"][1:])]
    return {
        "facts": [("Genes", usual_genes), *zip(PROTOCOL_FACTS.values(), facts, strict=True)],
        "subjects": [subject.capitalize() for subject in subjects],
        "compared": compared,
        "has_gaps": any(UNKNOWN in row["cells"] for row in compared),
        "alone": [row for row in said if row not in compared],
    }


def headline(data: SampleData) -> str:
    """The model's mean Pearson as its table says it, or else the mean over the genes here; empty where none is known."""
    metrics = data.provenance["metrics"]
    known = metrics[(metrics["name"] == "pearson") & (metrics["subject"] == MODEL)]
    if len(known):
        return signed(float(known["value"].iloc[0]), 3)
    accuracy = data.genes["val_pcc"].to_numpy(np.float64, na_value=np.nan)
    return signed(float(np.nanmean(accuracy)), 3) if np.isfinite(accuracy).any() else ""


def describe_evidence(level: str, nearest: str) -> str:
    """On what a gene's prediction stands, with the measured gene that is described most alike."""
    if level == TRAINED:
        return level
    return f"similar text: {nearest}" if level == SIMILAR_TEXT else f"dissimilar text, nearest: {nearest}"


def unseen_sentence(data: SampleData) -> str:
    """What it means that genes were never measured; empty where all were."""
    if not data.unseen.any():
        return ""
    levels = Counter(data.genes[EVIDENCE])
    return (
        f"{plural(int(data.unseen.sum()), 'gene')} of {count(len(data.genes))} took no part in training: the model "
        "predicts them from their descriptions, and how well is not known. "
        f"Similar text ({count(levels[SIMILAR_TEXT])}): described about as much like a measured gene as measured genes are like each "
        f"other. Dissimilar text ({count(levels[DISSIMILAR_TEXT])}): described unlike any of them, so that the map may be that of other genes. "
        "Such genes carry no interval, and their level and spread are borrowed from genes described alike."
    )


def scope_sentences(scope: dict[str, str], *, unseen: bool) -> dict[str, str]:
    """For what intervals, accuracies and comparisons hold, as the bundle's scope says it."""
    who = "prediction of a gene that was measured" if unseen else "prediction"
    return {
        "slides": f"Values are {scope['slides']}.",
        "intervals": f"Each {who} carries an interval, {scope['intervals']}.",
        "val_pcc": f"{scope['val_pcc']}; height: number of genes.",
    }


def accuracy_by_gene(data: SampleData) -> dict[str, Any] | None:
    """The spread of accuracy over genes; ``None`` where the bundle states none."""
    known = data.genes["val_pcc"].to_numpy(np.float64, na_value=np.nan)
    known = known[np.isfinite(known)]
    if not len(known):
        return None
    text = f"Of {plural(len(known), 'gene')}. A map of a gene near 0 is no better than chance."
    if "pearson_median" not in set(data.provenance["metrics"]["name"]):
        above = percent(float((known > 0.2).mean()))
        text = f"Median {signed(float(np.median(known)))}; {above} of genes are above 0.2. {text}"
    return {"text": text, "histogram": _histogram(known)}


def _histogram(values: NDArray[np.float64]) -> dict[str, Any]:
    low = min(np.floor(values.min() / BAR_WIDTH_PCC) * BAR_WIDTH_PCC, 0.0)
    high = max(np.ceil(values.max() / BAR_WIDTH_PCC) * BAR_WIDTH_PCC, low + BAR_WIDTH_PCC)
    edges = low + BAR_WIDTH_PCC * np.arange(round((high - low) / BAR_WIDTH_PCC) + 1)
    counts, _ = np.histogram(values, np.append(edges[:-1], np.inf))
    width, base = HISTOGRAM_PX
    step = width / len(counts)
    bars = []
    for place, number in enumerate(counts):
        height = round(base * number / counts.max(), 1)
        title = f"{plural(int(number), 'gene')} from {signed(edges[place])} to {signed(edges[place + 1])}"
        bars.append(
            {
                "x": round(place * step + 1, 1),
                "y": round(base - height, 1),
                "width": round(step - 2, 1),
                "height": height,
                "middle": round((place + 0.5) * step, 1),
                "count": count(int(number)) if number else "",
                "title": title,
            }
        )
    every = max(len(counts) // 8, 1)
    ticks = [
        {"x": round(place * step, 1), "label": signed(edge)} for place, edge in enumerate(edges) if place % every == 0
    ]
    alt = f"Histogram of the accuracy of {len(values)} genes, from {signed(values.min())} to {signed(values.max())}"
    return {"bars": bars, "ticks": ticks, "base": base, "height": base + 22, "alt": alt}


def gene_table(data: SampleData) -> dict[str, Any]:
    """The genes predicted best, as rows."""
    order = choose_genes(data.genes, count=TABLE_GENES)
    rows = [
        {
            "symbol": row["gene_symbol"],
            "gene_id": row["gene_id"],
            "accuracy": signed(row["val_pcc"]),
            "evidence": describe_evidence(row[EVIDENCE], row[NEAREST_GENE]),
            "mean": signed(row["predicted_mean"]),
            "sd": signed(row["predicted_sd"]),
        }
        for row in data.genes.iloc[order].reset_index(names="gene_id").to_dict("records")
    ]
    total = len(data.genes)
    title = f"All {count(total)} genes" if total <= TABLE_GENES else f"The first {TABLE_GENES} of {count(total)} genes"
    return {"title": title, "rows": rows, "evidence": bool(data.unseen.any())}
