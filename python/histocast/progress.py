"""Progress of long work: a bar on a terminal, plain lines in a task log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

# A line each ten seconds keeps the log of an hour's task within four hundred lines.
LOG_INTERVAL_S = 10.0


def log(message: str) -> None:
    """Write one line to standard error, where task logs are kept."""
    sys.stderr.write(f"[histocast] {message}\n")
    sys.stderr.flush()


class Meter:
    """Counts finished units of work and shows them; use as a context manager.

    Parameters
    ----------
    label:
        What is being done, such as ``"encode S1"``.
    total:
        Units of work in all, or ``None`` where that is not known.
    unit:
        What is counted, in the plural.
    """

    def __init__(self, label: str, *, total: int | None, unit: str = "tiles") -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self._started_s = time.monotonic()
        self._logged_s = self._started_s
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=label, unit=f" {unit}", leave=False)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        log(self._line())

    def advance(self, count: int = 1) -> None:
        """Count ``count`` more units as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = time.monotonic()
            log(self._line())

    def _line(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        rate = self.done / elapsed_s
        of_total = "" if self.total is None else f" of {self.total}"
        left = ""
        if self.total is not None and 0 < self.done < self.total:
            left = f", {(self.total - self.done) / rate:.0f} s left"
        return f"{self.label}: {self.done}{of_total} {self.unit} in {elapsed_s:.1f} s ({rate:.0f}/s{left})"


def track(items: Iterable[Item], *, label: str, total: int | None, unit: str) -> Iterator[Item]:
    """Yield ``items`` and count each one when the next is asked for."""
    with Meter(label, total=total, unit=unit) as meter:
        for item in items:
            yield item
            meter.advance()
