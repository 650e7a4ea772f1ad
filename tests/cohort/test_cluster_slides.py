"""Clusters of slides are found where there are some, and not made up where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from histocast.cohort.cluster_slides import cluster_slides

SIZES = (50, 120, 80)


def test_groups_that_are_there_are_found_the_largest_first():
    random = np.random.default_rng(0)
    centres = 3 * random.normal(size=(3, 20))
    group = np.repeat([2, 0, 1], SIZES)
    places = (centres[group] + random.normal(size=(sum(SIZES), 20))).astype(np.float32)
    found = cluster_slides(places)
    assert found is not None
    # The second group is the largest, then the third.
    np.testing.assert_array_equal(found, np.repeat([3, 1, 2], SIZES))


@pytest.mark.parametrize("least_sd", [3, 0.1, 0.001])
def test_a_continuum_has_no_clusters(least_sd):
    spread = np.geomspace(3, least_sd, 20)
    places = np.random.default_rng(1).normal(size=(200, 20)) * spread
    assert cluster_slides(places.astype(np.float32)) is None


def test_of_few_slides_nothing_is_said():
    assert cluster_slides(np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)) is None
