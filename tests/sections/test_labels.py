"""Labels are what each protocol says, spot by spot."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from histocast.sections.labels import SCALES, array_neighbourhood, make_labels
from histocast.sections.protocols import PROTOCOLS, Protocol


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


def test_residual_is_the_published_formula_of_every_count(counts: np.ndarray) -> None:
    counts[7, 3] = 4000
    found = make_labels("residual", csr_matrix(counts), panel=PANEL, array_row=ROW, array_col=COL)
    for spot in range(30):
        for place, gene in enumerate(PANEL):
            mu = counts[spot].sum() * counts[:, gene].sum() / counts.sum()
            expected = (counts[spot, gene] - mu) / (mu + mu**2 / 100) ** 0.5
            assert found[spot, place] == pytest.approx(min(max(expected, -(30**0.5)), 30**0.5), rel=1e-5)
    assert found.max() == pytest.approx(30**0.5), "one count is high enough to be clipped"


@pytest.mark.parametrize("counts_per_spot", [300, 30_000], ids=["shallow", "deep"])
def test_residuals_do_not_follow_sequencing_depth_and_logarithms_do(counts_per_spot: int) -> None:
    """Spots of one composition whose libraries differ eightfold: nothing but depth differs between them."""
    random = np.random.default_rng(counts_per_spot)
    library = counts_per_spot * np.exp(random.uniform(-1, 1, (400, 1)))
    counts = csr_matrix(random.poisson(library * random.dirichlet(np.ones(200))))
    row, col = (axis.ravel() for axis in np.mgrid[:20, :20])
    depth = np.log(np.asarray(counts.sum(axis=1))).ravel()

    def mean_correlation(protocol: Protocol) -> float:
        labels = make_labels(protocol, counts, panel=np.arange(200), array_row=row, array_col=col)
        return float(np.nanmean([np.corrcoef(depth, gene)[0, 1] for gene in labels.T if gene.std() > 0]))

    # 200 genes: the mean of as many correlations of 400 spots scatters by less than 0.005.
    assert abs(mean_correlation("residual")) < 0.02
    if counts_per_spot == 300:
        assert mean_correlation("strict") > 0.1
        # Smoothing mixes the depths of neighbours, which are drawn at random here.
        assert mean_correlation("paper") > 0.05


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


@pytest.mark.parametrize("protocol", PROTOCOLS)
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
    assert "mu^2 / 100" in SCALES["residual"].transform
    # A residual below 0 is a value like any other: no interval may be cut there.
    assert {name: scale.minimum for name, scale in SCALES.items()} == {"strict": 0.0, "paper": 0.0, "residual": None}
