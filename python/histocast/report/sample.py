"""REPORT: one self-contained page a sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocast import __version__
from histocast.artifacts import BLURRED
from histocast.records import SlideRecord, Verdict
from histocast.report import worth
from histocast.report.canvas import Canvas
from histocast.report.colour import ColourScale, colour_table, is_flat
from histocast.report.page import THIN_SPACE, count, percent, plural, scale_bar, write_page
from histocast.report.pictures import (
    PEN,
    UNREADABLE,
    Rgb,
    draw_tissue,
    fit_within,
    jpeg_uri,
    png_uri,
    read_rgb,
    read_tissue,
)
from histocast.report.sample_data import SampleData, open_columns, read_sample
from histocast.report.verdict import decide_verdict
from histocast.report.viewer import make_viewer
from histocast.serving.asked_genes import EVIDENCE, NEAREST_GENE

SHOWN_GENES, SHOWN_UNSEEN = 9, 6

# Two pictures of the slide and eleven maps stay below 0.8 MB, or 1.1 MB as text, and leave the rest of the page to values.
SLIDE_PX, SLIDE_BYTES = 900, 150_000
MAP_BYTES = 40_000


def report_sample(
    *, expression: Path, record: SlideRecord, tiles: Path, thumbnail: Path, tissue: Path, outdir: Path
) -> Verdict:
    """Write ``<sample>.html``, which needs no other file and no network; return the verdict it shows.

    With scripts it is a viewer of every gene that fits; without, and on paper, it has the maps of a few.

    Parameters
    ----------
    expression:
        ``<sample>.h5ad``; everything about the model comes from it.
    tiles:
        ``tiles.parquet``, for the tiles that are not in tissue.

    Raises
    ------
    MissingInputError, DataError
        An input is absent, not what its stage writes, or of another sample.
    OutputError
        The page cannot be written.
    """
    data = read_sample(expression, sample=record.sample, shown_genes=SHOWN_GENES, shown_unseen=SHOWN_UNSEEN)
    picture = read_rgb(thumbnail, sample=record.sample)
    canvas = Canvas.over(data.centres_level0_px, thumbnail=picture, record=record)
    known = data.provenance
    verdict = decide_verdict(data, record)
    slide = _slide(picture, read_tissue(tissue, sample=record.sample), canvas, record)
    maps = _maps(data, canvas, record)
    viewer = None
    if data.readable.any():
        with open_columns(expression, sample=record.sample) as read:
            spent = _bytes_of_pictures([slide, maps])
            viewer = make_viewer(data, record, picture, canvas, read=read, spent_bytes=spent)
    write_page(
        outdir / f"{record.sample}.html",
        "sample.html",
        sample=record.sample,
        version=__version__,
        verdict=verdict,
        figures=_figures(data, record),
        slide=slide,
        **maps,
        viewer=viewer,
        quality=_quality(data, record, laid=_count_rows(tiles)),
        accuracy=_accuracy(data) if data.readable.any() else None,
        intended_use=known["bundle"]["intended_use"],
        provenance=_provenance(data, record),
    )
    return verdict


def _bytes_of_pictures(content: Any) -> int:
    if isinstance(content, dict):
        return len(content.get("uri", "")) + sum(_bytes_of_pictures(part) for part in content.values())
    return sum(_bytes_of_pictures(part) for part in content) if isinstance(content, list) else 0


def _accuracy(data: SampleData) -> dict[str, Any]:
    """How accurate the model was where it was measured; said of predictions, so only where there are some."""
    known = data.provenance
    return {
        "protocols": worth.protocols(known["metrics"]),
        "calibration": worth.calibration_sentence(known["calibration"], unseen=bool(data.unseen.any())),
        "genes": worth.accuracy(data),
        "table": worth.gene_table(data),
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
    if readable.any() and (accuracy := worth.headline(data)):
        found.append(("Accuracy (mean r)", accuracy))
    return found


def _picture(image: Rgb, *, alt: str, max_bytes: int, um_per_px: float | None = None) -> dict[str, Any]:
    height, width = image.shape[:2]
    return {
        "uri": jpeg_uri(image, max_bytes=max_bytes),
        "width": width,
        "height": height,
        "alt": alt,
        "scale_bar": scale_bar(width, um_per_px) if um_per_px else None,
    }


def _slide(picture: Rgb, tissue: NDArray[np.uint8], canvas: Canvas, record: SlideRecord) -> dict[str, Any]:
    small = fit_within(picture, max_px=SLIDE_PX)
    scale = small.shape[1] / picture.shape[1]
    x, y, width, height = (round(edge * scale) for edge in canvas.frame)
    # A frame round nearly everything says nothing.
    framed = record.tile_count > 0 and width * height < 0.8 * small.shape[0] * small.shape[1]
    drawn = draw_tissue(small, tissue, frame=(x, y, width, height) if framed else None)
    um_per_px = record.thumbnail_um_per_px / scale
    return {
        "plain": _picture(
            small, alt=f"Overview of the slide of sample {record.sample}", max_bytes=SLIDE_BYTES, um_per_px=um_per_px
        ),
        "tissue": _picture(
            drawn,
            alt=f"The same overview with tissue outlined, {record.tissue_area_mm2:.1f} square millimetres",
            max_bytes=SLIDE_BYTES,
        ),
        "has_pen": bool((tissue == PEN).any()),
        "has_unreadable": bool((tissue == UNREADABLE).any()),
        "has_frame": framed,
    }


def _maps(data: SampleData, canvas: Canvas, record: SlideRecord) -> dict[str, Any]:
    """Everything drawn on the canvas; no gene where no spot was predicted."""
    readable = data.readable
    unit = "tile" if record.layout == "grid" else "spot"
    if not readable.any():
        return {"genes": [], "unseen": [], "lost": ""}
    values = ColourScale.over(data.maps)
    flags = data.spots["ood_flag"].to_numpy(bool)
    flagged = int(flags[readable].sum())
    scale = data.provenance["scale"]
    unusual_text = (
        f"{plural(flagged, unit)} of {count(int(readable.sum()))} "
        f"({percent(flagged / int(readable.sum()))}); about 1{THIN_SPACE}% would be expected."
    )
    lost = int((~readable).sum())
    genes = [_gene(data, canvas, place, values) for place in range(len(data.shown))]
    measured = int((~data.unseen[data.shown]).sum())
    return {
        "genes": genes[:measured],
        "genes_intro": _genes_intro(data, measured),
        "unseen": genes[measured:],
        "unseen_intro": worth.unseen_sentence(data),
        "gene_bar": _bar(values, f"Predicted expression, {scale['name']}: {scale['description']}."),
        "gene_count": count(len(data.genes)),
        "lost": f"{plural(lost, unit)} that could not be read" if lost else "",
        "uncertainty": _uncertainty(data, canvas, record, unit=unit),
        "unusual": {
            "map": _picture(
                canvas.paint_flags(flags, readable),
                alt=f"Map of unusual tissue: {flagged} of {int(readable.sum())} {unit}s",
                max_bytes=MAP_BYTES,
            ),
            "text": unusual_text,
        },
    }


def _uncertainty(data: SampleData, canvas: Canvas, record: SlideRecord, *, unit: str) -> dict[str, Any]:
    """The map of uncertainty, from 0; a sentence in its place where it is nearly the same everywhere."""
    spread = data.spots["mean_sd"].to_numpy(np.float32)
    if is_flat(spread):
        low, high = np.nanpercentile(spread, [1, 99])
        flat = (
            f"The uncertainty that the model states hardly varies between {unit}s: its standard deviation, mean over all "
            f"genes, is {low:.2f} to {high:.2f}. A map of it would show nothing, so there is none."
        )
        return {"map": None, "bar": None, "flat": flat}
    scale = ColourScale.from_zero(spread, palette="cividis")
    alt = f"Map of uncertainty, sample {record.sample}"
    return {
        "map": _picture(canvas.paint(spread, scale), alt=alt, max_bytes=MAP_BYTES),
        "bar": _bar(scale, f"Standard deviation, in units of {data.provenance['scale']['name']}."),
        "flat": "",
    }


def _genes_intro(data: SampleData, number: int) -> str:
    """About the ``number`` genes shown that the model was trained on."""
    known = np.isfinite(data.genes["val_pcc"].to_numpy(np.float64, na_value=np.nan)[data.shown[:number]])
    if number == 1:
        return "The one gene that the model was trained on."
    if not known.any():
        return f"The {number} genes that vary most over this slide; how well each is predicted is not known."
    return (
        f"{number} genes of those that the model predicts best, chosen so that their maps differ; r is a gene's accuracy: "
        "its correlation on sections that the model had not seen."
    )


def _gene(data: SampleData, canvas: Canvas, place: int, scale: ColourScale) -> dict[str, Any]:
    values = data.maps[:, place]
    gene = data.genes.iloc[int(data.shown[place])]
    low, high = np.nanpercentile(values, [1, 99])
    accuracy = float(gene["val_pcc"]) if np.isfinite(gene["val_pcc"]) else None
    return {
        "symbol": gene["gene_symbol"],
        "accuracy": f"r = {worth.signed(accuracy)}" if accuracy is not None else "",
        "evidence": worth.describe_evidence(gene[EVIDENCE], gene[NEAREST_GENE]),
        "range": f"{worth.signed(low)} to {worth.signed(high)} here",
        "map": _picture(
            canvas.paint(values, scale),
            alt=f"Map of predicted {gene['gene_symbol']}, from {low:.2f} to {high:.2f}",
            max_bytes=MAP_BYTES,
            um_per_px=canvas.um_per_px if place == 0 else None,
        ),
    }


def _bar(scale: ColourScale, label: str) -> dict[str, Any]:
    return {
        "uri": png_uri(colour_table(scale.palette)[None]),
        "ticks": scale.ticks(),
        "low": f"{scale.low:.2f}",
        "high": f"{scale.high:.2f}",
        "label": label,
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
        ("Scale", f"{known['scale']['normalisation']}; {known['scale']['transform']}; {known['scale']['smoothing']}"),
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


def _plain(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)
