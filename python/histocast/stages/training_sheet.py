"""The verb `training-sheet`: the training sheet of a published data set."""

from __future__ import annotations

from pathlib import Path

from histocast.stages.stage import Outdir, Stage


class TrainingSheet(Stage):
    """Make the training sheet of a published data set.

    Writes <outdir>/training.csv.
    """

    layout: str
    """Data set whose published layout the folder has: her2st, cscc, stnet, hest1k or visium."""
    folder: Path
    """The data set as downloaded."""
    sample: tuple[str, ...] = ()
    """A section to take; may be repeated; default: all."""
    beside: tuple[str, ...] = ()
    """A data set used together with it, whose patients are left out; may be repeated."""
    patients: Path | None = None
    """Table sample,patient, where the data set does not say."""
    where: tuple[str, ...] = ()
    """column=value of the data set's own table (hest1k); may be repeated."""
    metadata: Path | None = None
    """The data set's own table, where it lies elsewhere."""
    slides: Path | None = None
    """Folder of slides <sample>.* (visium)."""
    pitch_um: float | None = None
    """Distance between spots, over the data set's own."""
    outdir: Outdir = Path()

    def run(self) -> None:
        """Do the work. Raises as `histocast.sections.layouts.make_training_sheet` does."""
        from histocast.sections.layouts import SheetOptions, make_training_sheet
        from histocast.sections.layouts.choices import read_choices, read_patients

        chosen = SheetOptions(
            samples=self.sample,
            patients=read_patients(self.patients) if self.patients else {},
            where=read_choices(self.where),
            metadata=self.metadata,
            slides=self.slides,
            pitch_um=self.pitch_um,
        )
        make_training_sheet(self.folder, layout=self.layout, outdir=self.outdir, options=chosen, beside=self.beside)
