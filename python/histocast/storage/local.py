"""Local files, read by position, so that threads share one handle without a lock."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from histocast.errors import DataError, HistocastError, MissingInputError, StorageUnavailable
from histocast.storage.pieces import Pieces, piece_memory
from histocast.storage.ranges import plan_requests
from histocast.storage.source import Bytes, ObjectStat, Range, clipped, overwritten

# What a path can be wrong about, as opposed to a disk or a network file system that failed.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
_FORBIDDEN = {errno.EACCES, errno.EPERM}


class LocalSource:
    """A local file; see `Source`."""

    is_local = True

    def __init__(self, uri: str, *, version: str | None = None, name: str | None = None) -> None:
        self.uri = uri
        self.name = name or uri
        self._path = Path(uri)
        self._version = version
        self._descriptor: int | None = None
        self._stat: ObjectStat | None = None
        self._opening = threading.Lock()
        self._memory = piece_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stat(self) -> ObjectStat:
        """See `Source.stat`."""
        self._open()
        if self._stat is None:  # pragma: no cover - _open sets it or raises
            raise AssertionError(self.name)
        return self._stat

    def read(self, start: int, length: int) -> bytes:
        """See `Source.read`."""
        descriptor = self._open()
        pieces = []
        while length > 0:
            try:
                piece = os.pread(descriptor, length, start)
            except OSError as error:
                raise self._mapped(error) from error
            if not piece:
                break
            pieces.append(piece)
            start += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_ranges(self, ranges: Mapping[int, Range], *, max_gap_bytes: int | None = None) -> Mapping[int, Bytes]:  # noqa: ARG002 - the protocol's parameter
        """See `Source.read_ranges`; in the order of the file, and nothing that was not asked for."""
        within = clipped(ranges, self.stat().size_bytes)
        pieces = Pieces(plan_requests(within, max_gap_bytes=0), within, self._memory)
        for start, into in pieces.places:
            self._read_into(start, into)
        return pieces

    def local_copy(self, scratch: Path) -> Path:  # noqa: ARG002 - the protocol's parameter
        """Return the file itself."""
        self._open()
        return self._path

    def close(self) -> None:
        """Close the handle; a later read opens it again."""
        with self._opening:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def _read_into(self, start: int, into: memoryview) -> None:
        descriptor = self._open()
        while into:
            try:
                count = os.preadv(descriptor, [into], start)
            except OSError as error:
                raise self._mapped(error) from error
            if not count:
                # It was longer when it was opened.
                self._judge(os.fstat(descriptor))
                raise AssertionError(self.name)  # pragma: no cover - its size is another now
            start += count
            into = into[count:]

    def _open(self) -> int:
        with self._opening:
            if self._descriptor is None:
                self._descriptor = self._opened()
            return self._descriptor

    def _opened(self) -> int:
        try:
            # Before it is opened, which a device may take for a command; a named pipe that comes after would block.
            self._judge(self._path.stat())
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise self._mapped(error) from error
        try:
            self._stat = self._judge(os.fstat(descriptor))
        except HistocastError:
            os.close(descriptor)
            raise
        return descriptor

    def _judge(self, status: os.stat_result) -> ObjectStat:
        if stat.S_ISDIR(status.st_mode):
            raise DataError("a folder", expected="a file", where=self.name, advice="give the path of the file itself")
        if not stat.S_ISREG(status.st_mode):
            raise DataError("neither a file nor a folder", expected="a file", where=self.name)
        found = ObjectStat(status.st_size, f"{status.st_size}-{status.st_mtime_ns}")
        expected = self._version or (self._stat.version if self._stat else None)
        if expected is not None and found.version != expected:
            raise overwritten(self.name, found=found.version, expected=expected)
        return found

    def _mapped(self, error: OSError | ValueError) -> HistocastError:
        number = error.errno if isinstance(error, OSError) else errno.EINVAL
        if number in _FORBIDDEN:
            return MissingInputError(
                "permission denied",
                expected="a file this user may read",
                where=self.name,
                advice="grant read permission on the file, and search permission on the folders above it",
            )
        if number in _ABSENT:
            return MissingInputError("no such file", where=self.name, advice="check the path")
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return StorageUnavailable(f"the file system answered: {reason}", where=self.name)
