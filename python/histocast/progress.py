"""Progress of long work: a bar on a terminal, plain lines in a task log; and where its time went."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from histocast.errors import printable

Item = TypeVar("Item")

Part = Literal["starting", "store", "decode", "inference", "writing"]

SPENT_ON: dict[Part, str] = {
    "starting": "starting",
    "store": "waiting for the store",
    "decode": "reading and decoding",
    "inference": "inference",
    "writing": "writing",
}

# A line each ten seconds keeps the log of an hour's task within four hundred lines.
LOG_INTERVAL_S = 10.0


def log(message: str) -> None:
    """Write one line to standard error, where task logs are kept."""
    sys.stderr.write(f"[histocast] {printable(message)}\n")
    sys.stderr.flush()


class Meter:
    """Counts finished units of work and shows them; use as a context manager.

    ``label``: what is being done, such as ``"encode S1"``.
    ``total``: units of work in all, or ``None`` where that is not known.
    ``unit``: what is counted, in the plural.
    """

    def __init__(self, label: str, *, total: int | None, unit: str = "tiles") -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self._skipped = 0
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

    def skip(self, count: int) -> None:
        """Count ``count`` more units as done that took no time now, and say nothing of the time of others."""
        self.done += count
        self._skipped += count
        if self._bar is not None:
            self._bar.initial += count
            self._bar.update(count)

    def _line(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        of_total = "" if self.total is None else f" of {self.total}"
        return f"{self.label}: {self.done}{of_total} {self.unit} in {elapsed_s:.1f} s{self._speed(elapsed_s)}"

    def _speed(self, elapsed_s: float) -> str:
        """Units a second, or seconds a unit where that is slow, and the time left; nothing where none was done."""
        worked = self.done - self._skipped
        if not worked:
            return ""
        rate = worked / elapsed_s
        speed = f"{rate:.0f}/s" if rate >= 1.0 else f"{1 / rate:.1f} s each"
        if self.total is None or self.done >= self.total:
            return f" ({speed})"
        return f" ({speed}, {(self.total - self.done) / rate:.0f} s left)"


def track(items: Iterable[Item], *, label: str, total: int | None, unit: str) -> Iterator[Item]:
    """Yield ``items`` and count each one when the next is asked for."""
    with Meter(label, total=total, unit=unit) as meter:
        for item in items:
            yield item
            meter.advance()


class Clock:
    """Where the time of a stage went, from now on; for the stage's own thread.

    ``starting`` is loading graphs or reaching servers, ``store`` waiting for bytes of the slide or the bundle,
    ``decode`` waiting for what is made of them, ``inference`` waiting for the graphs' outputs.
    """

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self._spent_s = dict.fromkeys(SPENT_ON, 0.0)
        self._inner_s = 0.0

    @contextmanager
    def spent(self, part: Part) -> Iterator[None]:
        """Add the block's duration to a part, without what blocks within it spend."""
        started_s, outer_s = time.monotonic(), self._inner_s
        self._inner_s = 0.0
        try:
            yield
        finally:
            whole_s = time.monotonic() - started_s
            self._spent_s[part] += whole_s - self._inner_s
            self._inner_s = outer_s + whole_s

    def move(self, seconds: float, *, source: Part, target: Part) -> None:
        """Count seconds of one part as another's, which turned out to be their cause."""
        self._spent_s[source] -= seconds
        self._spent_s[target] += seconds

    def facts(self, count: int, *, unit: str, on_servers: bool) -> dict[str, float | int | str]:
        """Seconds by part, units a second once started, and ``bottleneck``, what took longest."""
        total_s = max(time.monotonic() - self._started_s, 1e-9)
        spent_s = self._spent_s
        largest = max(spent_s, key=lambda part: spent_s[part])
        named = "the inference server" if on_servers and largest == "inference" else SPENT_ON[largest]
        return {
            "starting_s": round(spent_s["starting"], 3),
            "waiting_on_store_s": round(spent_s["store"], 3),
            "waiting_on_decode_s": round(spent_s["decode"], 3),
            "inference_s": round(spent_s["inference"], 3),
            "writing_s": round(spent_s["writing"], 3),
            "total_s": round(total_s, 3),
            f"{unit}_per_s": round(count / max(total_s - spent_s["starting"], 1e-9), 1),
            "bottleneck": named,
        }
