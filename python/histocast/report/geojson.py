"""``<sample>.geojson``: tiles with measurements and the outline of the tissue, as QuPath imports them, in level-0 pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import write_atomically
from histocast.records import SlideRecord
from histocast.report.pictures import TISSUE
from histocast.report.sample_data import SampleData

MEASURED = {
    "ood_score": "Distance from training",
    "blur": "Blur",
    "pen_fraction": "Ink",
}
"""Columns of ``obs`` that tiles carry besides genes, and their names."""
SIMPLIFY_PX = 1.0
"""Of the thumbnail: how far the outline may be from that of the mask."""


def write_geojson(path: Path, data: SampleData, record: SlideRecord, tissue: NDArray[np.uint8]) -> None:
    """Write one feature for each tile or spot, a square of the size that the model saw, and one for each piece of tissue.

    Tiles are detections, named by ``tile_id``, with the values of the genes that the sample's page shows, and of quality as
    measurements; those that could not be read have none. Pieces of tissue are annotations.

    ``tissue``: [row, column] of ``tissue.png``.
    Raises `OutputError`: the file cannot be written.
    """
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write('{"type":"FeatureCollection","features":[')
        for number, feature in enumerate([*outline(tissue, record), *_tiles(data, record)]):
            stream.write(("," if number else "") + "\n" + json.dumps(feature, allow_nan=False, separators=(",", ":")))
        stream.write("\n]}\n")


def _tiles(data: SampleData, record: SlideRecord) -> Iterator[dict[str, Any]]:
    half_px = record.tile_px * record.requested_um_per_px / record.um_per_px / 2
    names = [str(symbol) for symbol in data.genes["gene_symbol"].iloc[data.shown]]
    numbers = {name: data.maps[:, place] for place, name in enumerate(names)}
    numbers |= {title: data.spots[name].to_numpy(np.float64) for name, title in MEASURED.items()}
    readable = data.readable
    for spot, (tile, (x, y)) in enumerate(zip(data.spots["tile_id"], data.centres_level0_px, strict=True)):
        measurements = {
            name: float(f"{values[spot]:.6g}") for name, values in numbers.items() if np.isfinite(values[spot])
        }
        left, top, right, bottom = x - half_px, y - half_px, x + half_px, y + half_px
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        kind = {"objectType": "detection", "name": f"tile{tile}"}
        yield _feature(
            "Polygon",
            [[[float(a), float(b)] for a, b in ring]],
            **kind,
            measurements=measurements if readable[spot] else {},
        )


def outline(tissue: NDArray[np.uint8], record: SlideRecord) -> Iterator[dict[str, Any]]:
    """One annotation for each piece of tissue, with its holes."""
    import cv2

    mask = (tissue == TISSUE).astype(np.uint8)
    rings, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    to_level0 = record.thumbnail_um_per_px / record.um_per_px
    closed = [_close(cv2.approxPolyDP(ring, SIMPLIFY_PX, closed=True)[:, 0], to_level0) for ring in rings]
    for place, ring in enumerate(closed):
        parent = tree[0, place, 3]
        if parent < 0 and ring:
            holes = [closed[each] for each in range(len(closed)) if tree[0, each, 3] == place and closed[each]]
            yield _feature("Polygon", [ring, *holes], objectType="annotation", name="Tissue")


def _close(points: NDArray[np.int32], to_level0: float) -> list[list[float]]:
    """A ring in level-0 pixels that ends where it begins; empty where it encloses nothing."""
    if len(points) < 3:
        return []
    # A pixel's corner of the thumbnail; its centre is half a pixel on.
    scaled = (points + 0.5) * to_level0
    return [[float(x), float(y)] for x, y in [*scaled, scaled[0]]]


def _feature(kind: str, coordinates: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}
