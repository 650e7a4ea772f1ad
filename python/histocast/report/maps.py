"""The static maps of a sample's page: genes, uncertainty and unusual tissue."""

from __future__ import annotations

from typing import Any

import numpy as np

from histocast.fusion.selected_genes import EVIDENCE, NEAREST_GENE
from histocast.records import SlideRecord
from histocast.report import accuracy
from histocast.report.canvas import Canvas
from histocast.report.colour_scale import ColourScale, colour_table, is_flat
from histocast.report.page import THIN_SPACE, count, percent, plural, scale_bar
from histocast.report.pictures import Rgb, jpeg_uri, png_uri
from histocast.report.sample_data import SampleData

MAP_BYTES = 40_000


def make_maps(data: SampleData, canvas: Canvas, record: SlideRecord) -> dict[str, Any]:
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
        "unseen_intro": accuracy.unseen_sentence(data),
        "gene_bar": _bar(values, f"Predicted expression, {scale['name']}: {scale['description']}."),
        "gene_count": count(len(data.genes)),
        "lost": f"{plural(lost, unit)} that could not be read" if lost else "",
        "uncertainty": _uncertainty(data, canvas, record, unit=unit),
        "unusual": {
            "map": make_picture(
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
        "map": make_picture(canvas.paint(spread, scale), alt=alt, max_bytes=MAP_BYTES),
        "bar": _bar(scale, f"Standard deviation, in units of {data.provenance['scale']['name']}."),
        "flat": "",
    }


def _genes_intro(data: SampleData, number: int) -> str:
    """About the ``number`` genes shown that the model was trained on."""
    if data.selected:
        return "The genes that were asked for; r is a gene's accuracy: its correlation on sections that the model had not seen."
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
    known = float(gene["val_pcc"]) if np.isfinite(gene["val_pcc"]) else None
    return {
        "symbol": gene["gene_symbol"],
        "accuracy": f"r = {accuracy.signed(known)}" if known is not None else "",
        "evidence": accuracy.describe_evidence(gene[EVIDENCE], gene[NEAREST_GENE]),
        "range": f"{accuracy.signed(low)} to {accuracy.signed(high)} here",
        "map": make_picture(
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


def make_picture(image: Rgb, *, alt: str, max_bytes: int, um_per_px: float | None = None) -> dict[str, Any]:
    """A picture as a template takes it, with a scale bar where its resolution is given."""
    height, width = image.shape[:2]
    return {
        "uri": jpeg_uri(image, max_bytes=max_bytes),
        "width": width,
        "height": height,
        "alt": alt,
        "scale_bar": scale_bar(width, um_per_px) if um_per_px else None,
    }
