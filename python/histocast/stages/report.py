"""REPORT: one self-contained page per sample."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from histocast.errors import ConfigError, UsageError
from histocast.stages.slide_stage import RecordedSlideStage
from histocast.stages.stage import FORMATS, Formats, ReportGenes, Thumbnail, Tiles

if TYPE_CHECKING:
    from histocast.records import Facts, Verdict

SPATIALDATA = "spatialdata"
WRITTEN_AS = {"geojson": "geojson", "zarr": "zarr.zip", SPATIALDATA: "spatialdata.zarr"}
"""How the names of files of a format end, by format."""
PAGE_FACT = "page"
"""Fact of a sample without a page, ``none``."""


class Report(RecordedSlideStage):
    """Write the page of one sample, and files for other programs.

    Writes <sample>.html and, with --formats, <sample>.geojson for QuPath, <sample>.zarr.zip and the folder
    <sample>.spatialdata.zarr.
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
    cohort: bool = False
    """Whether the page links to cohort/cohort.html of its run, which COHORT writes afterwards."""
    formats: Formats = None

    def work(self) -> tuple[Facts, Verdict]:
        """Write the files; return their digests and the verdict (see `histocast.report.report_sample`)."""
        from histocast.bundle import sha256_of_file, sha256_of_folder
        from histocast.report.sample import PageFile, report_sample

        formats = read_formats(self.formats)
        kinds = [] if self.no_page else ["html"]
        kinds += [kind for name, kind in WRITTEN_AS.items() if name in formats]
        path_of = {kind: self.outdir / f"{self.record.sample}.{kind}" for kind in kinds}
        verdict = report_sample(
            expression=self.expression,
            record=self.record,
            tiles=self.tiles,
            thumbnail=self.thumbnail,
            tissue=self.tissue,
            report_genes=self.report_genes,
            page=None if self.no_page else PageFile(path_of["html"], has_cohort=self.cohort),
            geojson=path_of.get("geojson"),
        )
        self._write_stores(path_of)
        facts: Facts = {
            f"{kind}_sha256": (sha256_of_folder if path.is_dir() else sha256_of_file)(path)
            for kind, path in path_of.items()
        }
        return {**facts, **({PAGE_FACT: "none"} if self.no_page else {})}, verdict

    def _write_stores(self, path_of: Mapping[str, Path]) -> None:
        if path := path_of.get("zarr.zip"):
            from histocast.expression.zarr_file import write_zarr
            from histocast.resources import scratch_folder

            with scratch_folder(self.outdir) as scratch:
                write_zarr(path, self.expression, scratch=scratch)
        if path := path_of.get("spatialdata.zarr"):
            from histocast.expression.spatialdata_file import write_spatialdata

            write_spatialdata(path, self.expression, record=self.record)


def read_formats(text: str | None) -> frozenset[str]:
    """The formats that are asked for.

    Raises `UsageError`: one is unknown; `ConfigError`: the library that writes one is not installed.
    """
    formats = frozenset(part.strip() for part in (text or "").split(",") if part.strip())
    if unknown := sorted(formats - set(FORMATS)):
        raise UsageError(f"unknown: {', '.join(unknown)}", expected=f"some of {', '.join(FORMATS)}", where="--formats")
    if SPATIALDATA in formats and find_spec(SPATIALDATA) is None:
        raise ConfigError(
            "the library spatialdata is not installed",
            where="--formats spatialdata",
            advice="pip install 'histocast[spatialdata]', or leave that format out; of the images, cohort has it",
        )
    return formats
