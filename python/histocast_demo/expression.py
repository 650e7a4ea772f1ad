"""The hidden expression: what lies at a point decides its mean, a gene's own noise bends it, counting blurs it.

The rate of gene g in a disc with compartment shares w is

    rate_g = sum_c w_c density_c profile_gc * exp(noise_sd_g * z_g(x, y) - noise_sd_g^2 / 2)

with ``density`` the RNA of a compartment, ``profile`` the gene's abundance in the compartments of its programme
and that over ``fold`` elsewhere, and ``z_g`` a smooth random field that no pixel shows. Truth is
``log1p(1e4 rate_g / sum rate)``; a measurement draws counts around it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histocast_demo.terrain import CELL_UM, COMPARTMENTS, Latents, make_rng

SPOT_UM = 100.0
"""Diameter of the disc a spot averages over."""

RNA_DENSITY = np.array([1.0, 0.45, 0.75, 0.12, 0.18])
"""RNA by area relative to tumour, in the order of `COMPARTMENTS`."""

LIBRARY = 9000.0
"""Counts of a spot of pure tumour."""

DISPERSION = 0.08
"""Of the negative binomial: variance = mean + dispersion * mean^2."""

WAVES = 24
"""Plane waves that add up to a gene's own noise."""

NOISE_LENGTH_UM = 260.0

Values = NDArray[np.float64]


@lru_cache(maxsize=1)
def list_genes() -> pd.DataFrame:
    """The demo's panel, by symbol: ``gene_id``, ``programme``, ``abundance_cp10k``, ``fold``, ``noise_sd``.

    The programme is a compartment, ``grade``, ``housekeeping`` or ``unrelated``; the abundance is that where it is,
    ``fold`` how much less there is elsewhere, ``noise_sd`` of the natural log of the gene's own noise.
    """
    path = Path(__file__).parent / "genes.tsv"
    return pd.read_csv(path, sep="\t", comment="#", index_col="gene_symbol").astype(
        {"abundance_cp10k": float, "fold": float}
    )


def _average_disc(latents: Latents, points_level0_px: Values) -> tuple[Values, Values]:
    """Mean compartment shares [point, compartment] and tumour-weighted grade [point] over a spot's disc."""
    reach = int(np.ceil(SPOT_UM / 2 / CELL_UM))
    steps = np.arange(-reach, reach + 1)
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) * CELL_UM
    offsets = offsets[np.hypot(*offsets.T) <= SPOT_UM / 2]
    shares = np.zeros((len(points_level0_px), len(COMPARTMENTS)))
    graded = np.zeros(len(points_level0_px))
    rows, columns = latents.grade.shape
    for offset in offsets:
        column, row = np.floor((points_level0_px * latents.um_per_px + offset) / CELL_UM).astype(np.int64).T
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        here = latents.shares[:, row.clip(0, rows - 1), column.clip(0, columns - 1)].T / 255 * inside[:, None]
        shares += here
        graded += here[:, 0] * latents.grade[row.clip(0, rows - 1), column.clip(0, columns - 1)] / 255
    return shares / len(offsets), graded / np.maximum(shares[:, 0], 1e-9)


def average_tissue(latents: Latents, points_level0_px: Values) -> Values:
    """Share of tissue [point] in the disc of a spot at each point (x, y)."""
    return np.asarray(_average_disc(latents, points_level0_px)[0].sum(axis=1), np.float64)


def _own_noise(points_um: Values, *, seed: int, symbol: str) -> Values:
    """The gene's smooth field at points: mean 0, sd 1 over the plane."""
    rng = make_rng(seed, "expression", symbol)
    waves = rng.normal(0, 1 / NOISE_LENGTH_UM, (2, WAVES))
    phase = rng.uniform(0, 2 * np.pi, WAVES)
    return np.asarray(np.sqrt(2 / WAVES) * np.cos(points_um @ waves + phase).sum(axis=1), np.float64)


def _gene_rates(shares: Values, grade: Values) -> Values:
    """Rate [point, gene] before each gene's own noise."""
    dense = shares * RNA_DENSITY
    rates = []
    for gene in list_genes().itertuples():
        low = gene.abundance_cp10k / gene.fold
        here = np.zeros(len(dense))
        if gene.programme in COMPARTMENTS:
            here = dense[:, COMPARTMENTS.index(gene.programme)]
        elif gene.programme == "grade":
            here = dense[:, COMPARTMENTS.index("tumour")] * grade**2
        rates.append(low * dense.sum(axis=1) + (gene.abundance_cp10k - low) * here)
    return np.stack(rates, axis=1)


def rates_at(latents: Latents, points_level0_px: Values, *, seed: int) -> Values:
    """Expected RNA [point, gene] at points (x, y), in units that are the same for all points of all slides.

    ``seed`` is the slide's, which decides each gene's own noise.
    """
    points = np.asarray(points_level0_px, np.float64).reshape(-1, 2)
    points_um = points * latents.um_per_px
    bends = [
        np.exp(gene.noise_sd * _own_noise(points_um, seed=seed, symbol=gene.Index) - gene.noise_sd**2 / 2)
        for gene in list_genes().itertuples()
    ]
    return np.asarray(_gene_rates(*_average_disc(latents, points)) * np.stack(bends, axis=1), np.float64)


def truth_at(latents: Latents, points_level0_px: Values, *, seed: int) -> Values:
    """Hidden expression [point, gene], log1p of counts per 10k; 0 where there is no tissue."""
    rates = rates_at(latents, points_level0_px, seed=seed)
    total = rates.sum(axis=1, keepdims=True)
    shares = np.divide(rates, total, out=np.zeros_like(rates), where=total > 0)
    return np.asarray(np.log1p(1e4 * shares), np.float64)


def draw_counts(latents: Latents, points_level0_px: Values, *, seed: int) -> NDArray[np.int64]:
    """Counts [point, gene] as a sequencer would give them: uneven libraries, overdispersed."""
    rates = rates_at(latents, points_level0_px, seed=seed)
    rng = make_rng(seed, "counts")
    # A spot of pure tumour holds the sum of all abundances there; that sum makes `LIBRARY` counts.
    scale = LIBRARY / sum(_gene_rates(np.array([[1.0, 0, 0, 0, 0]]), np.array([0.5]))[0])
    depth = rng.lognormal(-0.05, 0.32, (len(rates), 1))
    mean = rates * scale * depth * rng.gamma(1 / DISPERSION, DISPERSION, rates.shape)
    return np.asarray(rng.poisson(mean), np.int64)
