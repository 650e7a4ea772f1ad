"""What lies in a folder of results: slide summaries and the summary of the run, or a cohort that was gathered before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from histocast.cohort.replace_files import finish_replacing
from histocast.errors import DataError, MissingInputError
from histocast.storage.listing import list_files

SLIDES_FILE, MATRIX_FILE, SIGNATURES_FILE = "slides.parquet", "cohort.h5ad", "signatures.parquet"
PAGE_FILE = "cohort.html"
COHORT_FILES = (MATRIX_FILE, SIGNATURES_FILE, SLIDES_FILE, PAGE_FILE)
"""What a cohort consists of."""
SUMMARY_FILE = "summary.parquet"
SLIDE_ENDING = ".slide.parquet"


@dataclass(frozen=True)
class Results:
    """A folder that ``nextflow run`` or ``predict-slide`` wrote, local or ``s3://``."""

    uri: str
    summary: str | None
    """``summary.parquet`` of the run; none of a slide that was predicted alone."""
    slides: dict[str, str]
    """``<sample>.slide.parquet`` by sample."""


@dataclass(frozen=True)
class EarlierCohort:
    """A folder that a cohort was written to: its slides are taken from there, and not read again one by one."""

    uri: str
    slides: str
    matrix: str


def find_results(uri: str) -> Results | EarlierCohort:
    """Look into a folder, or ``s3://`` prefix, and the folders within it.

    Where writing a cohort was interrupted after its files were whole, it is finished first.

    Raises `MissingInputError`: there is no such folder, or it holds no result; `DataError`: two of its folders hold a
    summary of one sample; `StorageUnavailable`: the store did not answer.
    """
    finish_replacing(Path(uri), COHORT_FILES)
    root = uri.rstrip("/")
    known = {SLIDES_FILE: "", MATRIX_FILE: "", SUMMARY_FILE: ""}
    slides: dict[str, str] = {}
    for file in list_files(root):
        if (within := file.removeprefix(f"{root}/")) in known:
            known[within] = file
        name = PurePosixPath(file).name
        if not name.endswith(SLIDE_ENDING) or name.startswith("."):
            continue
        sample = name.removesuffix(SLIDE_ENDING)
        if sample in slides:
            raise DataError(
                f"two summaries of sample {sample!r}",
                expected="one of each sample",
                where=uri,
                advice="give the folders of different runs one by one",
            )
        slides[sample] = file
    if known[SLIDES_FILE] and known[MATRIX_FILE]:
        return EarlierCohort(uri, slides=known[SLIDES_FILE], matrix=known[MATRIX_FILE])
    if not slides and not known[SUMMARY_FILE]:
        raise MissingInputError(
            f"neither {SUMMARY_FILE} nor any <sample>{SLIDE_ENDING}",
            expected="a folder of results, or one that a cohort was written to",
            where=uri,
            advice="results of older versions have no slide summaries: predict them again",
        )
    return Results(uri, summary=known[SUMMARY_FILE] or None, slides=slides)
