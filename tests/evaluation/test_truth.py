"""The noise ceiling is what the best predictor reaches, and depth is regressed out as it should be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from histocast.evaluation.metrics import gene_metrics, section_metrics, without_depth
from histocast.evaluation.truth import Truth, halve_counts, measure_truth, noise_ceiling
from histocast.networks.correlation import gene_pearson
from histocast.sections.labels import make_labels
from histocast.sections.protocols import PROTOCOLS, Protocol

SIDE, GENES = 20, 40
ROW, COL = (axis.ravel() for axis in np.mgrid[:SIDE, :SIDE])


class MadeSection:
    """As much of a section as a truth is made of."""

    def __init__(self, counts: np.ndarray) -> None:
        self.counts = csr_matrix(counts)
        self.measured = np.arange(len(counts))
        self.store = self
        self.array_row, self.array_col = ROW, COL


@pytest.fixture(scope="module")
def rate() -> np.ndarray:
    """Expected counts [spot, gene]: maps of different strength, and depth that differs from spot to spot."""
    random = np.random.default_rng(0)
    waves = np.stack([np.sin(ROW / 3), np.cos(COL / 4)], axis=1) @ random.normal(size=(2, GENES))
    strength = np.geomspace(0.2, 10, GENES)
    return np.exp(0.6 * waves + random.normal(scale=0.4, size=(len(ROW), 1))) * strength


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_knowing_the_expectation_reaches_the_ceiling(protocol: Protocol, rate: np.ndarray) -> None:
    panel, random = np.arange(GENES), np.random.default_rng(1)
    counts = random.poisson(rate)
    truth = measure_truth(MadeSection(counts), protocol=protocol, panel=panel)
    # What the labels of this rate are in the mean over measurements: nobody can predict more.
    draws = [csr_matrix(random.poisson(rate)) for _ in range(200)]
    expected = np.mean([make_labels(protocol, d, panel=panel, array_row=ROW, array_col=COL) for d in draws], axis=0)
    reached = gene_pearson(truth.labels, expected)
    assert np.abs(reached - truth.ceiling).mean() < 0.12
    assert reached.mean() == pytest.approx(truth.ceiling.mean(), abs=0.05)
    assert truth.ceiling[:5].mean() < truth.ceiling[-5:].mean() - 0.1, "rare genes are hardly measured"
    by_gene = gene_metrics(truth, expected)
    assert section_metrics(by_gene, {})["ceiling_share"] == pytest.approx(1.0, abs=0.1)


def test_the_truth_of_a_panel_is_that_of_all_counts(rate: np.ndarray) -> None:
    counts = np.random.default_rng(2).poisson(rate)
    panel = np.array([3, -1, 17])
    for protocol in PROTOCOLS:
        truth = measure_truth(MadeSection(counts), protocol=protocol, panel=panel)
        whole = make_labels(protocol, csr_matrix(counts), panel=panel, array_row=ROW, array_col=COL)
        np.testing.assert_allclose(truth.labels, whole, rtol=1e-5, atol=1e-6)
        assert np.isnan(truth.ceiling).tolist() == [False, True, False]


def test_halves_add_up_and_leave_no_spot_empty() -> None:
    counts = csr_matrix(np.array([[9, 0, 40], [1, 0, 0], [0, 0, 1]]))
    first, second = halve_counts(counts, seed=0)
    np.testing.assert_array_equal((first + second).toarray()[0], [9, 0, 40])
    for half in (first, second):
        assert (half.sum(axis=1) > 0).all()


def test_two_halves_that_do_not_agree_leave_nothing_to_predict() -> None:
    assert noise_ceiling(np.array([-0.2, 0.0, 1.0, 1 / 3])).tolist() == pytest.approx([0.0, 0.0, 1.0, 0.5**0.5])


def test_the_partial_figure_is_that_of_residuals_of_a_quadratic_in_depth() -> None:
    random = np.random.default_rng(3)
    depth, pattern = random.normal(8, 0.5, (300, 1)), random.normal(size=(300, 6))
    values = pattern + 2 * depth + 0.5 * depth**2
    basis = np.concatenate([np.ones_like(depth), depth, depth**2], axis=1)
    expected = values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    np.testing.assert_allclose(without_depth(values, depth.ravel()), expected, atol=1e-6)
    # A prediction of depth alone looks good and is worth nothing.
    truth = Truth(values, csr_matrix(np.eye(300)), depth.ravel(), np.ones(6))
    found = section_metrics(gene_metrics(truth, np.repeat(depth, 6, axis=1)), {})
    assert found["pearson"] > 0.5
    assert abs(found["pearson_partial"]) < 0.1
    np.testing.assert_allclose(without_depth(values, np.full(300, 8.0)), values - values.mean(axis=0))
