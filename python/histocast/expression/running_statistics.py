"""Statistics of every gene over a slide, from values that pass by once, in memory that does not grow with the slide."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BINS = 512
"""Of a gene's histogram. They cover at most twice the gene's range, so a quantile is off by at most 1/256 of that range."""

DRAWS = 400
"""Of the bootstrap: its standard errors are themselves off by about 4 %."""

FEWEST_BLOCKS = 5
"""Of fewer blocks nothing can be said about how a mean varies."""

_STRIP = 1024
"""Genes at a time, so that temporary arrays stay small."""


class RunningStatistics:
    """Mean, sd, quantiles, a share, and the standard error of the mean, of every gene over chosen spots.

    ``chosen``: [spot] whether a spot counts.
    ``block``: [spot] number of the piece of tissue in which the spot lies, from 0. Neighbours are alike, so the
        standard error comes from drawing whole pieces with replacement, and not spots.
    ``threshold``: [gene] value above which a spot adds to the share; NaN where there is none.
    """

    def __init__(self, chosen: NDArray[np.bool_], block: NDArray[np.int64], threshold: Floats) -> None:
        genes, blocks = len(threshold), int(block.max(initial=-1)) + 1
        self._chosen, self._block, self._threshold = chosen, block, threshold
        self.spots_by_block = np.bincount(block[chosen], minlength=blocks)
        self._sums = np.zeros((blocks, genes))
        self._squares = np.zeros(genes)
        self._above = np.zeros(genes, np.int64)
        self._histogram = _Histogram(genes)

    @property
    def count(self) -> int:
        """Spots that count."""
        return int(self.spots_by_block.sum())

    def add(self, rows: slice, values: NDArray[np.float32]) -> None:
        """Take the values [spot, gene] of some rows; every row must come once."""
        chosen = np.flatnonzero(self._chosen[rows])
        if not len(chosen):
            return
        order = chosen[np.argsort(self._block[rows][chosen], kind="stable")]
        block = self._block[rows][order]
        starts = np.flatnonzero(np.diff(block, prepend=-1))
        for genes in _strips(len(self._threshold)):
            part = values[order, genes].astype(np.float64)
            self._sums[block[starts], genes] += np.add.reduceat(part, starts, axis=0)
            self._squares[genes] += np.square(part).sum(axis=0)
            self._above[genes] += (part > self._threshold[genes]).sum(axis=0)
            self._histogram.add(genes, part)

    def mean(self) -> Floats:
        """[gene]; NaN where no spot counts, as all that follows."""
        if not self.count:
            return np.full(len(self._threshold), np.nan)
        return np.asarray(self._sums.sum(axis=0) / self.count)

    def sd(self) -> Floats:
        """[gene], of the spots themselves."""
        if not self.count:
            return np.full(len(self._threshold), np.nan)
        return np.sqrt(np.maximum(self._squares / self.count - self.mean() ** 2, 0.0))

    def quantile(self, share: float) -> Floats:
        """[gene], as numpy defines it, to 1/256 of a gene's range."""
        if not self.count:
            return np.full(len(self._threshold), np.nan)
        rank = share * (self.count - 1)
        below, above = (self._histogram.value_at(int(place)) for place in (np.floor(rank), np.ceil(rank)))
        return np.asarray(below + (rank - np.floor(rank)) * (above - below))

    def share_above(self) -> Floats:
        """[gene] share of the spots above the threshold; NaN where the gene has none."""
        share = self._above / self.count if self.count else np.full(len(self._threshold), np.nan)
        return np.where(np.isfinite(self._threshold), share, np.nan)

    def mean_se(self) -> Floats:
        """[gene] standard error of the mean by the block bootstrap; NaN with fewer than `FEWEST_BLOCKS` blocks."""
        spots = self.spots_by_block[self.spots_by_block > 0]
        error = np.full(len(self._threshold), np.nan)
        if len(spots) < FEWEST_BLOCKS:
            return error
        draws = np.random.default_rng(0).multinomial(len(spots), np.full(len(spots), 1 / len(spots)), size=DRAWS)
        for genes in _strips(len(error)):
            sums = self._sums[self.spots_by_block > 0, genes]
            error[genes] = ((draws @ sums) / (draws @ spots)[:, None]).std(axis=0, ddof=1)
        return error


def _strips(genes: int) -> Iterator[slice]:
    for start in range(0, genes, _STRIP):
        yield slice(start, min(start + _STRIP, genes))


class _Histogram:
    """One histogram per gene, whose bins are joined in pairs whenever a value lies outside of them."""

    def __init__(self, genes: int) -> None:
        self._counts = np.zeros((genes, BINS), np.uint32)
        self._low, self._width = np.zeros(genes), np.zeros(genes)
        self._least, self._most = np.full(genes, np.inf), np.full(genes, -np.inf)

    def add(self, genes: slice, values: Floats) -> None:
        """Count values [spot, gene]."""
        self._cover(np.arange(genes.start, genes.stop), values.min(axis=0), values.max(axis=0))
        place = ((values - self._low[genes]) / self._width[genes]).astype(np.int64)
        place = np.clip(place, 0, BINS - 1) + BINS * np.arange(values.shape[1])
        counted = np.bincount(place.ravel(), minlength=BINS * values.shape[1])
        self._counts[genes] += counted.reshape(-1, BINS).astype(np.uint32)

    def _cover(self, genes: NDArray[np.int64], least: Floats, most: Floats) -> None:
        new = self._width[genes] == 0
        tiny = np.maximum(np.abs(least), 1.0) * 1e-9
        self._low[genes[new]] = least[new]
        self._width[genes[new]] = np.maximum(most - least, tiny)[new] / BINS
        self._least[genes] = np.minimum(self._least[genes], least)
        self._most[genes] = np.maximum(self._most[genes], most)
        while True:
            down = genes[self._least[genes] < self._low[genes]]
            up = genes[self._most[genes] > self._low[genes] + BINS * self._width[genes] * (1 + 1e-12)]
            if not len(down) and not len(up):
                return
            self._join(down, into=slice(BINS // 2, BINS))
            self._join(np.setdiff1d(up, down), into=slice(0, BINS // 2))

    def _join(self, genes: NDArray[np.int64], *, into: slice) -> None:
        """Join bins in pairs into one half of the histogram; the other half is new."""
        joined = self._counts[genes].reshape(len(genes), BINS // 2, 2).sum(axis=2, dtype=np.uint32)
        self._counts[genes] = 0
        self._counts[genes, into] = joined
        if into.start:
            self._low[genes] -= BINS * self._width[genes]
        self._width[genes] *= 2

    def value_at(self, rank: int) -> Floats:
        """[gene] the value of a rank from 0, placed within its bin."""
        values = np.empty(len(self._low))
        for genes in _strips(len(self._low)):
            counts = self._counts[genes]
            below = np.cumsum(counts, axis=1, dtype=np.int64)
            place = (below <= rank).sum(axis=1)
            here = np.take_along_axis(counts, place[:, None], axis=1)[:, 0]
            before = np.take_along_axis(below, place[:, None], axis=1)[:, 0] - here
            values[genes] = self._low[genes] + (place + (rank - before + 0.5) / here) * self._width[genes]
        return np.clip(values, self._least, self._most)
