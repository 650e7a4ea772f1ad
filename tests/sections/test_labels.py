"""Labels are what each protocol says, spot by spot."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from histocast.sections.labels import SCALES, Protocol, array_neighbourhood, make_labels


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(2.0, (30, 12))


ROW, COL = (axis.ravel() for axis in np.mgrid[:5, :6])
PANEL = np.array([3, 0, 7, 11])


def test_strict_divides_by_all_genes_and_does_not_smooth(counts: np.ndarray) -> None:
    found = make_labels("strict", csr_matrix(counts), panel=PANEL, array_row=ROW, array_col=COL)
    for spot in range(30):
        expected = np.log(1 + counts[spot, PANEL] / counts[spot].sum() * 10_000)
        np.testing.assert_allclose(found[spot], expected, rtol=1e-6)


def test_paper_divides_by_the_panel_and_averages_three_by_three(counts: np.ndarray) -> None:
    found = make_labels("paper", csr_matrix(counts), panel=PANEL, array_row=ROW, array_col=COL)
    panel = counts[:, PANEL]
    values = np.log10(panel / panel.sum(axis=1, keepdims=True) * 10_000 + 1)
    for spot in range(30):
        near = (abs(ROW - ROW[spot]) <= 1) & (abs(COL - COL[spot]) <= 1)
        np.testing.assert_allclose(found[spot], values[near].mean(axis=0), rtol=1e-5)


def test_a_gap_in_the_array_is_left_out_of_the_mean(counts: np.ndarray) -> None:
    kept = np.arange(30) != 14
    near = array_neighbourhood(ROW[kept], COL[kept])
    corner = int(np.flatnonzero((ROW[kept] == 2) & (COL[kept] == 3))[0])
    assert near[corner].sum() == 8


def test_a_hexagonal_array_has_six_neighbours() -> None:
    row, half = (axis.ravel() for axis in np.mgrid[:7, :7])
    col = 2 * half + row % 2
    near = array_neighbourhood(row, col)
    middle = int(np.flatnonzero((row == 3) & (col == 7))[0])
    assert near[middle].sum() == 7
    distance = np.hypot((row - 3) * np.sqrt(3) / 2, (col - 7) / 2)
    assert set(near[middle].indices) == set(np.flatnonzero(distance < 1.1))


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_a_gene_that_was_not_measured_has_no_label_and_that_of_no_counts_on_request(
    protocol: Protocol, counts: np.ndarray
) -> None:
    def label(panel: list[int], **options: str) -> np.ndarray:
        return make_labels(protocol, csr_matrix(counts), panel=np.array(panel), array_row=ROW, array_col=COL, **options)

    masked, zero = label([3, -1]), label([3, -1], missing="zero")
    assert np.isnan(masked[:, 1]).all()
    assert (zero[:, 1] == 0).all()
    # The gene that was measured has the label it has alone.
    for found in (masked, zero):
        np.testing.assert_array_equal(found[:, 0], label([3])[:, 0])


def test_a_spot_without_panel_counts_is_defined() -> None:
    counts = np.array([[0, 5], [3, 2]])
    found = make_labels(
        "paper", csr_matrix(counts), panel=np.array([0]), array_row=np.array([0, 5]), array_col=np.array([0, 5])
    )
    np.testing.assert_allclose(found[:, 0], [0, np.log10(10_001)], rtol=1e-6)


def test_scales_say_what_labels_are() -> None:
    assert "all genes" in SCALES["strict"].normalisation
    assert SCALES["strict"].smoothing == "none"
    assert "panel" in SCALES["paper"].normalisation
    assert "3 x 3" in SCALES["paper"].smoothing
