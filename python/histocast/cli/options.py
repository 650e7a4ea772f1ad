"""Options that several verbs share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Sample = Annotated[str, typer.Option(help="Name of the sample, as in the samplesheet.")]
Slide = Annotated[str, typer.Option(help="Path or s3:// URI of the slide.")]
Version = Annotated[str | None, typer.Option(help="ETag, or size and time, as 'check' saw it; another is refused.")]
Mpp = Annotated[float | None, typer.Option(help="Micrometres per pixel of level 0, over what the file says.")]
Spots = Annotated[str | None, typer.Option(help="Table of measured spots; without it a grid is laid on tissue.")]
BundleUri = Annotated[str, typer.Option("--bundle", help="Folder or s3:// prefix of the bundle.")]
Genes = Annotated[
    str | None,
    typer.Option(
        help="Genes to predict: a file with a gene a line, each of the bundle's; or genes.parquet of 'genes embed'."
    ),
]
ReportGenes = Annotated[
    str | None,
    typer.Option(
        help="Genes whose maps the page shows first and on paper: symbols or identifiers with commas between them; "
        "default: genes predicted well whose maps differ."
    ),
]
Outdir = Annotated[Path, typer.Option(help="Folder for what this verb writes.")]
SlideRecordFile = Annotated[Path, typer.Option("--slide-record", help="slide.json of 'tile'.")]
Tiles = Annotated[Path, typer.Option(help="tiles.parquet of 'tile'.")]
Thumbnail = Annotated[Path, typer.Option(help="thumbnail.png of 'tile'.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to use; all available ones by default.")]
RecordErrors = Annotated[
    bool,
    typer.Option(
        "--record-errors",
        help="Write a fault of the slide or its spots to <stage>.status.json and exit 0, as the pipeline wants it; "
        "faults of machines, stores and settings still exit with their code.",
    ),
]
