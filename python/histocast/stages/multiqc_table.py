"""``histocast_mqc.json``: the summary of a run as a section of a MultiQC report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import RootModel

from histocast import __version__
from histocast.artifacts import write_json

_GOOD_IS_HIGH, _GOOD_IS_LOW = "Greens", "Reds"

HEADERS: dict[str, dict[str, Any]] = {
    "outcome": {"title": "Outcome", "description": "ok, or the stage in which the slide failed", "scale": False},
    "verdict": {"title": "Verdict", "description": "Whether there are reservations", "scale": False},
    "tissue_area_mm2": {"title": "Tissue", "description": "Area of tissue", "suffix": " mm²", "scale": "Blues"},
    "spots": {"title": "Spots", "description": "Rows of the expression", "format": "{:,.0f}", "scale": "Blues"},
    "unusual_percent": {
        "title": "Unusual",
        "description": "Spots unlike the tissue the model was trained on",
        "suffix": " %",
        "min": 0,
        "max": 100,
        "scale": _GOOD_IS_LOW,
    },
    "unreadable_percent": {
        "title": "Unreadable",
        "description": "Tiles that could not be read",
        "suffix": " %",
        "min": 0,
        "max": 100,
        "scale": _GOOD_IS_LOW,
    },
    "genes": {"title": "Genes", "description": "Predicted genes", "format": "{:,.0f}", "scale": False},
    "mean_val_pcc": {
        "title": "Accuracy",
        "description": "Mean over genes of the bundle's correlation on held-out sections",
        "min": 0,
        "max": 1,
        "format": "{:.2f}",
        "scale": _GOOD_IS_HIGH,
    },
    "seconds": {"title": "Time", "description": "Of all stages", "suffix": " s", "format": "{:,.0f}", "hidden": True},
}
"""Columns, as MultiQC describes them."""


def write_multiqc(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table of all samples as MultiQC's custom content. A cell that nothing is known of is absent.

    Parameters
    ----------
    rows:
        Rows of ``summary.parquet``.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    content = {
        "id": "histocast",
        "section_name": "histocast",
        "description": f"Predicted spatial gene expression, one row per slide (histocast {__version__}).",
        "plot_type": "table",
        "pconfig": {"id": "histocast_slides", "title": "histocast: slides", "col1_header": "Sample"},
        "headers": HEADERS,
        "data": {row["sample"]: _cells(row) for row in rows},
    }
    write_json(path, RootModel[dict[str, Any]](content))


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    taken = ("verdict", "tissue_area_mm2", "spots", "genes", "mean_val_pcc")
    times = [row[name] for name in ("tile_s", "encode_s", "predict_s", "report_s") if row[name] is not None]
    cells = {
        "outcome": "ok" if row["outcome"] == "ok" else f"failed in {row['failed_stage']}",
        **{name: row[name] for name in taken},
        "unusual_percent": _percent(row["ood_flagged"], row["spots"]),
        "unreadable_percent": _percent(row["unreadable"], row["tiles"]),
        "seconds": sum(times) if times else None,
    }
    return {name: value for name, value in cells.items() if value is not None}


def _percent(part: int | None, whole: int | None) -> float | None:
    return round(100 * part / whole, 2) if whole and part is not None else None
