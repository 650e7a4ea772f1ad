"""Metrics against their definitions, written another way."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from histocast.evaluation.controls import shuffled_orders
from histocast.evaluation.metrics import (
    coverage,
    gene_metrics,
    map_similarity,
    morans_i,
    section_metrics,
)
from histocast.evaluation.truth import Truth
from histocast.sections.labels import array_neighbourhood
from histocast.training.calibration import conformal_half_widths, fit_out_of_distribution, ood_scores

ROW, COL = (axis.ravel() for axis in np.mgrid[:9, :11])
NEAR = array_neighbourhood(ROW, COL)
RANDOM = np.random.default_rng(0)
DEPTH = RANDOM.normal(8.0, 0.5, 99)
SMOOTH = np.stack([np.sin(ROW / 2), np.cos(COL / 3 + ROW / 4), ROW / 9.0], axis=1)


def test_morans_i_is_its_double_sum() -> None:
    values = RANDOM.normal(size=(99, 2))
    z = values - values.mean(axis=0)
    weights = (abs(ROW[:, None] - ROW) <= 1) & (abs(COL[:, None] - COL) <= 1) & ~np.eye(99, dtype=bool)
    for gene in range(2):
        total = sum(z[i, gene] * z[j, gene] for i in range(99) for j in range(99) if weights[i, j])
        np.testing.assert_allclose(morans_i(values, NEAR)[gene], 99 / weights.sum() * total / (z[:, gene] ** 2).sum())


def test_morans_i_tells_pattern_from_noise() -> None:
    assert (morans_i(SMOOTH, NEAR) > 0.5).all()
    assert (abs(morans_i(RANDOM.normal(size=(99, 20)), NEAR).mean()) < 0.05).all()
    assert np.isnan(morans_i(np.ones((99, 1)), NEAR))[0]


def test_ssim_is_one_for_the_truth_and_small_for_noise() -> None:
    np.testing.assert_allclose(map_similarity(SMOOTH, SMOOTH, NEAR), 1.0)
    assert (map_similarity(SMOOTH, RANDOM.normal(size=SMOOTH.shape), NEAR) < 0.2).all()


def test_ssim_of_one_window_is_its_formula() -> None:
    row, col = (axis.ravel() for axis in np.mgrid[:3, :3])
    x, y = RANDOM.normal(size=(9, 1)), RANDOM.normal(size=(9, 1))
    one, two = (0.01 * np.ptp(x)) ** 2, (0.03 * np.ptp(x)) ** 2
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    expected = (2 * x.mean() * y.mean() + one) * (2 * covariance + two)
    expected /= (x.mean() ** 2 + y.mean() ** 2 + one) * (x.var() + y.var() + two)
    np.testing.assert_allclose(map_similarity(x, y, array_neighbourhood(row, col)), expected)


def test_errors_and_ranks_are_those_of_their_definitions() -> None:
    truth, predicted = RANDOM.normal(size=(99, 3)), RANDOM.normal(size=(99, 3))
    found = gene_metrics(Truth(truth, NEAR, DEPTH, np.ones(truth.shape[1])), predicted)
    np.testing.assert_allclose(found["mse"], ((truth - predicted) ** 2).mean(axis=0))
    np.testing.assert_allclose(found["mae"], abs(truth - predicted).mean(axis=0))
    np.testing.assert_allclose(found["rvd"], (predicted.var(axis=0) / truth.var(axis=0) - 1) ** 2)
    np.testing.assert_allclose(found["spearman"][1], spearmanr(truth[:, 1], predicted[:, 1]).statistic)


def test_a_gene_without_variation_is_left_out_of_every_mean_that_needs_it() -> None:
    truth = np.concatenate([SMOOTH, np.zeros((99, 1))], axis=1)
    by_gene = gene_metrics(
        Truth(truth, NEAR, DEPTH, np.ones(truth.shape[1])), truth + 0.01 * RANDOM.normal(size=truth.shape)
    )
    found = section_metrics(by_gene, {"hvg50": np.array([True, False, False, True])})
    assert found["pearson"] > 0.99
    assert found["pearson_hvg50"] > 0.99
    assert found["pearson_share_above_0.2"] == 1.0


def test_a_collapsed_prediction_shows_in_rvd_and_not_in_pearson() -> None:
    found = gene_metrics(Truth(SMOOTH, NEAR, DEPTH, np.ones(SMOOTH.shape[1])), SMOOTH * 0.01)
    np.testing.assert_allclose(found["pearson"], 1.0)
    assert (found["rvd"] > 0.99).all()


def test_conformal_intervals_cover_new_spots_as_stated() -> None:
    sd = RANDOM.uniform(0.5, 2.0, (4000, 5))
    truth = sd * RANDOM.standard_t(4, (4000, 5))
    for share in (0.8, 0.9):
        width = conformal_half_widths(truth[:2000], np.zeros((2000, 5)), sd[:2000], coverage=share)
        assert abs(coverage(truth[2000:], np.zeros((2000, 5)), sd[2000:], width) - share) < 0.015


def test_patients_weigh_the_same_in_an_interval_however_many_spots_they_have() -> None:
    truth = np.concatenate([RANDOM.uniform(0, 1, 900), RANDOM.uniform(2, 3, 100)])[:, None]
    known = {"predicted": np.zeros_like(truth), "sd": np.ones_like(truth), "coverage": 0.75}
    patient = np.repeat([7, 3], [900, 100])
    assert conformal_half_widths(truth, **known)[0] < 1.0
    assert abs(conformal_half_widths(truth, **known, patient=patient)[0] - 2.5) < 0.1


def test_conformal_width_of_few_residuals_is_the_largest() -> None:
    width = conformal_half_widths(np.array([[1.0], [3.0], [2.0]]), np.zeros((3, 1)), np.ones((3, 1)), coverage=0.9)
    assert width.tolist() == [3.0]


def test_one_percent_of_held_out_tiles_and_most_foreign_ones_are_out_of_distribution() -> None:
    features, group = RANDOM.normal(2.0, 3.0, (2000, 8)), np.repeat([0, 1, 2, 3], 500)
    found = fit_out_of_distribution(features, group, column="morphology.embedding")
    new = ood_scores(RANDOM.normal(2.0, 3.0, (2000, 8)), np.array(found.mean), np.array(found.sd))
    foreign = ood_scores(RANDOM.normal(12.0, 3.0, (2000, 8)), np.array(found.mean), np.array(found.sd))
    assert 0.002 < (new > found.threshold).mean() < 0.03
    assert (foreign > found.threshold).mean() > 0.99


def test_shuffled_orders_are_permutations_and_repeat() -> None:
    orders = shuffled_orders(50, seed=3)
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert all((a == b).all() for a, b in zip(orders, shuffled_orders(50, seed=3), strict=True))
