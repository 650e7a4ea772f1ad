"""The small JSON artifacts: samples as CHECK validated them, slides as TILE met them, how each stage ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from histocast import __version__
from histocast.errors import HistocastError, MissingInputError, StaleInputError

Stage = Literal["check", "tile", "encode", "predict", "report"]

Facts = dict[str, float | int | str]
"""What a stage says of its work in its status record."""


class Record(BaseModel):
    """Base of all records and configurations: frozen, and strict about unknown keys."""

    # A model is built when it is first used: a verb uses few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Options(Record):
    """Base of what a user chooses: the docstring under a field is the help of its option."""

    model_config = ConfigDict(use_attribute_docstrings=True, validate_by_name=True)

    def part(self, kind: type[Options]) -> dict[str, Any]:
        """Return the fields that are of another kind, which this one has too."""
        return {name: getattr(self, name) for name in kind.model_fields}


class SampleRecord(Record):
    """One row of the samplesheet as CHECK validated it."""

    sample: str
    slide: str
    """Path or ``s3://`` URI, as the samplesheet has it made absolute. Stays in ``pipeline_info/``."""
    mpp: float | None = None
    """Micrometres per pixel from the samplesheet, which then overrides the file's own."""
    spots: str | None = None
    """Table of measured spots; a grid is laid where it is absent."""
    version: str | None = None
    """What changes when the object is overwritten: its ETag, or size and time of a local file."""
    size_bytes: int | None = None
    files: tuple[str, ...] = ()
    """Local files and folders that a task must see to read the slide: the path it is opened by, then its companions.
    Empty for an object of a store."""
    companions_version: str | None = None
    """What changes when a companion of a slide of several files changes."""
    spots_version: str | None = None
    """What changes when the table of spots is overwritten."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Cells of the samplesheet's other columns, by column."""
    error: StageError | None = None
    """Why this row cannot be processed, where ``--on_slide_error skip`` lets the others go on."""


class LevelRecord(Record):
    """One level of the pyramid."""

    width_px: int
    height_px: int
    downsample: float
    """Level-0 pixels per pixel of this level; need not be an integer."""


class SlideRecord(Record):
    """``slide.json``: the facts of a slide that pass the allow-list, and what TILE made of it."""

    schema_version: Literal[1] = 1
    sample: str
    slide_digest: str
    """``sampled-sha256:`` over the size and three 64 KiB windows: the same from disk and from S3."""
    reader: str
    """Which reader opened it, for example ``tiff`` or ``openslide``."""
    width_px: int
    height_px: int
    levels: tuple[LevelRecord, ...]
    um_per_px: float
    """Of level 0."""
    um_per_px_source: Literal["file", "samplesheet"]
    file_um_per_px: float | None = None
    """What the file itself says of level 0, also where the samplesheet overrides it."""
    vendor: str | None = None
    objective_power: float | None = None
    tile_px: int
    requested_um_per_px: float
    pitch_um: float
    """Distance between neighbouring tiles: the bundle's on a grid, the median measured one for spots."""
    layout: Literal["grid", "spots"]
    tile_count: int
    """Tiles in tissue, those that are encoded and predicted."""
    tissue_area_mm2: float
    pen_fraction: float
    """Share of the slide's area under pen marks."""
    unreadable_fraction: float = 0.0
    """Share of the slide's area that could not be read for ``thumbnail.png``."""
    stain_absorbance: float | None = None
    """Median absorbance of green light by the tissue; unknown where there is none."""
    colourless: bool = False
    """Whether every pixel of the thumbnail is a shade of one colour, as on a greyscale image."""
    thumbnail_um_per_px: float
    """Resolution of ``thumbnail.png`` and ``tissue.png``."""
    bundle_digest: str


class StageError(Record):
    """Why a sample did not get through a stage."""

    kind: str
    """Class of the error, for example ``DataError``."""
    exit_code: int
    message: str
    advice: str | None = None

    @classmethod
    def from_exception(cls, error: HistocastError) -> StageError:
        """The record of an expected failure."""
        return cls(kind=type(error).__name__, exit_code=error.exit_code, message=error.message, advice=error.advice)


ReservationKind = Literal[
    "no_tissue", "little_tissue", "unreadable", "unusual_tissue", "out_of_focus", "ink", "faint_stain", "no_colour",
    "coarse_scan", "contradicting_resolution",
]  # fmt: skip


class Reservation(Record):
    """One reason to doubt a prediction."""

    kind: ReservationKind
    text: str
    """A sentence or two, as the sample's page shows it."""


class Verdict(Record):
    """What can be said of one sample's prediction at a glance: on its page, in its status and in the summary."""

    level: Literal["good", "reserved", "empty"]
    """Predicted; predicted, with reservations; nothing predicted."""
    headline: str
    summary: str
    reservations: tuple[Reservation, ...] = ()
    """Never empty where the level is not ``good``."""


class StatusRecord(Record):
    """``<stage>.status.json``: how one stage ended for one sample."""

    schema_version: Literal[1] = 1
    sample: str
    stage: Stage
    outcome: Literal["ok", "failed"]
    error: StageError | None = None
    facts: dict[str, float | int | str] = Field(default_factory=dict)
    """Counts and timings, each with its unit in its name, for example ``tiles_per_s``; digests of what was written."""
    software: dict[str, str] = Field(default_factory=dict)
    """Versions of what did the work, by name; see `histocast.software`."""
    verdict: Verdict | None = None
    """Of REPORT, which sees all of a sample."""


class SampleStatus(Record):
    """``status.json``: every stage a sample went through, in order."""

    schema_version: Literal[1] = 1
    sample: str
    outcome: Literal["ok", "failed"]
    verdict: Verdict | None = None
    """That of REPORT; unknown where a stage failed."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """As in `SampleRecord`."""
    stages: tuple[StatusRecord, ...]


class BatchStatus(Record):
    """``outcomes.json``: every sample of the samplesheet, in its order."""

    schema_version: Literal[1] = 1
    samples: tuple[SampleStatus, ...]


class RunRecord(Record):
    """``run.json``: what the head process alone knows of a run."""

    schema_version: Literal[1] = 1
    pipeline: str
    """Name of the pipeline."""
    pipeline_version: str
    revision: str | None = None
    """Commit of the checkout, with ``-dirty`` where files were changed; absent without git."""
    nextflow_version: str
    run_name: str
    session_id: str
    """The same for a run and those that resume it."""
    started: str
    """ISO 8601."""
    profile: str
    container_engine: str | None = None
    parameters: dict[str, str | float | int | bool | None]


class CheckRecord(Record):
    """``samples.json``: every row of the samplesheet and the digests of what decides the results."""

    schema_version: Literal[1] = 1
    bundle_digest: str
    bundle_name: str | None = None
    bundle_version: str | None = None
    genes_digest: str | None = None
    """Of the panel given by ``--genes``."""
    samples: tuple[SampleRecord, ...]


SampleRecord.model_rebuild()

AnyRecord = TypeVar("AnyRecord", bound=Record)


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a record, and where in it: ``geometry.tile_px: Field required``."""
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'content'}: {fault['msg']}"


def read_record(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    """Read a JSON artifact.

    Raises `MissingInputError`: there is no such file; `StaleInputError`: it is not JSON, or does not fit ``kind``.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingInputError("no such file", expected=f"a {kind.__name__}", where=str(path)) from error
    except ValidationError as error:
        raise StaleInputError(
            first_fault(error),
            expected=f"a {kind.__name__} as this version of histocast writes it",
            where=str(path),
            advice="run the stage that writes it again",
        ) from error


class Provenance(Record):
    """What made an artifact: enough to make it again, and nothing about a patient."""

    artifact: str
    """Which artifact this is: ``tiles``, ``features``, ``expression`` ..."""
    schema_version: int
    """Raised whenever a column changes its name, dtype or meaning."""
    histocast_version: str = __version__
    sample: str
    inputs: dict[str, str] = Field(default_factory=dict)
    """Digest of each input by its role, for example ``{"slide": "sampled-sha256:...", "bundle": "sha256:..."}``."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Every parameter that decided a value."""
    software: dict[str, str] = Field(default_factory=dict)
    """Versions of what computed it, by name."""
