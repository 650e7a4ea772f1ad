"""Judge every row of a samplesheet, the bundle and the panel before work begins."""

from histocast.check.check import check_samples
from histocast.check.samplesheet import SheetRow, read_samplesheet

__all__ = ["SheetRow", "check_samples", "read_samplesheet"]
