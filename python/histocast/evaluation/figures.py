"""One metric over all held-out sections: its mean, how it scatters, and what the mean is uncertain by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from histocast.evaluation.metrics import mean_known
from histocast.records import Record

BOOTSTRAP_DRAWS = 2000


class Place(NamedTuple):
    """Where a value was measured."""

    fold: str
    sample: str
    patient: str


class Figure(Record):
    """A metric over all held-out sections."""

    metric: str
    mean: float | None
    """Mean over sections; null where no section has it."""
    sd: float | None
    """Over sections; not that of a sample but of these, as all sd here."""
    low: float | None
    high: float | None
    """95 % bootstrap interval of ``mean``: what is drawn anew are patients with all their sections, or the sections of
    one patient."""
    by_sample: dict[str, float | None]
    fold_mean: float | None = None
    """Mean over folds, each the mean of its sections, as the literature averages."""
    fold_sd: float | None = None
    by_fold: dict[str, float | None] = Field(default_factory=dict)


def make_figure(metric: str, values: Sequence[float], places: Sequence[Place], *, by_patient: bool) -> Figure:
    """The figure of one metric; NaN where a section does not have it.

    ``by_patient``: whether patients are drawn anew for the interval, else sections.
    """
    order = sorted(range(len(places)), key=lambda place: natural_key(places[place].sample))
    found = np.array([values[place] for place in order], np.float64)
    where = [places[place] for place in order]
    names = sorted({place.fold for place in where}, key=natural_key)
    by_fold = {fold: mean_known(found[[place.fold == fold for place in where]]) for fold in names}
    over_folds = np.array(list(by_fold.values()))
    low, high = bootstrap_interval(found, [place.patient if by_patient else place.sample for place in where])
    return Figure(
        metric=metric,
        mean=_known(mean_known(found)),
        sd=_spread(found),
        low=low,
        high=high,
        by_sample={place.sample: _known(value) for place, value in zip(where, found.tolist(), strict=True)},
        fold_mean=_known(mean_known(over_folds)),
        fold_sd=_spread(over_folds),
        by_fold={fold: _known(value) for fold, value in by_fold.items()},
    )


def bootstrap_interval(values: NDArray[np.float64], units: Sequence[str]) -> tuple[float | None, float | None]:
    """95 % interval of the mean of the values that are not NaN, where units are drawn with all their values.

    Of the mean over values, not over units: a patient of six sections weighs six times one of a single section, as in
    the mean itself. Null where there are fewer than two units.
    """
    known = ~np.isnan(values)
    names = sorted({unit for unit, there in zip(units, known.tolist(), strict=True) if there})
    if len(names) < 2:
        return None, None
    of = np.array([[unit == name for unit in units] for name in names]) & known
    sums, counts = of @ np.where(known, values, 0.0), of.sum(axis=1)
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(names), (BOOTSTRAP_DRAWS, len(names)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def best_by_rank_sum(pearson: NDArray[np.float64], folds: Sequence[str], *, count: int) -> NDArray[np.int64]:
    """The ``count`` genes of best rank sum over folds (as published), by Pearson [section, gene].

    A gene's Pearson in a fold is the mean over the fold's sections that have it; one that none has ranks last.
    """
    names = sorted(set(folds))
    parts = [pearson[[fold == name for fold in folds]] for name in names]
    of_fold = np.array([[mean_known(gene) for gene in part.T] for part in parts])
    filled = np.nan_to_num(of_fold, nan=-2.0)
    ranks = np.argsort(np.argsort(-filled, axis=1, kind="stable"), axis=1, kind="stable").sum(axis=0)
    return np.argsort(ranks, kind="stable")[:count]


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Key that sorts names as people do: C2 before C10."""
    parts = (part for part in re.split(r"(\d+)", name) if part)
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _spread(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.std()) if len(known) else None
