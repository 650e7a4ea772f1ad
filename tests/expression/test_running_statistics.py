"""Statistics of values that pass by once are those of numpy over all of them, and honest about neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from histocast.expression.running_statistics import BINS, FEWEST_BLOCKS, RunningStatistics

RANDOM = np.random.default_rng(7)
WAYS = {
    "spread": RANDOM.normal(2, 1, (900, 7)),
    "sorted, so that every block lies outside of what came before": np.sort(RANDOM.normal(size=(900, 7)), axis=0),
    "falling": -np.sort(RANDOM.exponential(size=(900, 7)), axis=0),
    "the same everywhere": np.full((900, 7), 3.25),
    "hardly anything but zeros": np.where(RANDOM.random((900, 7)) < 0.02, 5.0, 0.0),
    "far outliers": np.where(RANDOM.random((900, 7)) < 0.01, 1e4, RANDOM.normal(size=(900, 7))),
    "two values": np.array([[1.0] * 7, [4.0] * 7]),
    "one value": np.full((1, 7), -0.5),
    "more genes than a strip": RANDOM.gamma(2, size=(60, 1500)),
}


def run(
    values: np.ndarray, chosen: np.ndarray, block: np.ndarray | None = None, threshold: float = 2.0, rows: int = 64
):
    block = np.zeros(len(values), np.int64) if block is None else block
    found = RunningStatistics(chosen, block, np.full(values.shape[1], threshold))
    for start in range(0, len(values), rows):
        found.add(slice(start, start + rows), values[start : start + rows].astype(np.float32))
    return found


@pytest.mark.parametrize("way", WAYS)
def test_they_are_those_of_all_values(way):
    values = WAYS[way].astype(np.float32).astype(np.float64)
    chosen = RANDOM.random(len(values)) < 0.8
    chosen[0] = True
    values[~chosen] = np.nan
    known, found = values[chosen], run(values, chosen)
    np.testing.assert_allclose(found.mean(), known.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sd(), known.std(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found.share_above(), (known > 2).mean(axis=0))
    reach = np.ptp(known, axis=0) * 2 / BINS + 1e-12
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        off = np.abs(found.quantile(share) - np.quantile(known, share, axis=0))
        assert (off <= reach).all(), share


def test_nothing_is_known_of_no_spot_and_no_share_without_a_threshold():
    found = run(np.full((20, 3), np.nan), np.zeros(20, bool))
    for values in (found.mean(), found.sd(), found.quantile(0.5), found.share_above(), found.mean_se()):
        assert np.isnan(values).all()
    assert np.isnan(run(np.ones((20, 3)), np.ones(20, bool), threshold=np.nan).share_above()).all()


def test_the_error_of_a_mean_covers_tissue_that_is_alike_within_a_block():
    """Over 200 slides the means differ by as much as one slide's error says; counting spots would say a third of that."""
    block = np.repeat(np.arange(40), 25)
    slides = RANDOM.normal(size=(200, 40, 1)) + 0.5 * RANDOM.normal(size=(200, 40, 25))
    means, errors = [], []
    for slide in slides.reshape(200, 1000, 1):
        found = run(slide, np.ones(1000, bool), block, rows=1000)
        means.append(found.mean())
        errors.append(found.mean_se())
    truth = np.std(means)
    assert np.mean(errors) == pytest.approx(truth, rel=0.12)
    assert slides.std() / np.sqrt(1000) < 0.4 * truth


def test_of_too_few_blocks_no_error_is_made_up_and_an_error_is_the_same_each_time():
    values = RANDOM.normal(size=(100, 2))
    for blocks in (FEWEST_BLOCKS - 1, FEWEST_BLOCKS):
        block = np.arange(100) * blocks // 100
        first, again = (run(values, np.ones(100, bool), block).mean_se() for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert np.isnan(first).all() == (blocks < FEWEST_BLOCKS)
