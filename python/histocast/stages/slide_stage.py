"""A stage of one slide: how it ended is written to ``<stage>.status.json``."""

from __future__ import annotations

import time
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from histocast.errors import DataError, StaleInputError
from histocast.stages.stage import Outdir, SlideRecordFile, Stage

if TYPE_CHECKING:
    from histocast.records import Facts, SlideRecord, Verdict
    from histocast.records import Stage as StageName

RecordErrors = Annotated[
    bool,
    Field(
        description="Write a fault of the slide or its spots to <stage>.status.json and exit 0, as the pipeline wants "
        "it; faults of machines, stores and settings still exit with their code."
    ),
]


class SlideStage(Stage):
    """Base of the stages of one slide."""

    stage_name: ClassVar[StageName]
    outdir: Outdir = Path()

    @abstractmethod
    def work(self) -> Facts | tuple[Facts, Verdict]:
        """Do the work; return what the status record says of it."""

    @abstractmethod
    def find_sample(self) -> str:
        """Return the sample's name."""

    def run(self) -> Facts | None:
        """Do the work and write ``<stage>.status.json``, with the verdict where there is one.

        With ``record_errors`` a fault of the slide or of its spots is written down as well, and is no failure: a
        `DataError` that is no `StaleInputError`. Every other error can be the fault of a machine, and is raised.

        Returns: What the status record says; None where it says what is wrong with the slide.
        """
        from histocast.artifacts import write_json
        from histocast.foreign_errors import machine_fault_behind
        from histocast.progress import log
        from histocast.records import StageError, StatusRecord
        from histocast.software import software_versions

        started_s = time.monotonic()
        sample, stage = self.find_sample(), self.stage_name
        path = self.outdir / f"{stage}.status.json"
        software = software_versions()
        try:
            done = self.work()
        except DataError as error:
            if (
                not getattr(self, "record_errors", False)
                or isinstance(error, StaleInputError)
                or machine_fault_behind(error)
            ):
                raise
            cause = StageError.from_exception(error)
            write_json(path, StatusRecord(sample=sample, stage=stage, outcome="failed", error=cause, software=software))
            log(f"{stage} {sample}: failed, recorded in {path.name}\n{error.message}")
            return None
        facts, verdict = done if isinstance(done, tuple) else (done, None)
        facts = {**facts, "seconds": round(time.monotonic() - started_s, 3)}
        write_json(
            path,
            StatusRecord(sample=sample, stage=stage, outcome="ok", facts=facts, software=software, verdict=verdict),
        )
        log(f"{stage} {sample}: done in {facts['seconds']} s{f': {verdict.headline}' if verdict else ''}")
        return facts


class RecordedSlideStage(SlideStage):
    """Base of the stages after TILE, which are given what TILE said of the slide."""

    slide_record: SlideRecordFile

    @cached_property
    def record(self) -> SlideRecord:
        """What TILE said of the slide."""
        from histocast.records import SlideRecord, read_record

        return read_record(self.slide_record, SlideRecord)

    def find_sample(self) -> str:
        """Return the sample's name."""
        return self.record.sample
