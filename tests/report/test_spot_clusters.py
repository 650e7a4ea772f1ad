"""Spots are grouped where their predictions form groups, and not where they form a continuum."""

from __future__ import annotations

import numpy as np
import pytest

from histocast.report.spot_clusters import FEWEST_SPOTS, cluster_spots

RANDOM = np.random.default_rng(4)
GENES, SPOTS = 40, 900


def cluster(values: np.ndarray, readable: np.ndarray | None = None) -> np.ndarray | None:
    """Of values [spot, gene]."""
    given = np.ones(len(values), bool) if readable is None else readable
    return cluster_spots(range(values.shape[1]), lambda gene: values[:, gene], readable=given)


def planted(number: int, distance: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Values [spot, gene] of so many groups of different size, and the group of each spot, the largest first."""
    groups = np.repeat(np.arange(number), np.linspace(400, 200, number).astype(int))
    centres = RANDOM.normal(size=(number, GENES)) * distance
    return (centres[groups] + RANDOM.normal(size=(len(groups), GENES))).astype(np.float32), groups


@pytest.mark.parametrize("number", [2, 3, 5])
def test_planted_groups_are_found_the_largest_first(number):
    values, groups = planted(number)
    np.testing.assert_array_equal(cluster(values), groups + 1)


@pytest.mark.parametrize(
    "values",
    [
        RANDOM.normal(size=(SPOTS, GENES)),
        np.outer(np.linspace(0, 5, SPOTS), np.ones(GENES)) + RANDOM.normal(size=(SPOTS, GENES)),
        planted(2)[0][: FEWEST_SPOTS - 1],
        np.ones((SPOTS, GENES)),
    ],
    ids=["noise", "a gradient", "few spots", "the same everywhere"],
)
def test_there_are_none_where_nothing_forms_groups(values):
    assert cluster(values) is None


def test_a_spot_that_could_not_be_read_is_in_none():
    values, groups = planted(2)
    readable = np.arange(len(values)) % 7 != 0
    values[~readable] = np.nan
    found = cluster(values, readable)
    np.testing.assert_array_equal(np.isnan(found), ~readable)
    np.testing.assert_array_equal(found[readable], groups[readable] + 1)
