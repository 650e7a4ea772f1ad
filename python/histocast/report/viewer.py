"""The interactive part of a sample's page: data that its script reads, and the script itself.

A page is one file of at most `PAGE_BYTES`, whatever the slide: values of as many genes as fit are written, those that
matter most first, then their intervals. Genes are read one at a time, so that memory does not grow with the panel.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocast.fusion.selected_genes import EVIDENCE, NEAREST_GENE
from histocast.records import SlideRecord
from histocast.report.accuracy import describe_evidence
from histocast.report.canvas import Canvas, crop, spot_diameter_um
from histocast.report.colour_scale import ColourScale, colour_table, is_flat
from histocast.report.packing import COARSE_STEPS, FINE_STEPS, choose_digits, pack_column, pack_json
from histocast.report.page import THIN_SPACE, data_block, hash_source, read_script
from histocast.report.pictures import Rgb, fit_within, jpeg_uri
from histocast.report.sample_data import ReadColumn, SampleData, choose_genes
from histocast.report.spot_clusters import cluster_spots

MODULES = ("payload", "scale", "slide_map", "gene_table", "histogram", "download", "main")
"""In the order in which they use each other."""

PAGE_BYTES = 4_900_000
REST_BYTES = 150_000
"""Markup, tables, style and script of a page."""
PICTURE_PX, PICTURE_BYTES = 1600, 250_000
FIRST_GENES = 50
"""Genes whose intervals are written before the values of further genes, where a panel is too large for the page."""
COLUMN_BYTES = 80
"""Of a packed column beside its data."""

LAYERS = (
    ("mean_sd", "Uncertainty, all genes", "Standard deviation the model states, mean over all genes."),
    ("ood_score", "Distance from the training tissue", "In standard deviations of the training tiles."),
    ("ood_flag", "Unusual tissue", "1: unlike the tissue the model was trained on; 0: like it."),
    ("blur", "Blur", "0 sharp, 1 blurred."),
    ("pen_fraction", "Ink", "Share of the tile under pen marks."),
    ("tissue_fraction", "Tissue", "Share of the tile that is tissue."),
)
"""Column of ``obs``, title, explanation."""

CLUSTER = "cluster"
CLUSTER_NOTE = (
    "Tiles alike in predicted expression: k-means on principal components of the genes predicted best. Groups of predictions, and "
    "so of morphology; no cell types."
)
CLUSTER_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""After Okabe and Ito: apart for people who do not see all colours, too."""


@dataclass(frozen=True)
class Viewer:
    """What a template puts into the page."""

    data: str
    """JSON for a data block; holds no character that ends one."""
    script: str
    script_source: str
    """For a Content-Security-Policy: no other script runs."""


def make_viewer(
    data: SampleData, record: SlideRecord, picture: Rgb, canvas: Canvas, *, read: ReadColumn, spent_bytes: int
) -> Viewer:
    """The viewer of a sample with at least one predicted spot.

    ``spent_bytes``: what the page's other pictures take.
    """
    uri = jpeg_uri(fit_within(crop(picture, canvas.frame), max_px=PICTURE_PX), max_bytes=PICTURE_BYTES)
    to_level0 = record.thumbnail_um_per_px / record.um_per_px
    order = _order(data)
    clusters = cluster_spots(order.tolist(), lambda gene: read("X", gene), readable=data.readable)
    scene = {
        "sample": record.sample,
        "unit": "tile" if record.layout == "grid" else "spot",
        "square": record.layout == "grid",
        "um_per_px": record.um_per_px,
        "spot_px": spot_diameter_um(record) / record.um_per_px,
        "tile_px": record.tile_px * record.requested_um_per_px / record.um_per_px,
        "picture": {"uri": uri, "frame": [edge * to_level0 for edge in canvas.frame]},
        "scale": {name: data.provenance["scale"][name] for name in ("name", "description")},
        "minimum": _number(data.provenance["scale"].get("minimum")),
        "interval": _name_interval(data.provenance),
        "palettes": {name: base64.b64encode(table.tobytes()).decode() for name, table in _palettes(clusters).items()},
        "spots": _spots(data, clusters),
        "layers": [*_layers(data), _cluster_layer(clusters)],
        "genes": pack_json(_genes(data, order)),
    }
    budget = PAGE_BYTES - REST_BYTES - spent_bytes - len(json.dumps(scene))
    half_width_sd = data.genes["interval_half_width_sd"].to_numpy(np.float64, na_value=np.nan)
    scene |= _GenePacker(order, read, data.readable, half_width_sd, budget).pack()
    script = read_script(MODULES)
    return Viewer(data_block(scene), script, hash_source(script))


def _name_interval(provenance: dict[str, Any]) -> str:
    """The interval as the viewer calls it, with its scope where that is narrow."""
    calibration = provenance["calibration"]
    patients = calibration.get("patients")
    scope = (
        "" if patients is not None and patients > 1 else ", same patient only" if patients else ", of unknown patients"
    )
    return f"{int(calibration['coverage_percent'])}{THIN_SPACE}% interval{scope}"


def _number(value: Any) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _order(data: SampleData) -> NDArray[np.int64]:
    """Genes by importance: those of the page's maps, then those predicted best."""
    rest = choose_genes(data.genes, count=len(data.genes))
    return np.concatenate([data.shown, rest[~np.isin(rest, data.shown)]])


def _genes(data: SampleData, order: NDArray[np.int64]) -> dict[str, list[Any]]:
    genes = data.genes.iloc[order]

    def numbers(column: str) -> list[float | None]:
        values = genes[column].to_numpy(np.float64, na_value=np.nan)
        return [round(float(value), 4) if np.isfinite(value) else None for value in values]

    return {
        "symbol": [str(symbol) for symbol in genes["gene_symbol"]],
        "id": [str(gene_id) for gene_id in genes.index],
        "accuracy": numbers("val_pcc"),
        "mean": numbers("predicted_mean"),
        "sd": numbers("predicted_sd"),
        "evidence": [
            describe_evidence(str(level), str(nearest))
            for level, nearest in zip(genes[EVIDENCE], genes[NEAREST_GENE], strict=True)
        ],
    }


def _spots(data: SampleData, clusters: NDArray[np.float64] | None) -> dict[str, Any]:
    spots = data.spots
    columns: dict[str, Any] = {
        "tile_id": pack_column(spots["tile_id"].to_numpy(), digits=0),
        "x": pack_column(data.centres_level0_px[:, 0], digits=2),
        "y": pack_column(data.centres_level0_px[:, 1], digits=2),
        "readable": pack_column(data.readable, digits=0),
    }
    for name, _, _ in LAYERS:
        values = spots[name].to_numpy(np.float64)
        columns[name] = pack_column(values, digits=0 if name == "ood_flag" else max(choose_digits(values), 2))
    if clusters is not None:
        columns[CLUSTER] = pack_column(clusters, digits=0)
    return {"count": len(spots), "columns": columns}


def _layers(data: SampleData) -> list[dict[str, Any]]:
    layers = []
    for name, title, note in LAYERS:
        values = data.spots[name].to_numpy(np.float64)[data.readable]
        scale = ColourScale.from_zero(values, palette="cividis")
        off = "hardly varies" if is_flat(values) else ""
        given = {"palette": "cividis", "digits": 2, "range": [0, scale.high]}
        layers.append({"name": name, "title": title, "note": note, "off": off, **given})
    return layers


def _cluster_layer(clusters: NDArray[np.float64] | None) -> dict[str, Any]:
    """The layer of clusters, which cannot be chosen where there are none."""
    number = 1 if clusters is None else int(np.nanmax(clusters))
    off = "none: a continuum" if clusters is None else ""
    given = {"palette": CLUSTER, "digits": 0, "range": [0.5, number + 0.5]}
    return {"name": CLUSTER, "title": "Clusters", "note": CLUSTER_NOTE, "off": off, **given}


def _palettes(clusters: NDArray[np.float64] | None) -> dict[str, NDArray[np.uint8]]:
    """256 colours each, RGB [level, 3]; of clusters as many equal steps as there are clusters."""
    number = 1 if clusters is None else int(np.nanmax(clusters))
    steps = np.array(CLUSTER_COLOURS, np.uint8)[np.arange(256) * number // 256]
    return {"viridis": colour_table("viridis"), "cividis": colour_table("cividis"), CLUSTER: steps}


@dataclass(frozen=True)
class _GenePacker:
    """Packs values and intervals of genes, one gene in memory at a time."""

    order: NDArray[np.int64]
    """Genes by importance."""
    read: ReadColumn
    readable: NDArray[np.bool_]
    half_width_sd: NDArray[np.float64]
    """[gene] of its interval; NaN where it has none."""
    budget: int
    """Bytes for all of them."""

    def pack(self) -> dict[str, Any]:
        """As many genes as the budget holds: all of them with fewer decimals before some with more."""
        first, every = min(FIRST_GENES, len(self.order)), len(self.order)
        parts = [("values", range(first)), ("reach", range(first))]
        parts += [("values", range(first, every)), ("reach", range(first, every))]
        fine = self._pack(parts, steps=FINE_STEPS)
        if 0.4 * every < len(fine["values"]) < every:
            coarse = self._pack([("values", range(every)), ("reach", range(every))], steps=COARSE_STEPS)
            if len(coarse["values"]) == every:
                return coarse
        return fine

    def _pack(self, parts: Sequence[tuple[str, range]], *, steps: int) -> dict[str, Any]:
        values: list[dict[str, Any]] = []
        reach: list[dict[str, Any] | None] = []
        low, high, budget = np.inf, -np.inf, self.budget
        for kind, place in ((kind, place) for kind, places in parts for place in places):
            gene = int(self.order[place])
            if kind == "reach":
                packed = self._reach(gene, digits=values[place]["digits"])
            else:
                column = self.read("X", gene)
                packed = pack_column(column, digits=choose_digits(column[self.readable], steps=steps))
            budget -= COLUMN_BYTES + len(packed["data"] if packed else "")
            if budget < 0:
                break
            if kind == "reach":
                reach.append(packed)
            elif packed:
                values.append(packed)
                scale = ColourScale.over(column)
                low, high = min(low, scale.low), max(high, scale.high)
        return {"values": values, "reach": reach, "shared": [low, high] if values else [0.0, 1.0]}

    def _reach(self, gene: int, *, digits: int) -> dict[str, Any] | None:
        """Half the width of a gene's interval at each spot."""
        if not np.isfinite(self.half_width_sd[gene]):
            return None
        return pack_column(self.half_width_sd[gene] * self.read("layers/sd", gene), digits=digits)
