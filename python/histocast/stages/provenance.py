"""PROVENANCE: a run of the predict workflow as an RO-Crate."""

from __future__ import annotations

from pathlib import Path

from histocast.stages.stage import Outdir, RunFile, Stage


class Provenance(Stage):
    """Describe a run and its results as an RO-Crate.

    Writes provenance.json.
    """

    run_file: RunFile
    samples: Path
    """samples.json of 'check'."""
    outcomes: Path
    """outcomes.json of 'summarise'."""
    outdir: Outdir = Path()

    def run(self) -> None:
        """Do the work."""
        from datetime import UTC, datetime

        from histocast.artifacts import write_json
        from histocast.records import BatchStatus, CheckRecord, RunRecord, read_record
        from histocast.stages.describe_run import describe_run

        crate = describe_run(
            read_record(self.run_file, RunRecord),
            check=read_record(self.samples, CheckRecord),
            batch=read_record(self.outcomes, BatchStatus),
            ended=datetime.now(UTC),
        )
        write_json(self.outdir / "provenance.json", crate)
