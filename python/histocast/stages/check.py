"""CHECK: every row of a samplesheet, the bundle and the genes, before the first slide is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from histocast.stages.environment import fetch_bundle, triton_url
from histocast.stages.stage import BundleUri, Formats, Outdir, ReportGenes, SelectedGenes, Stage, Uri

if TYPE_CHECKING:
    from histocast.records import CheckRecord


class Check(Stage):
    """Check the samplesheet, the bundle and the genes to predict.

    Writes samples.json.
    """

    input: Uri
    """Samplesheet CSV: sample,slide[,mpp][,spots]."""
    bundle: BundleUri
    genes: SelectedGenes = None
    report_genes: ReportGenes = None
    on_slide_error: Literal["fail", "skip"] = "fail"
    """Whether a missing slide fails the sheet."""
    allow_metadata: str | None = None
    """Columns of metadata, with commas between them, that are taken although their names suggest an identifier of a
    person."""
    cohort: bool = False
    """Whether the slides will be gathered as one data set: then a bundle is refused whose predictions cannot be compared
    between slides."""
    formats: Formats = None
    outdir: Outdir = Path()

    def run(self) -> CheckRecord:
        """Do the work; return the record that was written."""
        from histocast.artifacts import write_json
        from histocast.expression.slide_summary import refuse_incomparable
        from histocast.progress import log
        from histocast.resources import scratch_folder
        from histocast.stages.check_samples import check_samples
        from histocast.stages.report import read_formats
        from histocast.storage import fetch_file

        read_formats(self.formats)
        with scratch_folder(self.outdir) as scratch:
            folder, bundle = fetch_bundle(self.bundle, self.outdir)
            record = check_samples(
                self.input,
                bundle_folder=folder,
                genes=fetch_file(self.genes, scratch) if self.genes else None,
                report_genes=self.report_genes,
                on_slide_error=self.on_slide_error,
                triton_url=triton_url(),
                allow_metadata=self.allow_metadata,
            )
            if self.cohort:
                refuse_incomparable(bundle)
        write_json(self.outdir / "samples.json", record)
        log(f"check: {len(record.samples)} samples, bundle {record.bundle_digest[:19]}")
        return record
