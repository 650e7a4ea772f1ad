"""REPORT: one self-contained page per sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocast.errors import UsageError
from histocast.stages.slide_stage import RecordedSlideStage
from histocast.stages.stage import ReportGenes, Thumbnail, Tiles

if TYPE_CHECKING:
    from histocast.records import Facts, Verdict

FORMATS = ("h5ad", "parquet", "geojson", "zarr")
PAGE_FACT = "page"
"""Fact of a sample without a page, ``none``."""


class Report(RecordedSlideStage):
    """Write the page of one sample, and files for other programs.

    Writes <sample>.html and, with --formats, <sample>.geojson for QuPath and <sample>.zarr.zip.
    """

    stage_name = "report"
    expression: Path
    """<sample>.h5ad of 'predict'."""
    tiles: Tiles
    thumbnail: Thumbnail
    tissue: Path
    """tissue.png of 'tile'."""
    report_genes: ReportGenes = None
    no_page: bool = False
    """Write no page; the verdict is stated even so."""
    formats: str | None = None
    """Formats to write, with commas between them: geojson, zarr; h5ad and parquet are those of 'predict'."""

    def work(self) -> tuple[Facts, Verdict]:
        """Write the files; return their digests and the verdict (see `histocast.report.report_sample`)."""
        from histocast.bundle import sha256_of_file
        from histocast.expression.zarr_file import write_zarr
        from histocast.report import report_sample
        from histocast.resources import scratch_folder

        formats = read_formats(self.formats)
        path_of = {kind: self.outdir / f"{self.record.sample}.{kind}" for kind in ("html", "geojson", "zarr.zip")}
        verdict = report_sample(
            expression=self.expression,
            record=self.record,
            tiles=self.tiles,
            thumbnail=self.thumbnail,
            tissue=self.tissue,
            report_genes=self.report_genes,
            page=None if self.no_page else path_of["html"],
            geojson=path_of["geojson"] if "geojson" in formats else None,
        )
        if "zarr" in formats:
            with scratch_folder(self.outdir) as scratch:
                write_zarr(path_of["zarr.zip"], self.expression, scratch=scratch)
        kinds = {"html": not self.no_page, "geojson": "geojson" in formats, "zarr.zip": "zarr" in formats}
        facts: Facts = {f"{kind}_sha256": sha256_of_file(path_of[kind]) for kind, is_made in kinds.items() if is_made}
        return {**facts, **({PAGE_FACT: "none"} if self.no_page else {})}, verdict


def read_formats(text: str | None) -> frozenset[str]:
    """The formats that are asked for.

    Raises `UsageError`: one is unknown.
    """
    formats = frozenset(part.strip() for part in (text or "").split(",") if part.strip())
    if unknown := sorted(formats - set(FORMATS)):
        raise UsageError(f"unknown: {', '.join(unknown)}", expected=f"some of {', '.join(FORMATS)}", where="--formats")
    return formats
