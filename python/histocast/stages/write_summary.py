"""What SUMMARISE writes: every row of the samplesheet, with its outcome."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from histocast.artifacts import METADATA_PREFIX, SUMMARY, write_json, write_table
from histocast.errors import DataError
from histocast.records import (
    BatchStatus,
    CheckRecord,
    SampleRecord,
    SampleStatus,
    Stage,
    StageError,
    StatusRecord,
)
from histocast.stages.multiqc_table import write_multiqc
from histocast.stages.summary_page import DID_NOT_RUN, SLIDE_STAGES, write_summary_page


def write_summary(
    check: CheckRecord, statuses: Sequence[StatusRecord], outdir: Path, *, has_cohort: bool = False
) -> list[SampleStatus]:
    """Write ``summary.html``, ``summary.parquet``, ``histocast_mqc.json``, ``outcomes.json`` and ``<sample>/status.json``.

    A row without a record of a stage has failed there: nothing vanishes because a task left no trace.

    ``has_cohort``: whether the page links to that of the cohort, as soon as a slide was predicted.
    Returns: one per row of the samplesheet, in its order.
    Raises `DataError`: a status record is of a sample that the samplesheet does not have; `OutputError`: an output
    cannot be written.
    """
    found = _by_sample(check, statuses)
    results = [_judge(sample, found[sample.sample]) for sample in check.samples]
    for result in results:
        write_json(outdir / result.sample / "status.json", result)
    write_json(outdir / "outcomes.json", BatchStatus(samples=tuple(results)))
    rows = [_row(result) for result in results]
    provenance = SUMMARY.provenance(
        "*",
        inputs={"bundle": check.bundle_digest, **({"genes": check.genes_digest} if check.genes_digest else {})},
    )
    names = dict.fromkeys(name for sample in check.samples for name in sample.metadata)
    schema = SUMMARY.arrow(*(pa.field(f"{METADATA_PREFIX}{name}", pa.string()) for name in names))
    write_table(outdir / "summary.parquet", pa.Table.from_pylist(rows, schema=schema), provenance)
    write_summary_page(outdir / "summary.html", check, results, rows, has_cohort=has_cohort)
    write_multiqc(outdir / "histocast_mqc.json", rows)
    return results


def _by_sample(check: CheckRecord, statuses: Iterable[StatusRecord]) -> dict[str, dict[str, StatusRecord]]:
    """Records by sample and stage. Of two of one stage the failed one counts, so that no failure is hidden."""
    found: dict[str, dict[str, StatusRecord]] = {sample.sample: {} for sample in check.samples}
    for status in statuses:
        if status.sample not in found:
            raise DataError(
                f"a status record of sample {status.sample!r}, stage {status.stage}",
                expected="samples of samples.json alone",
                where="--status",
                advice="give the records of this run, and not of an older one",
            )
        stages = found[status.sample]
        if status.stage not in stages or status.outcome == "failed":
            stages[status.stage] = status
    return found


def _judge(sample: SampleRecord, records: dict[str, StatusRecord]) -> SampleStatus:
    """Every stage up to the first that failed or left no record."""
    name = sample.sample
    check_outcome = StatusRecord(
        sample=name, stage="check", outcome="failed" if sample.error else "ok", error=sample.error
    )
    stages = [check_outcome]
    for stage in SLIDE_STAGES:
        if stages[-1].outcome == "failed":
            break
        stages.append(records.get(stage) or _did_not_run(name, stage))
    cleaned = tuple(_without_location(record, sample) for record in stages)
    last = cleaned[-1]
    verdict = last.verdict if last.outcome == "ok" else None
    return SampleStatus(sample=name, outcome=last.outcome, verdict=verdict, metadata=sample.metadata, stages=cleaned)


def _did_not_run(sample: str, stage: Stage) -> StatusRecord:
    return StatusRecord(
        sample=sample,
        stage=stage,
        outcome="failed",
        error=StageError(
            kind=DID_NOT_RUN,
            exit_code=70,
            message="its task failed each time it was tried, and left no record of the cause",
            advice="see its exit code in pipeline_info/trace_*.txt (137: it wanted more memory, see --max_memory; docs/output.md), "
            "then run again with -resume",
        ),
    )


def _without_location(record: StatusRecord, sample: SampleRecord) -> StatusRecord:
    """The record without the slide's path, which can hold an accession number."""
    if record.error is None:
        return record
    error = record.error
    return record.model_copy(
        update={
            "error": error.model_copy(
                update={
                    "message": _hide(error.message, sample),
                    "advice": _hide(error.advice, sample) if error.advice else None,
                }
            )
        }
    )


def _hide(text: str, sample: SampleRecord) -> str:
    names = [PurePosixPath(path).name for path in (sample.slide, *sample.files)]
    for location in (sample.slide, sample.slide.split("://")[-1], *sample.files, *names):
        if location and location != sample.sample:
            text = text.replace(location, f"the slide of {sample.sample}")
    return text


def _row(result: SampleStatus) -> dict[str, Any]:
    """One row of ``summary.parquet``."""
    facts = {stage.stage: stage.facts for stage in result.stages}
    last, verdict = result.stages[-1], result.verdict
    error = last.error
    reservations = verdict.reservations if verdict else ()
    seconds = {f"{stage}_s": _number(facts.get(stage, {}), "seconds") for stage in SLIDE_STAGES}
    encode, predict = facts.get("encode", {}), facts.get("predict", {})
    return {
        "sample": result.sample,
        "outcome": result.outcome,
        "verdict": verdict.level if verdict else None,
        "reservations": [each.kind for each in reservations] if verdict else None,
        "reservation_texts": [each.text for each in reservations] if verdict else None,
        "failed_stage": last.stage if result.outcome == "failed" else None,
        "error_kind": error.kind if error else None,
        "message": error.message if error else None,
        "advice": error.advice if error else None,
        "tiles": _whole(facts.get("tile", {}), "tiles"),
        "tissue_area_mm2": _number(facts.get("tile", {}), "tissue_area_mm2"),
        "unreadable": _whole(encode, "unreadable"),
        "tiles_per_s": _number(encode, "tiles_per_s"),
        "spots": _whole(predict, "spots"),
        "genes": _whole(predict, "genes"),
        "ood_flagged": _whole(predict, "ood_flagged"),
        "mean_val_pcc": _number(predict, "mean_val_pcc"),
        **seconds,
        **{f"{METADATA_PREFIX}{name}": value for name, value in result.metadata.items()},
    }


def _number(facts: dict[str, float | int | str], name: str) -> float | None:
    return float(facts[name]) if name in facts else None


def _whole(facts: dict[str, float | int | str], name: str) -> int | None:
    return int(facts[name]) if name in facts else None
