"""REPORT: one self-contained page per sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocast.stages.slide_stage import RecordedSlideStage
from histocast.stages.stage import ReportGenes, Thumbnail, Tiles

if TYPE_CHECKING:
    from histocast.records import Facts, Verdict


class Report(RecordedSlideStage):
    """Write the page of one sample: <sample>.html."""

    stage_name = "report"
    expression: Path
    """<sample>.h5ad of 'predict'."""
    tiles: Tiles
    thumbnail: Thumbnail
    tissue: Path
    """tissue.png of 'tile'."""
    report_genes: ReportGenes = None

    def work(self) -> tuple[Facts, Verdict]:
        """Write the page; return its digest and the verdict it shows (see `histocast.report.report_sample`)."""
        from histocast.bundle import sha256_of_file
        from histocast.report import report_sample

        verdict = report_sample(
            expression=self.expression,
            record=self.record,
            tiles=self.tiles,
            thumbnail=self.thumbnail,
            tissue=self.tissue,
            report_genes=self.report_genes,
            outdir=self.outdir,
        )
        return {"html_sha256": sha256_of_file(self.outdir / f"{self.record.sample}.html")}, verdict
