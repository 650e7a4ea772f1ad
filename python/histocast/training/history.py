"""What the epochs of a training came to, written anew after each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from histocast.artifacts import write_csv, write_json
from histocast.records import Record
from histocast.training.loop import Epoch

METRICS_TABLE, METRICS_FILE = "metrics.csv", "metrics.json"

LOSS_PART = "loss_"
"""What the columns of a loss's parts begin with."""


class Metrics(Record):
    """``metrics.json``."""

    schema_version: Literal[1] = 1
    epochs: tuple[dict[str, float], ...]
    """As the rows of ``metrics.csv``: ``network``, ``epoch``, ``loss``, ``loss_<part>``, ``heldout_pearson`` and
    ``learning_rate``."""


class History:
    """Epochs of every network of an ensemble, kept in a folder as a table and as JSON."""

    def __init__(self, folder: Path | None) -> None:
        self.networks: dict[int, tuple[Epoch, ...]] = {}
        self._folder = folder

    def keep(self, network: int, epochs: tuple[Epoch, ...]) -> None:
        """Take what a network has come to, and write it down."""
        self.networks[network] = epochs
        if self._folder is None:
            return
        rows = list(self._rows())
        write_csv(self._folder / METRICS_TABLE, rows)
        write_json(self._folder / METRICS_FILE, Metrics(epochs=tuple(rows)))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for number, epochs in self.networks.items():
            for epoch in epochs:
                row = asdict(epoch)
                parts = {f"{LOSS_PART}{name}": value for name, value in row.pop("parts").items()}
                yield {"network": number, "epoch": row.pop("epoch"), "loss": row.pop("loss")} | parts | row
