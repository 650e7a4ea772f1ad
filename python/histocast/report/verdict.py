"""The verdict on one prediction: whether there is one, and which reservations a reader must know."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import BLURRED, UNDER_INK
from histocast.records import Reservation, ReservationKind, SlideRecord, Verdict
from histocast.report.page import THIN_SPACE, percent, plural
from histocast.report.sample_data import SampleData

BLURRED_SHARE = 0.1
UNUSUAL_SHARE = 0.05
"""One tile in a hundred is flagged on tissue like the training's; five times that is another kind of tissue."""
PEN_SHARE = 0.005
FEW_TILES = 20
COARSER = 1.2
"""Enlarging tiles by a fifth is within what training augments; beyond it, nuclei lose detail."""
CONTRADICTION = 0.05
"""Resolutions that differ by less are the same one, rounded."""
FAINT_ABSORBANCE = 0.08
"""Median green absorbance of tissue: 0.15 to 0.45 on ordinary stains. Below this, pale tissue passes for glass."""


def decide_verdict(data: SampleData, record: SlideRecord) -> Verdict:
    """Return the verdict on the prediction ``data`` of the slide ``record``.

    It is ``good`` only where something was predicted and there is no reservation.
    """
    total = len(data.spots)
    predicted = int(data.readable.sum())
    unit = "tile" if record.layout == "grid" else "measured spot"
    found = tuple(_reservations(data, record, unit=unit))
    if total == 0:
        where = "on this slide" if record.layout == "grid" else "at the given spots"
        summary = f"No tissue was found {where}, so there was nothing to predict. The output files are complete and hold no row."
        return Verdict(level="empty", headline="No tissue found", summary=summary, reservations=found)
    if predicted == 0:
        summary = f"None of {plural(total, unit)} could be read."
        return Verdict(level="empty", headline="Nothing predicted", summary=summary, reservations=found)
    unseen = int(data.unseen.sum())
    summary = (
        f"{plural(len(data.genes), 'gene')} predicted at {plural(predicted, unit)}, "
        f"on {record.tissue_area_mm2:,.1f}{THIN_SPACE}mm² of tissue."
        + (f" {plural(unseen, 'gene')} of these the model never saw measured." if unseen else "")
    )
    if found:
        return Verdict(level="reserved", headline="Predicted, with reservations", summary=summary, reservations=found)
    summary += " No reservation on the quality of the slide."
    return Verdict(level="good", headline="Predicted", summary=summary)


def _reservations(data: SampleData, record: SlideRecord, *, unit: str) -> list[Reservation]:
    found = chain(_of_the_prediction(data, unit=unit), _of_the_slide(record))
    return [Reservation(kind=kind, text=text) for kind, text in found]


def _of_the_prediction(data: SampleData, *, unit: str) -> Iterator[tuple[ReservationKind, str]]:
    total, readable = len(data.spots), data.readable
    predicted = int(readable.sum())
    if total == 0:
        yield "no_tissue", "No tissue was found, and nothing was predicted."
        return
    unusual = _share(data.spots["ood_flag"].to_numpy(bool)[readable])
    if unusual > UNUSUAL_SHARE:
        yield (
            "unusual_tissue",
            (
                f"{percent(unusual)} of the {unit}s look unlike the tissue the model was trained on (about 1{THIN_SPACE}% "
                "would be expected). The maps are unreliable there; see which in the map of unusual tissue."
            ),
        )
    if lost := total - predicted:
        yield (
            "unreadable",
            f"{plural(lost, unit)} ({percent(lost / total)}) could not be read and hold no prediction.",
        )
    blurred = _share(data.spots["blur"].to_numpy() > BLURRED)
    if blurred > BLURRED_SHARE:
        yield "out_of_focus", f"{percent(blurred)} of the {unit}s are out of focus."
    if inked := int((data.spots["pen_fraction"].to_numpy() > UNDER_INK).sum()):
        yield "ink", f"Ink covers part of {plural(inked, unit)}; what is predicted there is of the ink as well."
    if predicted < FEW_TILES:
        yield "little_tissue", f"There is little tissue: {plural(predicted, unit)}."


def _of_the_slide(record: SlideRecord) -> Iterator[tuple[ReservationKind, str]]:
    if record.unreadable_fraction > 0:
        yield (
            "unreadable",
            (
                f"{percent(record.unreadable_fraction)} of the slide could not be read. It is grey in the pictures, and "
                "whether there is tissue is not known there."
            ),
        )
    if record.pen_fraction > PEN_SHARE:
        yield "ink", f"Pen marks cover {percent(record.pen_fraction)} of the slide."
    if record.stain_absorbance is not None and record.stain_absorbance < FAINT_ABSORBANCE:
        yield (
            "faint_stain",
            (
                f"The stain is faint: the tissue found absorbs {record.stain_absorbance:.2f} of green light (optical "
                "density; 0.15 to 0.45 is usual). Paler tissue may have been missed."
            ),
        )
    if record.colourless:
        yield (
            "no_colour",
            "The slide shows no colour at all: it is empty, or not a stained section in colour. Look at the picture.",
        )
    if record.um_per_px > COARSER * record.requested_um_per_px:
        yield (
            "coarse_scan",
            (
                f"The slide was scanned at {record.um_per_px:.3g}{THIN_SPACE}µm/px, coarser than the "
                f"{record.requested_um_per_px:.3g}{THIN_SPACE}µm/px the model takes: tiles were enlarged."
            ),
        )
    if _contradicts(record):
        yield (
            "contradicting_resolution",
            (
                f"The samplesheet says {record.um_per_px:.4g}{THIN_SPACE}µm/px, the file {record.file_um_per_px:.4g}"
                f"{THIN_SPACE}µm/px. The samplesheet's was taken; if it is wrong, so is every prediction."
            ),
        )


def _contradicts(record: SlideRecord) -> bool:
    if record.um_per_px_source == "file" or not record.file_um_per_px:
        return False
    return bool(abs(np.log(record.um_per_px / record.file_um_per_px)) > np.log1p(CONTRADICTION))


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if len(flags) else 0.0
