"""``summary.html``: outcomes of a run by cause, and the first hundred rows of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from histocast import __version__
from histocast.records import CheckRecord, SampleStatus, Stage
from histocast.report.page import count, percent, plural, write_page
from histocast.stages.report import PAGE_FACT

SLIDE_STAGES: tuple[Stage, ...] = ("tile", "encode", "predict", "report")

DID_NOT_RUN = "DidNotRun"

Level = Literal["good", "reserved", "empty"]

MOST_ROWS = 100
"""Of each list of the summary page; summary.parquet has every row."""

VERDICTS = {"good": "predicted", "reserved": "with reservations", "empty": "nothing predicted"}
"""Levels of a verdict as the summary page names them."""


def _bottlenecks(results: Sequence[SampleStatus]) -> list[str]:
    """What ENCODE and PREDICT spent most of their time on, by slides; nothing where no record says."""
    sentences = []
    for stage, verb in (("encode", "Encoding"), ("predict", "Predicting")):
        said = Counter(
            str(record.facts["bottleneck"])
            for result in results
            for record in result.stages
            if record.stage == stage and "bottleneck" in record.facts
        )
        listed = "; ".join(f"{what} ({plural(slides, 'slide')})" for what, slides in said.most_common())
        if listed:
            sentences.append(f"{verb} spent most time on: {listed}.")
    return sentences


def write_summary_page(
    path: Path,
    check: CheckRecord,
    results: Sequence[SampleStatus],
    rows: Sequence[dict[str, Any]],
    *,
    has_cohort: bool,
) -> None:
    """Write ``summary.html`` of ``results`` and their ``rows`` of ``summary.parquet``.

    Raises `OutputError`: it cannot be written.
    """
    failures = [row for row in rows if row["outcome"] == "failed"]
    finished = [row for row in rows if row["outcome"] == "ok"]
    without_page = {result.sample for result in results if any(PAGE_FACT in stage.facts for stage in result.stages)}
    reserved = [result for result in results if result.verdict and result.verdict.level != "good"]
    # A record of an older version has no verdict: such a sample counts as predicted.
    levels: Counter[Level] = Counter(
        result.verdict.level if result.verdict else "good" for result in results if result.outcome == "ok"
    )
    headline = f"{count(levels['good'] + levels['reserved'])} of {plural(len(rows), 'sample')} predicted"
    write_page(
        path,
        "summary.html",
        headline=headline,
        colour="failed" if failures else "good" if levels["good"] == len(rows) else "reserved",
        sentence=_sentence(levels, failed=len(failures)),
        causes=_causes(rows),
        has_cohort=has_cohort and bool(finished),
        most_rows=MOST_ROWS,
        totals={"failures": len(failures), "reserved": len(reserved), "finished": len(finished)},
        reserved=[
            {**_page_of(result.sample, without_page), "verdict": result.verdict} for result in reserved[:MOST_ROWS]
        ],
        failures=[
            {
                "sample": row["sample"],
                "stage": row["failed_stage"],
                "kind": None if row["error_kind"] == DID_NOT_RUN else row["error_kind"],
                # Advice stands on its own line of the page; the message repeats it.
                "message": (row["message"] or "").split("\n  what to do:")[0],
                "advice": row["advice"],
            }
            for row in failures[:MOST_ROWS]
        ],
        finished=[_finished(row, without_page) for row in finished[:MOST_ROWS]],
        bottlenecks=_bottlenecks(results),
        bundle_digest=check.bundle_digest,
        genes_digest=check.genes_digest,
        version=__version__,
    )


def _causes(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """How many samples failed in which stage and why, and how many have which reservation; most frequent first."""
    failed = Counter(
        f"failed in {row['failed_stage']}: {row['error_kind']}" for row in rows if row["outcome"] == "failed"
    )
    reserved = Counter(f"reservation: {kind.replace('_', ' ')}" for row in rows for kind in row["reservations"] or ())
    return [
        {"cause": cause, "samples": count(number)}
        for found in (failed, reserved)
        for cause, number in found.most_common()
    ]


def _sentence(levels: Counter[Level], *, failed: int) -> str:
    """How the samples of a batch ended, in one line."""
    if not failed and not levels:
        return "The samplesheet has no row."
    parts = [
        f"{plural(number, 'sample')} {what}."
        for number, what in (
            (failed, "failed"),
            (levels["empty"], "finished with nothing predicted"),
            (levels["reserved"], "predicted with reservations"),
        )
        if number
    ]
    return " ".join(parts) or "Every sample was predicted, without reservations."


def _page_of(sample: str, without_page: Container[str]) -> dict[str, str]:
    link = "" if sample in without_page else f"{quote(sample)}/{quote(sample)}.html"
    return {"sample": sample, "link": link}


def _finished(row: dict[str, Any], without_page: Container[str]) -> dict[str, str]:
    spots = row["spots"]
    seconds = [row[f"{stage}_s"] for stage in SLIDE_STAGES if row[f"{stage}_s"] is not None]
    return {
        **_page_of(row["sample"], without_page),
        "verdict": VERDICTS.get(row["verdict"], "\u2013"),
        "tiles": _or_dash(row["tiles"], count),
        "area": _or_dash(row["tissue_area_mm2"], "{:,.1f}".format),
        "unreadable": _or_dash(row["unreadable"], count),
        "unusual": percent(row["ood_flagged"] / spots) if spots and row["ood_flagged"] is not None else "\u2013",
        "genes": _or_dash(row["genes"], count),
        "seconds": f"{sum(seconds):,.0f}" if seconds else "\u2013",
    }


def _or_dash(value: Any, show: Any) -> str:
    return "\u2013" if value is None else str(show(value))
