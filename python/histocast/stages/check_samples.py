"""What CHECK does: every row of a samplesheet, the bundle and the gene panel, before the first slide is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from histocast.bundle import bundle_digest, sha256_of_file
from histocast.errors import DataError, ErrorCollector, HistocastError, MissingInputError
from histocast.fusion.panel import find_shown
from histocast.fusion.selected_genes import ask_genes
from histocast.genes.name_tables import find_other_names
from histocast.inference import verify_bundle, verify_servers
from histocast.progress import Meter
from histocast.records import CheckRecord, SampleRecord, StageError
from histocast.samplesheet import SheetRow, read_samplesheet, refuse_unstageable
from histocast.slide.companions import companions_version, refuse_in_store, slide_files
from histocast.storage import ObjectStat
from histocast.storage.survey import stat_sources

Answer = ObjectStat | HistocastError
Files = tuple[Path, ...]


def check_samples(
    samplesheet: str | Path,
    *,
    bundle_folder: Path,
    genes: Path | None = None,
    report_genes: str | None = None,
    on_slide_error: Literal["fail", "skip"] = "fail",
    triton_url: str | None = None,
    allow_metadata: str | None = None,
) -> CheckRecord:
    """Validate a samplesheet, everything it points to, the bundle and the gene panel.

    The stores are asked for every slide and spot table, 64 at a time: ten thousand rows take seconds. Their
    answers (version and size) go into the record, so that a slide that is overwritten counts as another input.

    Parameters are the fields of `histocast.stages.check.Check`; ``bundle_folder`` and ``genes`` are fetched already.
    ``triton_url``: inference servers that will run the graphs, which must serve exactly those of the bundle.
    Raises `DataError`: every fault of the samplesheet at once, or every fault of the panel; `ConfigError`: the bundle
    is not what it says it is, cannot take the genes asked for, or a server serves another; `MissingInputError`: there
    is no samplesheet, bundle or panel, or it may not be read; or not one slide can be read; `StorageUnavailable`: a
    store did not answer, also after retries; the same check may pass later; `ServingUnavailable` or `DeadlineExceeded`:
    no inference server did.
    """
    allowed = [name.strip() for name in (allow_metadata or "").split(",") if name.strip()]
    rows, faults = read_samplesheet(str(samplesheet), allow_metadata=allowed)
    answers = _ask_stores(rows)
    files = _find_files(rows, answers)
    samples = [_judge(row, answers, files, faults, on_slide_error=on_slide_error) for row in rows]
    faults.raise_if_any("correct the samplesheet and run again")
    _refuse_if_all_absent(samples)
    bundle = verify_bundle(bundle_folder)
    if triton_url is not None:
        verify_servers(bundle, triton_url=triton_url)
    if genes is not None or report_genes is not None:
        asked = ask_genes(bundle_folder, bundle, genes, other_names=find_other_names)
        find_shown(report_genes or "", asked.table, other_names=find_other_names)
    return CheckRecord(
        bundle_digest=bundle_digest(bundle_folder),
        bundle_name=bundle.name,
        bundle_version=bundle.version,
        genes_digest=f"sha256:{sha256_of_file(genes)}" if genes else None,
        samples=tuple(samples),
    )


def _refuse_if_all_absent(samples: Sequence[SampleRecord]) -> None:
    """Raise a `MissingInputError` where not one slide can be read: that is no fault of the slides."""
    errors = [sample.error for sample in samples if sample.error and sample.error.kind == MissingInputError.__name__]
    if samples and len(errors) == len(samples):
        raise MissingInputError(
            f"none of {len(samples)} slides can be read; the first: {errors[0].message}",
            expected="at least one",
            advice="check that the file system is mounted, and that this user or role may read it",
        )


def _ask_stores(rows: Sequence[SheetRow]) -> dict[str, Answer]:
    """The stores' answers by URI; each object is asked for once, however many rows share it.

    A slide that cannot be read from a store is refused without asking.
    """
    names: dict[str, str] = {}
    answers: dict[str, Answer] = {}
    for row in rows:
        names.setdefault(row.slide, f"slide of sample {row.sample}")
        if row.spots:
            names.setdefault(row.spots, f"spots of sample {row.sample}")
        if row.slide.startswith("s3://"):
            try:
                refuse_in_store(row.slide, name=names[row.slide])
            except DataError as error:
                answers[row.slide] = error
    objects = [(uri, name) for uri, name in names.items() if uri not in answers]
    with Meter("check", total=len(objects), unit="objects") as meter:
        for index, answer in stat_sources(objects):
            answers[objects[index][0]] = answer
            meter.advance()
    return answers


def _find_files(rows: Sequence[SheetRow], answers: dict[str, Answer]) -> dict[str, Files]:
    """The files of each local slide that is there; one that lacks companions gets the error as its answer."""
    found: dict[str, Files] = {}
    for row in rows:
        if row.slide in found or row.slide.startswith("s3://") or isinstance(answers[row.slide], HistocastError):
            continue
        name = f"slide of sample {row.sample}"
        try:
            files = slide_files(Path(row.slide), name=name)
            for file in files:
                refuse_unstageable(str(file.resolve()), name=name)
            found[row.slide] = files
        except DataError as error:
            answers[row.slide] = error
    return found


def _judge(
    row: SheetRow,
    answers: dict[str, Answer],
    files: dict[str, Files],
    faults: ErrorCollector,
    *,
    on_slide_error: Literal["fail", "skip"],
) -> SampleRecord:
    error: StageError | None = None
    for column, uri in (("slide", row.slide), ("spots", row.spots)):
        answer = answers[uri] if uri else None
        if not isinstance(answer, HistocastError):
            continue
        if on_slide_error == "fail":
            faults.add(
                f"{column} of sample {row.sample}: {answer.found}",
                row=row.line,
                column=column,
                expected=answer.expected or "an object that can be read",
                advice=_advise(answer, uri),
            )
        elif error is None:
            error = StageError.from_exception(answer)
    slide, spots = answers[row.slide], answers[row.spots] if row.spots else None
    of_slide = files.get(row.slide, ())
    return SampleRecord(
        sample=row.sample,
        slide=row.slide,
        mpp=row.mpp,
        spots=row.spots,
        version=slide.version if isinstance(slide, ObjectStat) else None,
        size_bytes=slide.size_bytes if isinstance(slide, ObjectStat) else None,
        files=tuple(map(str, of_slide)),
        companions_version=companions_version(of_slide),
        spots_version=spots.version if isinstance(spots, ObjectStat) else None,
        metadata=row.metadata,
        error=error,
    )


def _advise(answer: HistocastError, uri: str | None) -> str | None:
    if uri is None or uri.startswith("s3://") or not isinstance(answer, MissingInputError):
        return answer.advice
    return f"{answer.advice}; a relative path begins at the samplesheet's folder" if answer.advice else None
