"""What was answered once is never asked again: an append-only file of answers by the digest of their question."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from histocast.errors import DataError, OutputError


class Journal:
    """Answers by digest, each on disk before the next is asked for; use as a context manager.

    A line is one answer. A process that is killed leaves at most one torn line, the last, which is cut off when the
    journal is opened again. Threads may share a journal; a second process is refused.

    Raises `DataError`: the file holds something else; `OutputError`: it cannot be written, or another process writes
    it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._answers: dict[str, Any] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what could not be written must not come after what was written next.
            self._stream = path.open("ab", buffering=0)
            self._lock_file()
            self._end = self._read()
            self._stream.truncate(self._end)
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror}", where=str(path)) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def __contains__(self, digest: str) -> bool:
        return digest in self._answers

    def __getitem__(self, digest: str) -> Any:
        return self._answers[digest]

    def add(self, digest: str, answer: Mapping[str, Any]) -> None:
        """Keep an answer; it is on disk when this returns."""
        line = json.dumps({"digest": digest, "answer": answer}, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            try:
                self._append(line)
            except OSError as error:
                raise OutputError(f"cannot write: {error.strerror}", where=str(self.path)) from error
            self._answers[digest] = answer

    def _append(self, line: bytes) -> None:
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._stream.write(rest) :]
            os.fsync(self._stream.fileno())
        except OSError:
            # A full disk takes part of a line; should there be room again, the next one must not be glued to it.
            self._stream.truncate(self._end)
            raise
        self._end += len(line)

    def _lock_file(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                "another run writes this journal",
                where=str(self.path),
                advice="wait for it, or choose another --outdir",
            ) from error
        except OSError as error:
            # Some cluster file systems have no locks; a single run is safe there all the same.
            if error.errno not in {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}:
                raise

    def _read(self) -> int:
        """Read the answers; return the bytes up to the end of the last whole line."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._answers[entry["digest"]] = entry["answer"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    "not an answer",
                    expected="a line of JSON with digest and answer",
                    where=f"{self.path}, line {number}",
                    advice="take the line away; its question will be asked again",
                ) from error
        return whole
