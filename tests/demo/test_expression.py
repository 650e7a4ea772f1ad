"""The hidden expression follows the tissue, as strongly as a gene's table row says and no stronger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histocast_demo.expression import average_tissue, draw_counts, list_genes, rates_at, truth_at
from histocast_demo.terrain import COMPARTMENTS, Latents, read_latents

POINTS = np.stack(np.meshgrid(np.arange(150, 900, 100.0), np.arange(150, 900, 100.0)), axis=-1).reshape(-1, 2)


def uniform_tissue(compartment: str) -> Latents:
    shares = np.zeros((len(COMPARTMENTS), 70, 70), np.uint8)
    shares[COMPARTMENTS.index(compartment)] = 255
    return Latents(shares=shares, grade=np.full((70, 70), 128, np.uint8), um_per_px=0.5)


def test_the_panel_names_real_genes_once():
    genes = list_genes()
    assert 55 <= len(genes) <= 80
    assert genes.index.is_unique
    assert genes.gene_id.is_unique
    assert genes.gene_id.str.fullmatch(r"ENSG\d{11}").all()
    known = genes.gene_id
    assert known["ERBB2"] == "ENSG00000141736"
    assert known["COL1A1"] == "ENSG00000108821"
    assert known["ADIPOQ"] == "ENSG00000181092"
    assert set(genes.programme) == {*COMPARTMENTS, "grade", "housekeeping", "unrelated"}


@pytest.mark.parametrize("compartment", COMPARTMENTS)
def test_markers_are_highest_in_their_compartment(compartment: str):
    mean = {name: truth_at(uniform_tissue(name), POINTS, seed=3).mean(axis=0) for name in COMPARTMENTS}
    for index, gene in enumerate(list_genes().itertuples()):
        if gene.programme == compartment and gene.fold >= 5:
            others = max(values[index] for name, values in mean.items() if name != compartment)
            assert mean[compartment][index] > others, gene.Index


def test_truth_is_log1p_of_ten_thousand():
    truth = truth_at(uniform_tissue("tumour"), POINTS, seed=3)
    assert np.expm1(truth).sum(axis=1) == pytest.approx(np.full(len(POINTS), 1e4))


def test_glass_has_no_expression():
    empty = Latents(np.zeros((5, 70, 70), np.uint8), np.zeros((70, 70), np.uint8), 0.5)
    assert not truth_at(empty, POINTS, seed=3).any()
    assert not draw_counts(empty, POINTS, seed=3).any()


def test_points_outside_the_slide_have_no_expression():
    outside = np.array([[-500.0, 100.0], [1e6, 1e6]])
    assert not rates_at(uniform_tissue("stroma"), outside, seed=3).any()


def test_truth_at_a_point_does_not_depend_on_the_others():
    latents = uniform_tissue("immune")
    assert np.array_equal(truth_at(latents, POINTS, seed=3)[7:9], truth_at(latents, POINTS[7:9], seed=3))


def test_unrelated_genes_follow_nothing_visible(archive: Path):
    latents, _ = read_latents(archive / "truth" / "S1.npz")
    unrelated = np.flatnonzero(list_genes().programme == "unrelated")
    points = np.random.default_rng(0).uniform((400, 400), (1800, 1400), (300, 2))
    points = points[average_tissue(latents, points) > 0.5]
    # What tissue decides is the same for every seed of the noise, so averaging over seeds would keep it.
    by_seed = np.stack([truth_at(latents, points, seed=seed)[:, unrelated] for seed in range(40)])
    fixed = by_seed.mean(axis=0).std(axis=0)
    single = by_seed.std(axis=1).mean(axis=0)
    assert (fixed < 0.4 * single).all()


def test_counts_scatter_around_the_truth():
    latents = uniform_tissue("tumour")
    points = np.random.default_rng(1).uniform(100, 1000, (400, 2))
    counts = draw_counts(latents, points, seed=3)
    library = counts.sum(axis=1)
    assert 5000 < np.median(library) < 14000
    assert 0.2 < np.log(library).std() < 0.5
    expected = np.expm1(truth_at(latents, points, seed=3)).mean(axis=0)
    assert np.corrcoef(np.log1p(expected), np.log1p((counts / library[:, None] * 1e4).mean(axis=0)))[0, 1] > 0.99
    assert (counts.var(axis=0) > counts.mean(axis=0)).all()
