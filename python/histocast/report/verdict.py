"""What a sample's page says first: whether the prediction stands, and with which reservations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from histocast.records import SlideRecord
from histocast.report.page import THIN_SPACE, count, percent, plural
from histocast.report.sample_data import SampleData

BLURRED = 0.5
"""Blur above which a tile is called blurred; the judge's scale ends at 1."""
BLURRED_SHARE = 0.1
UNUSUAL_SHARE = 0.05
"""One tile in a hundred is flagged on tissue like the training's; five times that is another kind of tissue."""
PEN_SHARE = 0.005
FEW_TILES = 20
COARSER = 1.2
"""Enlarging tiles by a fifth is within what training augments; beyond it, nuclei lose detail."""


@dataclass(frozen=True)
class Verdict:
    """The outcome in words."""

    level: Literal["good", "reserved", "empty"]
    headline: str
    summary: str
    reservations: tuple[str, ...]


def judge(data: SampleData, record: SlideRecord) -> Verdict:
    """Read the quality of one prediction."""
    total = len(data.spots)
    predicted = int(data.readable.sum())
    unit = "tile" if record.layout == "grid" else "measured spot"
    if total == 0:
        where = "on this slide" if record.layout == "grid" else "at the given spots"
        return Verdict(
            "empty",
            "No tissue found",
            f"No tissue was found {where}, so there was nothing to predict. The output files are complete and hold no row.",
            (),
        )
    unseen = int(data.unseen.sum())
    summary = (
        f"{plural(len(data.genes), 'gene')} predicted at {plural(predicted, unit)}, "
        f"on {record.tissue_area_mm2:,.1f}{THIN_SPACE}mm² of tissue."
        + (f" {plural(unseen, 'gene')} of these the model never saw measured." if unseen else "")
    )
    found = tuple(_reservations(data, record, unit=unit))
    if predicted == 0:
        return Verdict("empty", "Nothing predicted", f"None of {plural(total, unit)} could be read.", found)
    if found:
        return Verdict("reserved", "Predicted, with reservations", summary, found)
    return Verdict("good", "Predicted", summary + " No reservation on the quality of the slide.", ())


def _reservations(data: SampleData, record: SlideRecord, *, unit: str) -> list[str]:
    total, readable = len(data.spots), data.readable
    predicted = int(readable.sum())
    found = []
    unusual = float(data.spots["ood_flag"].to_numpy()[readable].mean()) if predicted else 0.0
    if unusual > UNUSUAL_SHARE:
        found.append(
            f"{percent(unusual)} of the {unit}s look unlike the tissue the model was trained on (about 1{THIN_SPACE}% "
            "would be expected). The maps are unreliable there; see which in the map of unusual tissue."
        )
    if lost := total - predicted:
        found.append(f"{plural(lost, unit)} ({percent(lost / total)}) could not be read and hold no prediction.")
    blurred = float(np.nanmean(data.spots["blur"].to_numpy() > BLURRED))
    if blurred > BLURRED_SHARE:
        found.append(f"{percent(blurred)} of the {unit}s are out of focus.")
    if record.pen_fraction > PEN_SHARE:
        found.append(f"Pen marks cover {percent(record.pen_fraction)} of the slide.")
    if record.um_per_px > COARSER * record.requested_um_per_px:
        found.append(
            f"The slide was scanned at {record.um_per_px:.3g}{THIN_SPACE}µm/px, coarser than the "
            f"{record.requested_um_per_px:.3g}{THIN_SPACE}µm/px the model takes: tiles were enlarged."
        )
    if predicted and predicted < FEW_TILES:
        found.append(f"There is little tissue: {count(predicted)} {unit}{'s' if predicted > 1 else ''}.")
    return found
