"""Whether predictions of two slides can be compared: means of slides, and windows of one slide scored as slides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from histocast.evaluation.controls import MEAN_OF_GENES, TRAINING_MEAN
from histocast.sections.labels import SCALES
from histocast.sections.section import Section

Floats = NDArray[np.float64]

FEW_SECTIONS = 10
"""Fewer held-out sections than this give no correlation for a gene by itself: genes are then taken together."""

LEAST_SPOTS = 10
"""Measured spots that a window must hold."""


def score_slide_means(genes: pl.DataFrame) -> pl.DataFrame:
    """How predicted means of held-out sections follow measured ones, by method, protocol and subject.

    Means are taken as deviations from the training mean of the section's fold, which else would run against the
    held-out mean. ``slide_means_pearson`` is the correlation over sections, mean over genes; of fewer than
    `FEW_SECTIONS` sections the uncentred correlation over all genes together. ``slide_means_slope`` is that of measured on predicted
    deviations, 1 where these are as large as they should be. Both are NaN without any predicted deviation.

    ``genes``: rows of `scores.Scores.genes`. Protocols relative to the section are left out: there all means are 0.
    """
    absolute = [protocol for protocol, scale in SCALES.items() if not scale.relative_to_section]
    at = ["method", "protocol", "sample", "gene_id"]
    usual = genes.filter(pl.col("subject") == TRAINING_MEAN).select(*at, usual="mean_predicted")
    truth, predicted = pl.col("truth"), pl.col("predicted")
    moved = (
        genes.filter(pl.col("protocol").is_in(absolute), ~pl.col("subject").is_in([TRAINING_MEAN, MEAN_OF_GENES]))
        .join(usual, on=at)
        .with_columns(
            truth=pl.col("mean_truth") - pl.col("usual"), predicted=pl.col("mean_predicted") - pl.col("usual")
        )
        .filter(truth.is_finite() & predicted.is_finite())
    )
    by = ["method", "protocol", "subject"]
    alone = moved.group_by(*by, "gene_id").agg(each=pl.corr(truth, predicted)).filter(pl.col("each").is_finite())
    together = (truth * predicted).sum()
    return (
        moved.group_by(by)
        .agg(
            sections=pl.col("sample").n_unique(),
            pooled=together / ((truth**2).sum() * (predicted**2).sum()).sqrt(),
            slide_means_slope=together / (predicted**2).sum(),
        )
        .join(alone.group_by(by).agg(pl.col("each").mean()), on=by, how="left")
        .with_columns(slide_means_pearson=pl.when(pl.col("sections") < FEW_SECTIONS).then("pooled").otherwise("each"))
        .filter(pl.col("sections") > 1)
        .select(*by, "slide_means_pearson", "slide_means_slope")
    )


def crop_slope(section: Section, expression: Floats, *, predict: Callable[[Section], Floats]) -> float:
    """The share of the contrast between two windows of a section that is left when each is predicted as a slide.

    The contrast of a gene is the difference between its mean predictions in the outer thirds of the section, from left
    to right and from top to bottom. The slope is that of contrasts of windows by themselves on contrasts within the
    section, through 0, over genes: 1 for a model that sees a tile as it is, 0 for one that sees it relative to its slide.
    NaN where a window would hold fewer than `LEAST_SPOTS` measured spots.

    ``expression``: [measured, gene] of the whole section.
    ``predict``: expression [measured, gene] of a section.
    """
    within, alone = [], []
    for pair in _outer_thirds(section):
        rows = [np.flatnonzero(np.isin(section.measured, spots)) for spots in pair]
        if min(map(len, rows)) < LEAST_SPOTS:
            continue
        windows = [predict(crop_section(section, spots)) for spots in pair]
        within.append(expression[rows[0]].mean(axis=0) - expression[rows[1]].mean(axis=0))
        alone.append(windows[0].mean(axis=0) - windows[1].mean(axis=0))
    if not within:
        return float("nan")
    whole, parts = np.concatenate(within), np.concatenate(alone)
    known = np.isfinite(whole) & np.isfinite(parts)
    return float((whole * parts)[known].sum() / (whole**2)[known].sum()) if whole[known].any() else float("nan")


def _outer_thirds(section: Section) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Spots of the first and of the last third of a section, from left to right and from top to bottom."""
    for places in section.store.centres_level0_px.T:
        low, high = np.quantile(places[section.measured], [1 / 3, 2 / 3])
        yield np.flatnonzero(places <= low), np.flatnonzero(places >= high)


def crop_section(section: Section, spots: NDArray[np.int64]) -> Section:
    """The section as if its slide held these spots [spot of its store, ascending] alone."""
    kept = np.isin(section.measured, spots)
    return replace(
        section,
        store=section.store.select(spots),
        measured=np.searchsorted(spots, section.measured[kept]),
        counts=section.counts[kept],
    )
