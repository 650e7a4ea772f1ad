"""What a stage is: a record of all it is given, whose `run` does the work.

A stage's fields are the options of its verb and its parameters in Python; the docstring under a field is the option's help,
its annotation the option's bounds, its default the option's. They are written there and nowhere else. Fields that several
stages share are declared here.

A stage's module imports nothing heavy, so that ``--help`` answers at once; `run` imports what the work needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from histocast.records import Options


class Stage(Options):
    """Base of all stages."""

    def run(self) -> Any:
        """Do the work."""
        raise NotImplementedError

    def lines(self, result: Any) -> Iterable[str]:  # noqa: ARG002 - most verbs print nothing
        """What the verb prints to standard output about what `run` returned."""
        return ()


class FromEnvironment(NamedTuple):
    """Marks an option whose default a variable of the environment holds."""

    variable: str


class Positional(NamedTuple):
    """Marks a field that is the verb's argument and no option."""


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


TEXT = BeforeValidator(_as_text)
Uri = Annotated[str, TEXT]
"""Path, or an ``s3://`` address."""

Outdir = Annotated[Path, Field(description="Folder for what this verb writes.")]
Threads = Annotated[int | None, Field(ge=1, description="Threads to use; all available ones by default.")]
Sample = Annotated[str, Field(description="Name of the sample, as in the samplesheet.")]
Slide = Annotated[Uri, Field(description="Path or s3:// URI of the slide.")]
Version = Annotated[str | None, Field(description="ETag, or size and time, as 'check' saw it; another is refused.")]
Mpp = Annotated[float | None, Field(description="Micrometres per pixel of level 0, over what the file says.")]
Spots = Annotated[str | None, TEXT, Field(description="Table of measured spots; without it a grid is laid on tissue.")]
BundleUri = Annotated[Uri, Field(description="Folder or s3:// prefix of the bundle.")]
SelectedGenes = Annotated[
    str | None,
    TEXT,
    Field(
        description="Genes to predict: a file with one gene per line, each of the bundle's; or genes.parquet of "
        "'genes embed'."
    ),
]
ReportGenes = Annotated[
    str | None,
    Field(
        description="Genes whose maps the page shows first and on paper: symbols or identifiers with commas between "
        "them; default: genes predicted well whose maps differ."
    ),
]
FORMATS = ("h5ad", "parquet", "geojson", "zarr", "spatialdata")
Formats = Annotated[
    str | None,
    Field(
        description="Formats to write, with commas between them: geojson, zarr and spatialdata, which needs the extra of that "
        "name; h5ad and parquet are written always."
    ),
]
SlideRecordFile = Annotated[Path, Field(description="slide.json of 'tile'.")]
Tiles = Annotated[Path, Field(description="tiles.parquet of 'tile'.")]
RunFile = Annotated[Path, Field(alias="run", description="run.json: what the workflow engine knows of the run.")]
Thumbnail = Annotated[Path, Field(description="thumbnail.png of 'tile'.")]
