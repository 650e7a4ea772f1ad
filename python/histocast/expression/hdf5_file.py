"""An HDF5 file on a disk that may be full.

HDF5 keeps dirty blocks in a cache and flushes them when objects are closed or garbage-collected; on a full disk
each of these attempts fails again, from destructors, in the middle of other work, and at times kills the
process. So the bytes pass through a Python file that remembers the first failure and from then on keeps what it is
given in memory: HDF5 reads back what it believes to have written, closes in peace, and the failure is raised once,
by us.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py
    from typing_extensions import Buffer


class _RememberingFile(io.FileIO):
    """A raw file whose first failed write is kept in ``failure``; that and later ones go to memory instead."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None
        self.unwritten: list[tuple[int, bytes]] = []

    def write(self, data: Buffer, /) -> int:
        content = memoryview(data).cast("B")
        start, done = self.tell(), 0
        try:
            # A raw write may take a part only, also when the disk becomes full within it.
            while self.failure is None and done < len(content):
                done += super().write(content[done:])
        except OSError as error:
            self.failure = error
        if done < len(content):
            self.unwritten.append((start + done, bytes(content[done:])))
            self.seek(start + len(content))
        return len(content)

    def readinto(self, buffer: Buffer, /) -> int:
        target = memoryview(buffer).cast("B")
        start = self.tell()
        found = super().readinto(target) or 0
        if self.failure is None:
            return found
        # A reader that meets other bytes than it wrote, or none, crashes.
        target[found:] = bytes(len(target) - found)
        for place, content in self.unwritten:
            first, last = max(place, start), min(place + len(content), start + len(target))
            if first < last:
                target[first - start : last - start] = content[first - place : last - place]
        self.seek(start + len(target))
        return len(target)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure


@contextmanager
def create_hdf5(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Yield a new HDF5 file at ``path``, and a function to call now and then that raises what failed so far.

    What is written between a failure and the next call is held in memory.

    Raises `OSError`: the disk is full or the file cannot be written; whatever HDF5 made of it meanwhile is its cause.
    """
    import h5py

    with _RememberingFile(path) as sink:
        try:
            with h5py.File(sink, "w") as file:
                yield file, sink.check
        except (OSError, RuntimeError) as error:
            if sink.failure in (None, error):
                raise
            raise sink.failure from error
        sink.check()
