"""Outliers are found within their batch, whatever the batches are like, and none is made up."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from histocast.cohort.find_outliers import FEWEST_SLIDES, MEASURES, find_outliers

RANDOM = np.random.default_rng(3)


def slides(count: int = 40, **columns: object) -> pl.DataFrame:
    ordinary = {
        **{measure.column: np.zeros(count) for measure in MEASURES if measure.column.endswith("fraction")},
        "stain_absorbance": RANDOM.uniform(0.28, 0.32, count),
        "tissue_area_mm2": RANDOM.uniform(40, 80, count),
        "mean_expression": RANDOM.uniform(0.9, 1.1, count),
        "site": ["A"] * count,
    }
    return pl.DataFrame({**ordinary, **columns})


def changed(values: np.ndarray, **at: float) -> np.ndarray:
    values = values.copy()
    for place, value in at.items():
        values[int(place[1:])] = value
    return values


ORDINARY = slides()
CASES = {
    "too much unlike the training tissue": ("ood_fraction", {"_3": 0.4}, {3}),
    "less of it than others is no fault": ("ood_fraction", dict.fromkeys((f"_{n}" for n in range(1, 40)), 0.4), set()),
    "ink on one slide of many without any": ("inked_fraction", {"_7": 0.2}, {7}),
    "a trace of ink matters to nobody": ("inked_fraction", {"_7": 0.01}, set()),
    "stain too dark and too faint": ("stain_absorbance", {"_1": 0.5, "_2": 0.1}, {1, 2}),
    "a biopsy among resections": ("tissue_area_mm2", {"_5": 2.0}, {5}),
    "no tissue at all is not compared": ("tissue_area_mm2", {"_5": 0.0}, set()),
    "expression of another scale": ("mean_expression", {"_9": 3.0}, {9}),
    "what is not known is no outlier": ("stain_absorbance", {"_4": np.nan}, set()),
}


@pytest.mark.parametrize("case", CASES)
def test_a_slide_that_differs_from_its_batch_is_found(case):
    column, at, expected = CASES[case]
    values = pl.Series(changed(ORDINARY[column].to_numpy(), **at), nan_to_null=True)
    found = find_outliers(ORDINARY.with_columns(values.alias(column)), batch=None)
    assert set(np.flatnonzero(found["outlier"].to_numpy())) == expected
    assert found["outlier_in"].to_list() == [[column] if place in expected else [] for place in range(40)]


def test_batches_are_looked_at_apart():
    stain = np.where(np.arange(40) < 20, 0.2, 0.6) + RANDOM.uniform(-0.01, 0.01, 40)
    stain[0] = 0.6
    table = slides(stain_absorbance=stain, site=["A"] * 20 + ["B"] * 20)
    assert np.flatnonzero(find_outliers(table, batch="site")["outlier"]).tolist() == [0]
    together = np.flatnonzero(find_outliers(table, batch=None)["outlier"]).tolist()
    assert together == list(range(1, 20)), "taken together the smaller batch is odd, and the odd slide is not"


def test_of_a_small_batch_nothing_is_said():
    small = FEWEST_SLIDES - 1
    table = slides(40, mean_expression=np.arange(40.0) ** 3, site=["A"] * small + ["B"] * (40 - small))
    outlier = find_outliers(table, batch="site")["outlier"]
    assert outlier.is_null().to_list() == [True] * small + [False] * (40 - small)
