"""The verb `demo-data`: a small synthetic archive."""

from __future__ import annotations

from histocast.stages.stage import Outdir, Stage


class DemoData(Stage):
    """Make a small archive of synthetic H&E slides.

    Their expression follows their morphology.
    """

    outdir: Outdir
    seed: int = 0
    """Seed of everything random."""
    training: bool = False
    """Make slides with measured spots and counts, to train on."""

    def run(self) -> None:
        """Do the work."""
        from histocast.demo import make_archive, make_training_set

        make = make_training_set if self.training else make_archive
        make(self.outdir, seed=self.seed)
