"""Slides whose quality differs from that of their batch: by median and median absolute deviation, which outliers do not move."""

from __future__ import annotations

from typing import Literal, NamedTuple

import polars as pl

THRESHOLD = 3.5
"""Robust z-score above which a slide is an outlier (Iglewicz and Hoaglin 1993)."""

FEWEST_SLIDES = 10
"""Of a batch of fewer nothing is said."""


class Measure(NamedTuple):
    """A column that outliers are looked for in."""

    column: str
    title: str
    side: Literal["high", "both"]
    least: float
    """Smallest difference from the median that matters, whatever the spread; in the column's unit, of a logarithm in decades."""
    logarithm: bool = False


MEASURES = (
    Measure("ood_fraction", "unlike the training tissue", "high", 0.02),
    Measure("blurred_fraction", "out of focus", "high", 0.02),
    Measure("inked_fraction", "under ink", "high", 0.02),
    Measure("unreadable_fraction", "unreadable", "high", 0.01),
    Measure("stain_absorbance", "stain, optical density", "both", 0.03),
    Measure("tissue_area_mm2", "tissue, mm²", "both", 0.3, logarithm=True),
    Measure("mean_expression", "mean expression", "both", 0.0),
)


def find_outliers(slides: pl.DataFrame, *, batch: str | None) -> pl.DataFrame:
    """For each slide ``outlier`` (null where its batch is too small to say) and ``outlier_in``, the columns that say so.

    ``slides``: the columns of `MEASURES`, and that of ``batch``.
    ``batch``: column whose values are compared apart; all slides are one batch where it is None.
    """
    group = pl.lit("") if batch is None else pl.col(batch)
    made = slides.select(*(_judge(measure, group).alias(measure.column) for measure in MEASURES))
    named = [pl.when(pl.col(measure.column)).then(pl.lit(measure.column)) for measure in MEASURES]
    return made.select(
        outlier=pl.any_horizontal(pl.all()) if len(made) else pl.lit(None, pl.Boolean),
        outlier_in=pl.concat_list(named).list.drop_nulls(),
    )


def _judge(measure: Measure, group: pl.Expr) -> pl.Expr:
    """Whether a slide is an outlier of a measure; null where the measure is, or its batch has too few."""
    value = pl.col(measure.column)
    if measure.logarithm:
        value = pl.when(value > 0).then(value.log10())
    away = value - value.median().over(group)
    # Where half of the batch is the same the deviations' median is 0, and their mean has to do.
    deviation = away.abs().median().over(group) * 1.4826
    spread = pl.when(deviation > 0).then(deviation).otherwise(away.abs().mean().over(group) * 1.2533)
    side = away if measure.side == "high" else away.abs()
    is_far = (side > THRESHOLD * spread) & (side > measure.least)
    return pl.when((value.count().over(group) >= FEWEST_SLIDES) & value.is_not_null()).then(is_far)
