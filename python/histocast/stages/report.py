"""REPORT: one self-contained page per sample."""

from __future__ import annotations

from pathlib import Path

from histocast.bundle import sha256_of_file
from histocast.records import SlideRecord, Verdict
from histocast.report import report_sample
from histocast.stages.environment import Facts


def report(
    *,
    expression: Path,
    record: SlideRecord,
    tiles: Path,
    thumbnail: Path,
    tissue: Path,
    outdir: Path,
    report_genes: str | None = None,
) -> tuple[Facts, Verdict]:
    """Write ``<sample>.html``; return its digest and the verdict it shows (see `report_sample`)."""
    verdict = report_sample(
        expression=expression,
        record=record,
        tiles=tiles,
        thumbnail=thumbnail,
        tissue=tissue,
        report_genes=report_genes,
        outdir=outdir,
    )
    return {"html_sha256": sha256_of_file(outdir / f"{record.sample}.html")}, verdict
