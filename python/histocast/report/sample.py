"""REPORT: one self-contained page a sample."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocast import __version__
from histocast.artifacts import BLURRED
from histocast.records import SlideRecord, Verdict
from histocast.report import accuracy
from histocast.report.canvas import Canvas
from histocast.report.geojson import write_geojson
from histocast.report.maps import make_maps, make_picture
from histocast.report.page import THIN_SPACE, count, percent, plural, write_page
from histocast.report.pictures import (
    PEN,
    UNREADABLE,
    Rgb,
    draw_tissue,
    fit_within,
    read_rgb,
    read_tissue,
)
from histocast.report.sample_data import SampleData, open_columns, read_sample
from histocast.report.verdict import decide_verdict
from histocast.report.viewer import make_viewer

SHOWN_GENES, SHOWN_UNSEEN = 9, 6

# Two pictures of the slide and eleven maps stay below 0.8 MB, or 1.1 MB as text, and leave the rest of the page to values.
SLIDE_PX, SLIDE_BYTES = 900, 150_000


@dataclass(frozen=True)
class PageFile:
    """A page to write, and what it links to."""

    path: Path
    has_cohort: bool = False
    """Whether it links to the page of the run's cohort."""


def report_sample(
    *,
    expression: Path,
    record: SlideRecord,
    tiles: Path,
    thumbnail: Path,
    tissue: Path,
    page: PageFile | None,
    geojson: Path | None = None,
    report_genes: str | None = None,
) -> Verdict:
    """Write a sample's page, which needs no other file and no network; return the verdict it shows.

    With scripts it is a viewer of every gene that fits; without, and on paper, it has the maps of a few.

    ``expression``: ``<sample>.h5ad``; everything about the model comes from it.
    ``tiles``: ``tiles.parquet``, for the tiles that are not in tissue.
    ``page``, ``geojson``: files to write: the page, and tiles with the values of the static maps' genes for QuPath;
        none where None.
    ``report_genes``: genes of the static maps, by symbol or identifier, with commas between them; default: genes
        predicted well whose maps differ.
    Raises `MissingInputError` or `DataError`: an input is absent, not what its stage writes, or of another sample;
    `OutputError`: the page cannot be written.
    """
    data = read_sample(
        expression,
        sample=record.sample,
        shown_genes=SHOWN_GENES,
        shown_unseen=SHOWN_UNSEEN,
        names=report_genes,
    )
    verdict = decide_verdict(data, record)
    mask = read_tissue(tissue, sample=record.sample)
    if geojson is not None:
        write_geojson(geojson, data, record, mask)
    if page is not None:
        content = _content(data, record, mask, verdict=verdict, expression=expression, tiles=tiles, thumbnail=thumbnail)
        write_page(page.path, "sample.html", has_cohort=page.has_cohort, **content)
    return verdict


def _content(
    data: SampleData,
    record: SlideRecord,
    tissue: NDArray[np.uint8],
    *,
    verdict: Verdict,
    expression: Path,
    tiles: Path,
    thumbnail: Path,
) -> dict[str, Any]:
    """What the page shows."""
    picture = read_rgb(thumbnail, sample=record.sample)
    canvas = Canvas.over(data.centres_level0_px, thumbnail=picture, record=record)
    slide = _slide(picture, tissue, canvas, record)
    maps = make_maps(data, canvas, record)
    viewer = None
    if data.readable.any():
        with open_columns(expression, sample=record.sample) as read:
            spent = _bytes_of_pictures([slide, maps])
            viewer = make_viewer(data, record, picture, canvas, read=read, spent_bytes=spent)
    return {
        "sample": record.sample,
        "version": __version__,
        "verdict": verdict,
        "figures": _figures(data, record),
        "slide": slide,
        **maps,
        "viewer": viewer,
        "quality": _quality(data, record, laid=_count_rows(tiles)),
        "accuracy": _accuracy(data) if data.readable.any() else None,
        "intended_use": data.provenance["bundle"]["intended_use"],
        "provenance": _provenance(data, record),
    }


def _bytes_of_pictures(content: Any) -> int:
    if isinstance(content, dict):
        return len(content.get("uri", "")) + sum(_bytes_of_pictures(part) for part in content.values())
    return sum(_bytes_of_pictures(part) for part in content) if isinstance(content, list) else 0


def _accuracy(data: SampleData) -> dict[str, Any]:
    """How accurate the model was where it was measured; said of predictions, so only where there are some."""
    known = data.provenance
    return {
        "protocols": accuracy.protocols(known["metrics"]),
        "scope": accuracy.scope_sentences(known["scope"], unseen=bool(data.unseen.any())),
        "genes": accuracy.accuracy_by_gene(data),
        "table": accuracy.gene_table(data),
    }


def _count_rows(tiles: Path) -> int:
    from histocast.artifacts import TILES, open_parquet

    file, _ = open_parquet(tiles, TILES)
    with file:
        return int(file.metadata.num_rows)


def _figures(data: SampleData, record: SlideRecord) -> list[tuple[str, str]]:
    readable = data.readable
    found = [
        ("Tissue", f"{record.tissue_area_mm2:,.1f}{THIN_SPACE}mm²"),
        ("Tiles predicted" if record.layout == "grid" else "Spots predicted", count(int(readable.sum()))),
        ("Genes", count(len(data.genes))),
    ]
    if data.unseen.any():
        found.append(("Never measured", plural(int(data.unseen.sum()), "gene")))
    if readable.any():
        found.append(("Unusual tissue", percent(float(data.spots["ood_flag"].to_numpy()[readable].mean()))))
    if readable.any() and (headline := accuracy.headline(data)):
        found.append(("Accuracy (mean r)", headline))
    return found


def _slide(picture: Rgb, tissue: NDArray[np.uint8], canvas: Canvas, record: SlideRecord) -> dict[str, Any]:
    small = fit_within(picture, max_px=SLIDE_PX)
    scale = small.shape[1] / picture.shape[1]
    x, y, width, height = (round(edge * scale) for edge in canvas.frame)
    # A frame round nearly everything says nothing.
    framed = record.tile_count > 0 and width * height < 0.8 * small.shape[0] * small.shape[1]
    drawn = draw_tissue(small, tissue, frame=(x, y, width, height) if framed else None)
    um_per_px = record.thumbnail_um_per_px / scale
    return {
        "plain": make_picture(
            small, alt=f"Overview of the slide of sample {record.sample}", max_bytes=SLIDE_BYTES, um_per_px=um_per_px
        ),
        "tissue": make_picture(
            drawn,
            alt=f"The same overview with tissue outlined, {record.tissue_area_mm2:.1f} square millimetres",
            max_bytes=SLIDE_BYTES,
        ),
        "has_pen": bool((tissue == PEN).any()),
        "has_unreadable": bool((tissue == UNREADABLE).any()),
        "has_frame": framed,
    }


def _quality(data: SampleData, record: SlideRecord, *, laid: int) -> list[tuple[str, str, str]]:
    total = len(data.spots)
    lost = total - int(data.readable.sum())
    on_grid = record.layout == "grid"
    level0 = f"{record.width_px:,} \u00d7 {record.height_px:,}{THIN_SPACE}px"
    source = "as the file says" if record.um_per_px_source == "file" else "as the samplesheet says"
    tile_um = record.tile_px * record.requested_um_per_px
    rows = [
        ("Tissue", f"{record.tissue_area_mm2:,.2f}{THIN_SPACE}mm²", ""),
        ("Tiles in tissue" if on_grid else "Spots in tissue", f"{count(total)} of {count(laid)}", ""),
        ("Unreadable", f"{count(lost)} ({percent(lost / total)})" if total else "0", "hold no prediction"),
        ("Pen marks", percent(record.pen_fraction), "of the slide's area"),
    ]
    if total:
        blur = data.spots["blur"].to_numpy(np.float64)
        rows.append(("Out of focus", percent(float((blur > BLURRED).mean())), f"blur above {BLURRED}, on a scale to 1"))
    placed = f"{'on a grid' if on_grid else 'at measured spots'}, {record.pitch_um:.4g}{THIN_SPACE}µm apart"
    rows += [
        ("Slide", level0, f"{record.um_per_px:.4g}{THIN_SPACE}µm/px, {source}"),
        (
            "Tile",
            f"{tile_um:.0f} \u00d7 {tile_um:.0f}{THIN_SPACE}µm",
            f"{record.tile_px}{THIN_SPACE}px at {record.requested_um_per_px:.4g}{THIN_SPACE}µm/px, {placed}",
        ),
    ]
    return rows


def _provenance(data: SampleData, record: SlideRecord) -> list[tuple[str, str]]:
    known = data.provenance
    bundle = known["bundle"]
    encoders = ", ".join(f"{row['name']} {row['version']}" for row in known["encoders"].to_dict("records"))
    trained = json.loads(bundle["training_data"])
    rows = [
        ("Sample", record.sample),
        ("Slide", known["inputs"]["slide"]),
        ("Bundle", f"{bundle['name']} {bundle['version']}, {known['inputs']['bundle']}"),
        ("Method", f"{bundle['method']} on {encoders}"),
        ("Licence", bundle["licence"]),
        ("Scale", describe_scale(known["scale"])),
    ]
    if "genes" in known["inputs"]:
        rows.append(("Gene panel", known["inputs"]["genes"]))
    rows += [(f"Training: {key}", value) for key, value in trained.items() if isinstance(value, str | int | float)]
    parameters = "; ".join(f"{name} {_plain(value)}" for name, value in sorted(known["parameters"].items()))
    rows += [
        ("Parameters", parameters),
        ("Reader", f"{record.reader}{f', scanner {record.vendor}' if record.vendor else ''}"),
        ("Versions", f"histocast {known['histocast_version']} predicted, {__version__} made this page"),
    ]
    return rows


def describe_scale(scale: dict[str, Any]) -> str:
    """What a predicted number means, and how counts become one."""
    how = f"{scale['normalisation']}; {scale['transform']}; smoothing: {scale['smoothing']}"
    return f"{scale['name']}: {scale['description']} ({how})"


def _plain(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)
