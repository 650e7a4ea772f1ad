"""Verbs about the demo archive: demo-data demo-score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from histocast.cli import options


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command("demo-data")(demo_data)
    app.command("demo-score")(demo_score)


def demo_data(
    *,
    outdir: options.Outdir,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    training: Annotated[bool, typer.Option(help="Make slides with measured spots and counts, to train on.")] = False,
) -> None:
    """Make a small archive of synthetic H&E slides.

    Their expression follows their morphology.
    """
    from histocast.demo import make_archive, make_training_set

    if training:
        make_training_set(outdir, seed=seed)
    else:
        make_archive(outdir, seed=seed)


def demo_score(
    *,
    archive: Annotated[Path, typer.Option(help="Folder of 'demo-data'.")],
    results: Annotated[Path, typer.Option(help="Output folder of the pipeline.")],
) -> None:
    """Compare predictions of the demo with its hidden truth."""
    from histocast.demo import score_demo

    typer.echo(score_demo(archive, results))
