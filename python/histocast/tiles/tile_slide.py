"""What TILE writes: facts of a slide, its tissue, and the tiles or spots that are to be predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histocast.artifacts import TILES, parquet_writer, write_json
from histocast.bundle import TileGeometry, sha256_of_file
from histocast.errors import DataError
from histocast.records import Provenance, SlideRecord
from histocast.tiles.grid import Grid
from histocast.tiles.quality import QualityMeter, TileQuality
from histocast.tiles.spots import MeasuredSpots, read_spots
from histocast.tissue import TissueMap, find_tissue
from histocast.tissue.tissue_pictures import write_thumbnail, write_tissue

if TYPE_CHECKING:
    from histocast.slide import Slide


MAX_PEN_FRACTION = 0.25
"""Grid tiles under more ink than this are left out: what lies beneath it is not what the encoders learnt."""

MIN_SPOT_PITCH_UM = 1.5
"""Less than the 2 um of the finest arrays: such spots are numbered, not measured in pixels."""

THUMBNAIL_PX = 2048


@dataclass(frozen=True)
class _Plan:
    """Where tiles go and what validates them."""

    layout: Grid | MeasuredSpots
    pitch_um: float
    geometry: TileGeometry
    min_tissue: float


def tile_slide(
    slide: Slide,
    *,
    sample: str,
    geometry: TileGeometry,
    spots: Path | None,
    slide_digest: str,
    bundle_digest: str,
    outdir: Path,
    min_tissue: float = 0.5,
) -> SlideRecord:
    """Find tissue, lay tiles, and write ``thumbnail.png tissue.png tiles.parquet slide.json`` into ``outdir``.

    Without ``spots`` a grid of the bundle's pitch starts at the slide's corner; rows are kept for tiles with
    any tissue, and those with at least ``min_tissue`` of it, and not under pen, are in tissue. With ``spots``
    every row of the table is kept in its order, and its own word decides what is in tissue, since predictions
    are to meet measurements there; the quality columns still say what the image shows.

    An empty slide gives tables of zero rows, and is a complete result.

    ``geometry``: tile size, resolution and pitch, from the bundle.
    ``spots``: table of measured spots (see `histocast.tiles.spots`).
    ``min_tissue``: least share of a grid tile that is tissue, 0 to 1.
    Raises `DataError`: the slide has no readable thumbnail, or the spots do not fit it; `OutputError`: ``outdir``
    cannot be written.
    """
    # The table is validated first: it costs nothing and most often is what is wrong.
    plan = _lay_out(slide, geometry, spots, min_tissue)
    overview = slide.overview(THUMBNAIL_PX)
    thumbnail_um_per_px = slide.facts.um_per_px * overview.downsample
    found = find_tissue(overview.pixels, thumbnail_um_per_px, overview.unreadable)
    inputs = {"slide": slide_digest, "bundle": bundle_digest}
    if spots:
        inputs["spots"] = f"sha256:{sha256_of_file(spots)}"
    provenance = TILES.provenance(
        sample,
        inputs=inputs,
        parameters=_parameters(plan),
    )
    write_thumbnail(outdir / "thumbnail.png", overview.pixels)
    write_tissue(outdir / "tissue.png", found)
    meter = _meter(found, thumbnail_um_per_px, slide, geometry)
    tile_count = _write_tiles(outdir / "tiles.parquet", plan, meter, provenance)
    record = SlideRecord(
        sample=sample,
        slide_digest=slide_digest,
        bundle_digest=bundle_digest,
        **vars(slide.facts),
        **_tile_facts(plan),
        tile_count=tile_count,
        thumbnail_um_per_px=thumbnail_um_per_px,
        **_tissue_facts(found, thumbnail_um_per_px, slide),
    )
    write_json(outdir / "slide.json", record)
    return record


def _lay_out(slide: Slide, geometry: TileGeometry, spots: Path | None, min_tissue: float) -> _Plan:
    facts = slide.facts
    size_px = (facts.width_px, facts.height_px)
    if spots is None:
        grid = Grid(*size_px, pitch_level0_px=geometry.pitch_um / facts.um_per_px)
        return _Plan(grid, geometry.pitch_um, geometry, min_tissue)
    measured = read_spots(spots, slide_size_px=size_px)
    pitch_um = _spot_pitch_um(measured, um_per_px=facts.um_per_px, where=str(spots))
    return _Plan(measured, pitch_um or geometry.pitch_um, geometry, min_tissue)


def _spot_pitch_um(spots: MeasuredSpots, *, um_per_px: float, where: str) -> float | None:
    pitch_level0_px = spots.pitch_level0_px()
    if pitch_level0_px is None:
        return None
    pitch_um = pitch_level0_px * um_per_px
    if pitch_um < MIN_SPOT_PITCH_UM:
        raise DataError(
            f"spots {pitch_um:.2g} um apart",
            expected=f"centres in pixels of the image at full resolution, at least {MIN_SPOT_PITCH_UM:g} um apart",
            where=where,
            advice="positions on the array are not pixels: give the pixel columns as x and y",
        )
    return pitch_um


def _meter(found: TissueMap, thumbnail_um_per_px: float, slide: Slide, geometry: TileGeometry) -> QualityMeter:
    um_per_px = slide.facts.um_per_px
    return QualityMeter(
        found,
        downsample=thumbnail_um_per_px / um_per_px,
        extent_level0_px=geometry.tile_px * geometry.um_per_px / um_per_px,
    )


def _tile_facts(plan: _Plan) -> dict[str, Any]:
    return {
        "tile_px": plan.geometry.tile_px,
        "requested_um_per_px": plan.geometry.um_per_px,
        "pitch_um": plan.pitch_um,
        "layout": "grid" if isinstance(plan.layout, Grid) else "spots",
    }


def _tissue_facts(found: TissueMap, thumbnail_um_per_px: float, slide: Slide) -> dict[str, Any]:
    # In pixels of the thumbnail, whose last row and column may reach beyond the slide.
    facts = slide.facts
    slide_px = facts.width_px * facts.height_px * (facts.um_per_px / thumbnail_um_per_px) ** 2
    return {
        "tissue_area_mm2": float(np.count_nonzero(found.tissue)) * (thumbnail_um_per_px / 1000) ** 2,
        "pen_fraction": min(1.0, float(np.count_nonzero(found.pen)) / slide_px),
        "unreadable_fraction": min(1.0, float(np.count_nonzero(found.unreadable)) / slide_px),
        "stain_absorbance": found.stain_absorbance,
        "colourless": found.colourless,
    }


def _parameters(plan: _Plan) -> dict[str, Any]:
    parameters = {**_tile_facts(plan), "thumbnail_px": THUMBNAIL_PX}
    if isinstance(plan.layout, Grid):
        parameters |= {"min_tissue": plan.min_tissue, "max_pen_fraction": MAX_PEN_FRACTION}
    return parameters


def _write_tiles(path: Path, plan: _Plan, meter: QualityMeter, provenance: Provenance) -> int:
    """Write the tiles part by part and return how many of them are in tissue."""
    tile_count = 0
    schema = TILES.arrow()
    layout = plan.layout
    parts = _grid_rows(layout, meter, plan.min_tissue) if isinstance(layout, Grid) else _spot_rows(layout, meter)
    with parquet_writer(path, schema, provenance) as writer:
        for columns in parts:
            writer.write_table(pa.table(columns, schema=schema))
            tile_count += int(np.count_nonzero(columns["in_tissue"]))
    return tile_count


def _spot_rows(spots: MeasuredSpots, meter: QualityMeter) -> Iterator[dict[str, Any]]:
    quality = meter.measure(spots.centres_level0_px())
    yield {
        "tile_id": spots.row_major_rank(),
        "spot": pa.array(spots.names, pa.string()),
        "x_level0_px": spots.x_level0_px,
        "y_level0_px": spots.y_level0_px,
        "array_row": spots.array_row,
        "array_col": spots.array_col,
        **_quality_columns(quality),
        "in_tissue": spots.in_tissue,
    }


def _grid_rows(grid: Grid, meter: QualityMeter, min_tissue: float) -> Iterator[dict[str, Any]]:
    for part in grid.parts():
        quality = meter.measure(part.centres_level0_px)
        kept = quality.presumed_fraction > 0
        if not kept.any():
            continue
        in_tissue = (quality.presumed_fraction >= min_tissue) & (quality.pen_fraction <= MAX_PEN_FRACTION)
        yield {
            "tile_id": part.tile_id[kept].astype(np.int32),
            "spot": pa.nulls(int(kept.sum()), pa.string()),
            "x_level0_px": part.centres_level0_px[kept, 0],
            "y_level0_px": part.centres_level0_px[kept, 1],
            "array_row": part.row[kept].astype(np.int32),
            "array_col": part.column[kept].astype(np.int32),
            **{name: values[kept] for name, values in _quality_columns(quality).items()},
            "in_tissue": in_tissue[kept],
        }


def _quality_columns(quality: TileQuality) -> dict[str, Any]:
    return {name: getattr(quality, name) for name in ("tissue_fraction", "pen_fraction", "blur")}
