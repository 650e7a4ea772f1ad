"""EXPORT: a trained model as a bundle to deploy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from histocast.stages.stage import Outdir, Stage

if TYPE_CHECKING:
    from histocast.bundle import Bundle


class Export(Stage):
    """Complete a trained model to a bundle.

    Adds the encoders, the measured figures and a model card.
    """

    model: Path
    """A model folder of 'train', usually trained on every section."""
    encoders: Path
    """The folder 'encoders' of the prepared set."""
    evaluation: Path | None = None
    """Folder of 'evaluate', whose figures go in."""
    name: str | None = None
    """Name of the bundle; default: the recipe's."""
    version: str = "1"
    """Version of the bundle."""
    description: str | None = None
    """One sentence about the bundle."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """What the fusion graph computes in; fp16 departs from fp32 by up to 5e-3."""
    outdir: Outdir

    def run(self) -> Bundle:
        """Do the work; return the bundle. Raises as `histocast.release.export_bundle.export_bundle` does."""
        from histocast.release.export_bundle import export_bundle

        return export_bundle(**dict(self))
