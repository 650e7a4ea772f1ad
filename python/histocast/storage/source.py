"""What a source of bytes is, whether a local file or an S3 object.

A source is opened lazily: nothing is asked of the store before the first `stat` or `read`, so that whoever
opens one can still say how errors shall name it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from histocast.errors import StaleInputError

Range = tuple[int, int]
"""Start and length in bytes."""
Bytes = bytes | memoryview
"""Of their own, or a read-only view of others."""


@dataclass(frozen=True)
class ObjectStat:
    """How large an object is, and which version of it was met."""

    size_bytes: int
    version: str
    """ETag of an S3 object; size and modification time of a local file."""


class Source(Protocol):
    """One object's bytes. Safe to read from several threads. Use as a context manager."""

    uri: str
    name: str
    """How errors call it; the URI unless its owner says otherwise, since file names can hold accession numbers."""
    is_local: bool
    """Whether a read costs no round trip."""

    def stat(self) -> ObjectStat:
        """Size and version; asked of the store once.

        Raises `MissingInputError`: there is no such object, or it may not be read; `DataError`: it is no file, or not
        of the version it was opened with; `StorageUnavailable`: the store did not answer, also after retries.
        """
        ...

    def read(self, start: int, length: int) -> bytes:
        """Return ``length`` bytes from ``start``; fewer only where the object ends.

        Raises `DataError`: the object was overwritten since `stat`; `MissingInputError` or `StorageUnavailable`: as for
        `stat`.
        """
        ...

    def read_ranges(self, ranges: Mapping[int, Range], *, max_gap_bytes: int | None = None) -> Mapping[int, Bytes]:
        """Return the bytes of every range, by its key; near ones are read in one request.

        A range that reaches beyond the object's end comes back short. All of them are in memory when it returns, and
        stay there while one of them is held: who needs many asks in several calls, who keeps a few copies them.

        ``ranges``: start and length of each, by any key.
        ``max_gap_bytes``: up to which width gaps are read over where each request takes a round trip; chosen for these
            ranges where it is not given. Who reads in several calls chooses it for all of them by
            `histocast.storage.coalesce_gap`.
        Raises `DataError` or `MissingInputError` or `StorageUnavailable`: as for `read`.
        """
        ...

    def local_copy(self, scratch: Path) -> Path:
        """Return a local file with these bytes: the file itself, or a copy made in ``scratch``."""
        ...

    def close(self) -> None:
        """Release handles and connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def clipped(ranges: Mapping[int, Range], size_bytes: int) -> dict[int, Range]:
    """Return as much of each range as an object of this size has."""
    return {
        key: (min(start, size_bytes), max(0, min(length, size_bytes - start)))
        for key, (start, length) in ranges.items()
    }


def overwritten(name: str, *, found: str, expected: str) -> StaleInputError:
    """Return the error for an object that is no longer the one that was checked."""
    return StaleInputError(
        f"version {found}",
        expected=f"version {expected}, which was there when the run began",
        where=name,
        advice="the object was overwritten: start the run again, so that every stage sees the same bytes",
    )
