"""SUMMARISE: every row of the samplesheet, with its outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histocast.stages.stage import Outdir, Stage

if TYPE_CHECKING:
    from histocast.records import SampleStatus


class Summarise(Stage):
    """Account for every row of the samplesheet.

    Writes summary.html, summary.parquet, histocast_mqc.json, outcomes.json and <sample>/status.json. Prints one line for each
    sample that failed.
    """

    samples: Path
    """samples.json of 'check'."""
    status: tuple[Path, ...]
    """A <stage>.status.json, or a folder of them; may be repeated."""
    cohort: bool = False
    """Whether summary.html links to cohort/cohort.html, which COHORT writes afterwards."""
    outdir: Outdir = Path()

    def run(self) -> Sequence[SampleStatus]:
        """Do the work; return how each sample ended, in the samplesheet's order."""
        from histocast.records import CheckRecord, StatusRecord, read_record
        from histocast.stages.write_summary import write_summary

        files = [
            file for path in self.status for file in (sorted(path.rglob("*.status.json")) if path.is_dir() else [path])
        ]
        statuses = [read_record(file, StatusRecord) for file in files]
        return write_summary(read_record(self.samples, CheckRecord), statuses, self.outdir, has_cohort=self.cohort)

    def lines(self, result: Sequence[SampleStatus]) -> Iterator[str]:
        """One line for each sample that failed."""
        for sample in result:
            for stage in sample.stages:
                if stage.error:
                    yield f"{sample.sample}, {stage.stage}: {stage.error.message.splitlines()[0]}"
