"""The hidden expression: what lies at a point decides its mean, a gene's own noise bends it, counting blurs it.

The rate of gene g in a disc with compartment shares w is

    rate_g = sum_c w_c density_c profile_gc * exp(noise_sd_g * z_g(x, y) - noise_sd_g^2 / 2)

with ``density`` the RNA of a compartment, ``profile`` the gene's abundance in the compartments of its programme
and that over ``fold`` elsewhere, and ``z_g`` a smooth random field that no pixel shows. Truth is
``log1p(1e4 rate_g / sum rate)``; a measurement draws counts around it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from histocast.demo.fields import make_rng
from histocast.demo.terrain import CELL_UM, COMPARTMENTS, Latents

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


@dataclass(frozen=True)
class Gene:
    """One gene of the demo's panel (`genes.tsv`)."""

    symbol: str
    gene_id: str
    """Ensembl gene without version."""
    programme: str
    """A compartment; ``grade``, ``housekeeping`` or ``unrelated`` to what the slide shows."""
    abundance: float
    """Counts per 10k where its programme is."""
    fold: float
    """How much less there is elsewhere."""
    noise_sd: float
    """Sd of the natural log of its own noise."""


@lru_cache(maxsize=1)
def list_genes() -> tuple[Gene, ...]:
    """The demo's panel, in the order of its table."""
    text = resources.files("histocast.demo").joinpath("genes.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader((line for line in text.splitlines() if not line.startswith("#")), delimiter="\t")
    return tuple(
        Gene(
            symbol=row["gene_symbol"],
            gene_id=row["gene_id"],
            programme=row["programme"],
            abundance=float(row["abundance_cp10k"]),
            fold=float(row["fold"]),
            noise_sd=float(row["noise_sd"]),
        )
        for row in rows
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
    grade = graded / np.maximum(shares[:, 0], 1e-9)
    return shares / len(offsets), grade


def average_tissue(latents: Latents, points_level0_px: Values) -> Values:
    """Share of tissue [point] in the disc of a spot at each point (x, y)."""
    shares, _ = _average_disc(latents, points_level0_px)
    return np.asarray(shares.sum(axis=1), np.float64)


def _own_noise(points_um: Values, *, seed: int, gene: Gene) -> Values:
    """The gene's smooth field at points: mean 0, sd 1 over the plane."""
    rng = make_rng(seed, "expression", gene.symbol)
    waves = rng.normal(0, 1 / NOISE_LENGTH_UM, (2, WAVES))
    phase = rng.uniform(0, 2 * np.pi, WAVES)
    return np.asarray(np.sqrt(2 / WAVES) * np.cos(points_um @ waves + phase).sum(axis=1), np.float64)


def _gene_rate(gene: Gene, shares: Values, grade: Values) -> Values:
    dense = shares * RNA_DENSITY
    low = gene.abundance / gene.fold
    here = np.zeros(len(dense))
    if gene.programme in COMPARTMENTS:
        here = dense[:, COMPARTMENTS.index(gene.programme)]
    elif gene.programme == "grade":
        here = dense[:, COMPARTMENTS.index("tumour")] * grade**2
    rate: Values = low * dense.sum(axis=1) + (gene.abundance - low) * here
    return rate


def rates_at(latents: Latents, points_level0_px: Values, *, seed: int) -> Values:
    """Expected RNA [point, gene] in arbitrary units that are the same for all points of all slides.

    Parameters
    ----------
    latents:
        The slide's.
    points_level0_px:
        [point, 2] (x, y).
    seed:
        The slide's, which decides each gene's own noise.
    """
    points = np.asarray(points_level0_px, np.float64).reshape(-1, 2)
    shares, grade = _average_disc(latents, points)
    points_um = points * latents.um_per_px
    columns = []
    for gene in list_genes():
        bend = np.exp(gene.noise_sd * _own_noise(points_um, seed=seed, gene=gene) - gene.noise_sd**2 / 2)
        columns.append(_gene_rate(gene, shares, grade) * bend)
    return np.stack(columns, axis=1)


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
    pure = np.array([[1.0, 0, 0, 0, 0]])
    scale = LIBRARY / sum(_gene_rate(gene, pure, np.array([0.5]))[0] for gene in list_genes())
    depth = rng.lognormal(-0.05, 0.32, (len(rates), 1))
    mean = rates * scale * depth * rng.gamma(1 / DISPERSION, DISPERSION, rates.shape)
    return np.asarray(rng.poisson(mean), np.int64)
