"""A slide's predictions in scratch, before they are written, and how intervals come from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from histocast.bundle import Bundle, OutOfDistribution
from histocast.fusion.fusion_inputs import FusionInputs, SpotFeatures, regions_of_slide
from histocast.fusion.lattice import Region
from histocast.fusion.panel import GENES_PER_CALL, gene_inputs
from histocast.inference.predictor import Pending, Predictor, Tensors
from histocast.progress import Clock
from histocast.resources import scratch_array

Floats = NDArray[np.float32]

BLOCK_ROWS = 1024

REGIONS_UNDER_WAY = 2
"""Regions sent to servers at once. One can hold 150 MB, and a server has one copy of the graph."""


@dataclass(frozen=True)
class Prediction:
    """Predictions of every spot in tissue, in the order of ``tiles.parquet``; NaN where a tile was unreadable."""

    spots: SpotFeatures
    genes: pa.Table
    """The predicted genes, `artifacts.GENES` columns, in the order of the gene axis."""
    expression: Floats
    """[spot, gene] on the bundle's scale."""
    sd: Floats
    """[spot, gene] standard deviation the model states."""
    ood_score: Floats
    """[spot]."""
    ood_flag: NDArray[np.bool_]
    """[spot]; false where the score is NaN."""
    half_width: Floats
    """[gene] conformal half-width of the interval, in units of sd."""
    minimum: float | None
    """Smallest value the scale can take."""
    region_count: int
    """Windows the slide was cut into."""
    mean_embedding: Floats
    """[dim] mean of the feature that ``ood_score`` is of, over the spots in distribution; empty where there is none."""

    def __len__(self) -> int:
        return len(self.spots)

    @property
    def in_distribution(self) -> NDArray[np.bool_]:
        """[spot] whether it is in the slide's statistics and like the training tissue."""
        return self.spots.in_statistics & ~self.ood_flag

    def spot_names(self) -> list[str]:
        """Name of every spot, unique within the slide: that of the table of spots, or ``tile<tile_id>``."""
        numbered = [f"tile{tile}" for tile in self.spots.tiles["tile_id"].to_pylist()]
        named = [name or number for name, number in zip(self.spots.tiles["spot"].to_pylist(), numbered, strict=True)]
        return named if len(set(named)) == len(named) else numbered

    def interval(self, rows: slice) -> tuple[Floats, Floats]:
        """Lower and upper bound of a block of rows, both [spot, gene].

        A bound below what the scale can take is raised to it, since no measurement lies there; but never
        above the prediction itself, so that ``lower <= expression <= upper`` always holds.
        """
        values = self.expression[rows]
        reach = self.half_width * self.sd[rows]
        lower = values - reach
        if self.minimum is not None:
            lower = np.minimum(np.maximum(lower, np.float32(self.minimum)), values)
        return lower, values + reach

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[slice]:
        """Slices that cover all spots, ``rows`` at a time."""
        for start in range(0, len(self), rows):
            yield slice(start, min(start + rows, len(self)))


def predict_spots(
    spots: SpotFeatures,
    *,
    bundle: Bundle,
    predictor: Predictor,
    genes: pa.Table,
    gene_index: NDArray[np.int64],
    pitch_level0_px: float,
    scratch: Path,
    clock: Clock | None = None,
) -> Prediction:
    """Run the fusion graph over the readable spots, a region at a time.

    ``genes``: the genes to predict, `artifacts.GENES` columns.
    ``gene_index``: [gene] place of each on the gene axis of a graph that knows its panel.
    ``scratch``: folder for the arrays, which live as long as the prediction is used.
    ``clock``: counts the time of inference.
    """
    fusion = bundle.fusion
    calls = _calls(gene_inputs(fusion, genes), gene_index)
    gather = FusionInputs.prepare(fusion, spots, pitch_level0_px=pitch_level0_px, fixed=calls[0].asked)
    shape = (len(spots), len(gene_index))
    expression = scratch_array(scratch, "expression", shape=shape, dtype=np.float32)
    sd = scratch_array(scratch, "sd", shape=shape, dtype=np.float32)
    unreadable = np.flatnonzero(~spots.readable)
    expression[unreadable] = np.nan
    sd[unreadable] = np.nan
    windows = regions_of_slide(spots, fusion, pitch_level0_px=pitch_level0_px)
    region_count = 0
    for region, call, outputs in _inferred(windows, calls, gather, predictor, clock or Clock()):
        expression[region.core, call.columns] = outputs["expression"][: region.core_count, call.places]
        sd[region.core, call.columns] = outputs["sd"][: region.core_count, call.places]
        region_count += call is calls[0]
    score, mean_embedding = score_out_of_distribution(spots, bundle.ood)
    return Prediction(
        spots=spots,
        genes=genes,
        expression=expression,
        sd=sd,
        ood_score=score,
        ood_flag=flag_out_of_distribution(score, bundle.ood),
        half_width=genes.column(f"interval_{bundle.calibration.coverage_percent}").to_numpy().astype(np.float32),
        minimum=bundle.scale.minimum,
        region_count=region_count,
        mean_embedding=mean_embedding,
    )


@dataclass(frozen=True)
class _Call:
    """The genes of one call of the fusion graph."""

    asked: dict[str, Floats]
    """Their descriptions, for a graph that takes them."""
    columns: slice
    """Their places in the prediction."""
    places: NDArray[np.int64]
    """Their places in the graph's outputs."""


def _calls(asked: dict[str, Floats], gene_index: NDArray[np.int64]) -> list[_Call]:
    """One call for a graph that knows its panel; else a few genes at a time, in the order asked for.

    No gene's prediction depends on what else is asked for, so how many go together changes nothing.
    """
    count = len(gene_index)
    if not asked:
        return [_Call({}, slice(0, count), gene_index)]
    slices = [slice(start, min(start + GENES_PER_CALL, count)) for start in range(0, count, GENES_PER_CALL)]
    return [
        _Call({name: values[part] for name, values in asked.items()}, part, np.arange(part.stop - part.start))
        for part in slices
    ]


def _inferred(
    windows: Iterable[Region], calls: Sequence[_Call], gather: FusionInputs, predictor: Predictor, clock: Clock
) -> Iterator[tuple[Region, _Call, Tensors]]:
    """Yield the graph's outputs, region by region; a server works on one call while the next is gathered."""
    under_way: deque[tuple[Region, _Call, Pending]] = deque()
    most = min(REGIONS_UNDER_WAY, predictor.in_flight)

    def finish_oldest() -> tuple[Region, _Call, Tensors]:
        region, call, pending = under_way.popleft()
        with clock.spent("inference"):
            return region, call, pending.result()

    for region in windows:
        inputs = gather(region.spots)
        for call in calls:
            with clock.spent("inference"):
                under_way.append((region, call, predictor.submit("fusion", {**inputs, **call.asked})))
            if len(under_way) >= most:
                yield finish_oldest()
    while under_way:
        yield finish_oldest()


def flag_out_of_distribution(score: Floats, ood: OutOfDistribution) -> NDArray[np.bool_]:
    """``ood_flag`` [spot]; false where the score is NaN."""
    return np.nan_to_num(score, nan=-np.inf) > ood.threshold


def score_out_of_distribution(spots: SpotFeatures, ood: OutOfDistribution) -> tuple[Floats, Floats]:
    """``ood_score`` [spot], see `bundle.OutOfDistribution`, NaN where a tile was unreadable; and the mean feature [dim].

    The mean is over the spots that are in the slide's statistics and not flagged (and over their tokens); empty where there
    is none.
    """
    values = spots.columns[ood.column]
    mean, sd = np.asarray(ood.mean, np.float32), np.asarray(ood.sd, np.float32)
    score = np.full(len(spots), np.nan, np.float32)
    rows = np.flatnonzero(spots.readable)
    total, count = np.zeros(values.shape[-1]), 0
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        features = values[block].astype(np.float32)
        distance = (features - mean) / sd
        score[block] = np.sqrt((distance**2).reshape(len(block), -1).mean(axis=1))
        taken = features[spots.in_statistics[block] & ~flag_out_of_distribution(score[block], ood)]
        total += taken.reshape(-1, len(total)).sum(axis=0, dtype=np.float64)
        count += taken.size // len(total)
    return score, (total / count if count else total[:0]).astype(np.float32)
