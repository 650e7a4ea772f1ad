"""COHORT: slides of one or several runs as one data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from histocast.stages.stage import TEXT, Outdir, Positional, Stage, Uri

if TYPE_CHECKING:
    from histocast.cohort.gather_cohort import Cohort as Gathered


class Cohort(Stage):
    """Gather slides of one or several runs as one data set.

    Writes slides.parquet, cohort.h5ad, cohort.html and, with --signatures, signatures.parquet. A folder that an earlier cohort was
    written to counts as results, so that adding slides reads the new ones alone.
    """

    results: Annotated[tuple[Uri, ...], Positional()]
    """Folders, or s3:// prefixes, of results or of earlier cohorts."""
    signatures: Annotated[str | None, TEXT] = None
    """GMT file of gene sets to score, from disk or s3://."""
    batch: str | None = None
    """Column of the samplesheet within whose values outliers are looked for; default: all slides together."""
    pages: str | None = None
    """Folder of the samples' pages, relative to --outdir, for links to them; default: no links."""
    outdir: Outdir = Path()

    def run(self) -> Gathered:
        """Do the work; return what was gathered."""
        from histocast.cohort.gather_cohort import gather_cohort
        from histocast.progress import log
        from histocast.resources import scratch_folder
        from histocast.storage import fetch_file

        with scratch_folder(self.outdir) as scratch:
            cohort = gather_cohort(
                self.results,
                outdir=self.outdir,
                scratch=scratch,
                signatures=fetch_file(self.signatures, scratch) if self.signatures else None,
                batch=self.batch,
                pages=self.pages,
            )
        log(f"cohort: {len(cohort.slides)} slides, {cohort.model.genes.num_rows} genes")
        return cohort
