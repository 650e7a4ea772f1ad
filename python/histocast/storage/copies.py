"""An object copied to scratch disk part by part, which can be read while it arrives."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

from histocast.errors import HistocastError, OutputError, StorageUnavailable
from histocast.storage.ranges import MAX_REQUEST_BYTES, file_order
from histocast.storage.source import ObjectStat, Piece, Range, Source


def write_parts(source: Source, descriptor: int, *, where: Path) -> Iterator[int]:
    """Write a source's bytes to an open file from its start, and yield how many have arrived so far.

    Raises
    ------
    OutputError
        The disk is full, or failed.
    HistocastError
        As for `Source.read_ranges`.
    """
    size_bytes = source.stat().size_bytes
    parts = [(start, min(MAX_REQUEST_BYTES, size_bytes - start)) for start in range(0, size_bytes, MAX_REQUEST_BYTES)]
    arrived: set[int] = set()
    first_missing = 0
    for index, piece in source.read_ranges(parts):
        try:
            written = os.pwrite(descriptor, piece, parts[index][0])
            while written < len(piece):
                written += os.pwrite(descriptor, memoryview(piece)[written:], parts[index][0] + written)
        except OSError as error:
            raise unwritable(where, error) from error
        arrived.add(index)
        while first_missing in arrived:
            first_missing += 1
        yield sum(parts[first_missing - 1]) if first_missing else 0


def unwritable(folder: Path, error: OSError) -> OutputError:
    """Return the error for a scratch folder that cannot take a copy."""
    return OutputError(
        f"cannot copy the object: {error.strerror or error}",
        where=str(folder),
        advice="point HISTOCAST_SCRATCH at a folder with room for whole slides",
    )


class ArrivingCopy:
    """A source copied to a nameless file, which goes with the process however that ends; see `Source`.

    The download begins at once; a read waits until its bytes are there.
    """

    is_local = True

    def __init__(self, source: Source, scratch: Path) -> None:
        self.uri = source.uri
        self.name = source.name
        self._source = source
        self._scratch = scratch
        self._size_bytes = source.stat().size_bytes
        try:
            scratch.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise unwritable(scratch, error) from error
        self._more = threading.Condition()
        self._arrived_bytes = 0
        self._stopped = False
        self._runner = ThreadPoolExecutor(1, thread_name_prefix="copy")
        self._download: Future[None] = self._runner.submit(self._fill)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stat(self) -> ObjectStat:
        """See `Source.stat`."""
        return self._source.stat()

    def read(self, start: int, length: int) -> bytes:
        """See `Source.read`."""
        end = min(start + length, self._size_bytes)
        with self._more:
            self._more.wait_for(lambda: self._arrived_bytes >= end or self._stopped)
            missing = self._arrived_bytes < end
        if missing:
            self._download.result()
            raise StorageUnavailable("the copy was closed before it was whole", where=self.name)
        try:
            return os.pread(self._file.fileno(), max(0, end - start), start)
        except OSError as error:
            raise StorageUnavailable(f"the scratch disk answered: {error.strerror}", where=self.name) from error

    def read_ranges(self, ranges: Sequence[Range], *, max_gap_bytes: int | None = None) -> Iterator[Piece]:  # noqa: ARG002 - the protocol's parameter
        """See `Source.read_ranges`; in the order of the file, which is that of its arrival."""
        for index in file_order(ranges):
            yield index, self.read(*ranges[index])

    def local_copy(self, scratch: Path) -> Path:
        """Return a copy that has a name."""
        return self._source.local_copy(scratch)

    def close(self) -> None:
        """Stop the download and let go of the file; the source stays open."""
        with self._more:
            self._stopped = True
            self._more.notify_all()
        self._runner.shutdown(wait=True)
        # Whoever waited for bytes was told; an error nobody waited for changes nothing any more.
        with suppress(HistocastError):
            self._download.result()
        self._file.close()

    def _fill(self) -> None:
        try:
            for arrived_bytes in write_parts(self._source, self._file.fileno(), where=self._scratch):
                with self._more:
                    self._arrived_bytes = arrived_bytes
                    self._more.notify_all()
                    if self._stopped:
                        return
        finally:
            with self._more:
                self._stopped = True
                self._more.notify_all()
