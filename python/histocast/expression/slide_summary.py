"""Write ``<sample>.slide.parquet``: what a cohort needs of a slide, a few hundred kilobytes in place of its predictions.

One row per gene with statistics over the slide's spots, made while the predictions are written; in the file's metadata the
slide's quality, its mean embedding and a small picture.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from histocast.artifacts import (
    BLURRED,
    GENE_P90,
    PREDICTED_GENES,
    SLIDE_FACTS_KEY,
    SLIDE_SUMMARY,
    UNDER_INK,
    write_table,
)
from histocast.bundle import Bundle
from histocast.errors import ConfigError
from histocast.expression.prediction import Prediction
from histocast.expression.running_statistics import RunningStatistics
from histocast.records import Provenance, Record, SlideRecord

BLOCK_UM = 1000.0
"""Least side of a block of the bootstrap: several times the distance over which neighbouring tissue is alike."""

MOST_BLOCKS = 100
"""More say no more of a mean; blocks grow instead."""

PICTURE_PX = 96

OF_RECORD = (
    *("reader", "vendor", "objective_power", "um_per_px", "um_per_px_source", "layout", "tissue_area_mm2"),
    *("pen_fraction", "unreadable_fraction", "stain_absorbance", "colourless"),
)
"""Facts that TILE found."""


class SlideFacts(Record):
    """What the metadata of ``<sample>.slide.parquet`` say of a slide."""

    bundle_name: str
    bundle_version: str
    method: str
    scale: str
    """Name of the expression scale."""
    comparable_between_slides: bool
    """Whether values of two slides can be compared: not where features are standardised within the slide, nor where the
    scale is relative to it."""
    reader: str
    vendor: str | None
    objective_power: float | None
    um_per_px: float
    um_per_px_source: Literal["file", "samplesheet"]
    layout: Literal["grid", "spots"]
    tissue_area_mm2: float
    pen_fraction: float
    """Share of the slide under pen."""
    unreadable_fraction: float
    """Share of the slide that could not be read for its overview."""
    stain_absorbance: float | None
    colourless: bool
    spots: int
    """In tissue."""
    readable_spots: int
    in_distribution_spots: int
    """Readable, in focus, not under ink and like the training tissue: those that ``in_distribution_mean`` is a mean of."""
    ood_fraction: float | None
    """Share of the readable spots that are unlike the training tissue; unknown where none is readable."""
    blurred_fraction: float | None
    """Share of the spots out of focus; unknown where there is none."""
    inked_fraction: float | None
    """Share of the spots under ink; unknown where there is none."""
    block_um: float
    """Side of a block of the bootstrap."""
    blocks: int
    """Blocks with spots of ``in_distribution_mean``."""
    embedding_column: str
    """Feature whose mean over these spots ``embedding`` is."""
    embedding: tuple[float, ...]
    """[dim]; empty where there is no such spot."""
    picture_jpeg: str
    """The overview at no more than 96 pixels, base64."""


@dataclass(frozen=True)
class SlideStatistics:
    """Statistics over the readable spots and over those that are in distribution, filled while predictions are written."""

    readable: RunningStatistics
    in_distribution: RunningStatistics
    block_um: float

    @classmethod
    def of(cls, prediction: Prediction, *, um_per_px: float) -> SlideStatistics:
        """Statistics of a prediction that hold nothing yet."""
        block, block_um = assign_blocks(prediction.spots.centres_level0_px * um_per_px)
        threshold = _threshold(prediction.genes)
        return cls(
            readable=RunningStatistics(prediction.spots.readable, block, threshold),
            in_distribution=RunningStatistics(prediction.in_distribution, block, threshold),
            block_um=block_um,
        )

    def add(self, rows: slice, values: NDArray[np.float32]) -> None:
        """Take the values [spot, gene] of some rows; every row must come once."""
        self.readable.add(rows, values)
        self.in_distribution.add(rows, values)


def refuse_incomparable(bundle: Bundle) -> None:
    """Raise `ConfigError` where predictions of two slides cannot be compared."""
    if not bundle.comparable_between_slides:
        raise incomparable(f"bundle {bundle.name} {bundle.version}")


def incomparable(where: str) -> ConfigError:
    """The error for a bundle that cannot compare slides."""
    return ConfigError(
        "a bundle that sees each slide relative to itself: what differs between slides is lost",
        expected="a bundle whose predictions can be compared between slides",
        where=where,
        advice="predict with a bundle whose bundle.json has standardise_within_slide false, and no relative scale "
        "(docs/cohort.md)",
    )


def _threshold(genes: pa.Table) -> NDArray[np.float64]:
    """[gene] the training set's 90th percentile; NaN where the bundle does not state it."""
    if GENE_P90 not in genes.column_names:
        return np.full(genes.num_rows, np.nan)
    return np.asarray(genes[GENE_P90].to_numpy(), np.float64)


def assign_blocks(centres_um: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
    """The square block of tissue in which each spot lies [spot], and the side of a block in micrometres."""
    side_um = BLOCK_UM
    while True:
        cells = np.floor((centres_um - centres_um.min(axis=0, initial=np.inf)) / side_um)
        _, block = np.unique(cells, axis=0, return_inverse=True)
        if block.max(initial=-1) < MOST_BLOCKS:
            return block.reshape(-1).astype(np.int64), side_um
        side_um *= 1.25


def write_slide_summary(
    path: Path,
    prediction: Prediction,
    statistics: SlideStatistics,
    *,
    record: SlideRecord,
    bundle: Bundle,
    provenance: Provenance,
    overview: NDArray[np.uint8],
) -> None:
    """Write the summary of one slide, whose predictions ``statistics`` has seen all of.

    Raises `OutputError`: the folder cannot be written, or the disk is full. Nothing is left behind.
    """
    facts = _facts(prediction, statistics, record=record, bundle=bundle, overview=overview)
    schema = SLIDE_SUMMARY.arrow().with_metadata({SLIDE_FACTS_KEY: facts.model_dump_json().encode()})
    columns = {**_known(prediction), **_measured(statistics)}
    table = pa.table([columns[column.name] for column in SLIDE_SUMMARY.columns], schema=schema)
    write_table(path, table, SLIDE_SUMMARY.provenance_like(provenance))


def _known(prediction: Prediction) -> dict[str, Any]:
    genes = prediction.genes
    shared = {column.name for column in SLIDE_SUMMARY.columns} & {column.name for column in PREDICTED_GENES.columns}
    columns = {name: genes[name].combine_chunks() for name in shared if name in genes.column_names}
    mean = genes["mean"].to_numpy(zero_copy_only=False).astype(np.float32)
    return {**columns, "training_mean": pa.array(mean, pa.float32(), from_pandas=True)}


def _measured(statistics: SlideStatistics) -> dict[str, pa.Array]:
    columns: dict[str, NDArray[np.float64]] = {}
    for prefix, found in (("", statistics.readable), ("in_distribution_", statistics.in_distribution)):
        columns |= {
            f"{prefix}mean": found.mean(),
            f"{prefix}sd": found.sd(),
            f"{prefix}median": found.quantile(0.5),
            f"{prefix}p10": found.quantile(0.1),
            f"{prefix}p90": found.quantile(0.9),
            f"{prefix}mean_se": found.mean_se(),
        }
    columns["high_fraction"] = statistics.in_distribution.share_above()
    return {name: pa.array(values.astype(np.float32), from_pandas=True) for name, values in columns.items()}


def _facts(
    prediction: Prediction,
    statistics: SlideStatistics,
    *,
    record: SlideRecord,
    bundle: Bundle,
    overview: NDArray[np.uint8],
) -> SlideFacts:
    spots, readable = prediction.spots, prediction.spots.readable
    return SlideFacts(
        bundle_name=bundle.name,
        bundle_version=bundle.version,
        method=bundle.fusion.method,
        scale=bundle.scale.name,
        comparable_between_slides=bundle.comparable_between_slides,
        **{name: getattr(record, name) for name in OF_RECORD},
        spots=len(spots),
        readable_spots=int(readable.sum()),
        in_distribution_spots=statistics.in_distribution.count,
        ood_fraction=_share(prediction.ood_flag[readable]),
        blurred_fraction=_share(spots.tiles["blur"].to_numpy() > BLURRED),
        inked_fraction=_share(spots.tiles["pen_fraction"].to_numpy() > UNDER_INK),
        block_um=statistics.block_um,
        blocks=int((statistics.in_distribution.spots_by_block > 0).sum()),
        embedding_column=bundle.ood.column,
        embedding=tuple(float(f"{value:.6g}") for value in prediction.mean_embedding),
        picture_jpeg=_small_jpeg(overview),
    )


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _small_jpeg(overview: NDArray[np.uint8]) -> str:
    """RGB [row, column, 3] as a JPEG of at most `PICTURE_PX`, base64."""
    import cv2

    scale = min(PICTURE_PX / max(overview.shape[:2]), 1.0)
    size = tuple(max(round(side * scale), 1) for side in overview.shape[1::-1])
    small = cv2.resize(overview, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 75])
    return base64.b64encode(data.tobytes()).decode()
