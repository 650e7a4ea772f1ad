"""The verb `demo-score`: predictions of the demo against its hidden truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from histocast.stages.stage import Stage

if TYPE_CHECKING:
    from histocast.demo import DemoScore as Scores


class DemoScore(Stage):
    """Compare predictions of the demo with its hidden truth."""

    archive: Path
    """Folder of 'demo-data'."""
    results: Path
    """Output folder of the pipeline."""

    def run(self) -> Scores:
        """Do the work; return the scores."""
        from histocast.demo import score_demo

        return score_demo(self.archive, self.results)

    def lines(self, result: Scores) -> Iterator[str]:
        """The scores as a table."""
        yield str(result)
