"""Every error histocast raises, and the exit code each one means.

    HistocastError
    ├ UsageError          64   the command line or a parameter is wrong
    ├ DataError           65   an input exists and cannot be used
    │ └ StaleInputError        it was overwritten during the run, or an artifact is not one of this run
    ├ MissingInputError   66   an input does not exist or may not be read
    ├ ConfigError         78   bundle, server and parameters do not fit together
    ├ OutputError         73   an output cannot be created or written
    └ TransientError      75   worth another try
      ├ StorageUnavailable     the store did not answer, or answered 5xx
      ├ ServingUnavailable     the inference server did not answer
      ├ DeadlineExceeded       an answer took longer than its deadline
      ├ DeviceUnavailable      a GPU or its driver failed; another machine's may not
      └ OutOfMemory            the machine or its GPU has no memory left

The codes are those of sysexits.h, because a workflow engine can act on them (`conf/base.config`); what other libraries
raise ends with 70 (`histocast.failures`). A message is built from four parts, so that none is forgotten: what was found,
what was expected, where, and what to do about it.

Only a `DataError` that is no `StaleInputError` can be the outcome of a slide: it comes of the slide's own bytes, or of its
spots, and would come again on every machine. Everything else can be the fault of a machine.
"""

from __future__ import annotations

import math
import re
from bisect import insort
from typing import ClassVar

# What a terminal obeys instead of showing: control characters but the line feed, and marks that turn text round.
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return text that a terminal shows and does not obey: control characters as escapes such as ``\x1b``."""
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


class HistocastError(Exception):
    """Base of all expected failures.

    ``found``: what was met, as a sentence without its full stop.
    ``expected``: what should have been there.
    ``where``: file, row, column, object or server; a slide is named by its sample, since file names can hold accession
        numbers.
    ``advice``: what the reader can do now.
    """

    exit_code: ClassVar[int] = 70

    def __init__(
        self, found: str, *, expected: str | None = None, where: str | None = None, advice: str | None = None
    ) -> None:
        self.found = printable(found)
        self.expected = printable(expected) if expected else None
        self.where = printable(where) if where else None
        self.advice = printable(advice) if advice else None
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The four parts on one line each, those that are absent left out."""
        parts = [f"{self.where}: {self.found}" if self.where else self.found]
        if self.expected:
            parts.append(f"  expected: {self.expected}")
        if self.advice:
            parts.append(f"  what to do: {self.advice}")
        return "\n".join(parts)


class UsageError(HistocastError):
    """The command line or a parameter is wrong."""

    exit_code = 64


class DataError(HistocastError):
    """An input exists and cannot be used."""

    exit_code = 65


class StaleInputError(DataError):
    """An input was overwritten during the run, or an artifact is damaged or was made from other inputs."""


class MissingInputError(HistocastError):
    """An input does not exist or may not be read."""

    exit_code = 66


class OutputError(HistocastError):
    """An output cannot be created or written."""

    exit_code = 73


class ConfigError(HistocastError):
    """Bundle, server and parameters do not fit together."""

    exit_code = 78


class TransientError(HistocastError):
    """The same call may succeed later."""

    exit_code = 75


class StorageUnavailable(TransientError):
    """The store did not answer, or answered 5xx."""


class ServingUnavailable(TransientError):
    """The inference server did not answer."""


class DeadlineExceeded(TransientError):
    """An answer took longer than its deadline."""


class DeviceUnavailable(TransientError):
    """A GPU, or its driver, failed; that of another machine may not."""


class OutOfMemory(TransientError):
    """The machine, or its GPU, has no memory left; another one may have."""


class ErrorCollector:
    """Gathers the faults of one table in the order of its lines, so that a user corrects them all at once.

    >>> faults = ErrorCollector("sheet.csv")
    >>> faults.add("mpp is 'abc'", row=3, column="mpp", expected="a number of micrometres per pixel")
    >>> len(faults)
    1
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._faults: list[tuple[float, int, str]] = []

    def __len__(self) -> int:
        return len(self._faults)

    @property
    def lines(self) -> list[str]:
        """The message of each fault; those of no single line come last."""
        return [message for _, _, message in self._faults]

    def add(
        self,
        found: str,
        *,
        row: int | None = None,
        column: str | None = None,
        expected: str | None = None,
        advice: str | None = None,
    ) -> None:
        """Note one fault; ``row`` counts lines of the file from 1, its header included."""
        where = "".join(
            [
                self.source,
                f", line {row}" if row is not None else "",
                f", column {column!r}" if column is not None else "",
            ]
        )
        message = HistocastError(found, expected=expected, where=where, advice=advice).message
        insort(self._faults, (math.inf if row is None else row, len(self), message))

    def raise_if_any(self, advice: str | None = None) -> None:
        """Raise one `DataError` that lists every fault noted so far."""
        if not self._faults:
            return
        count = len(self._faults)
        listing = "\n".join(f"{number}. {line}" for number, line in enumerate(self.lines, start=1))
        raise DataError(f"{count} error{'s' if count > 1 else ''} found\n{listing}", where=self.source, advice=advice)
