"""Pages people read: one a sample, and one that accounts for every sample of a batch."""

from histocast.report.sample import report_sample

__all__ = ["report_sample"]
