"""An HDF5 file on a disk that may be full.

HDF5 keeps dirty blocks in a cache and flushes them when objects are closed or garbage-collected; on a full disk
each of these attempts fails again, from destructors, in the middle of other work, and at times kills the
process. So the bytes pass through a Python file that remembers the first failure and from then on takes
everything: HDF5 closes in peace, and the failure is raised once, by us.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py
    from typing_extensions import Buffer


class _RememberingFile(io.FileIO):
    """A raw file whose first failed write is kept in ``failure`` and whose later ones are ignored."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None

    def write(self, data: Buffer, /) -> int:
        remaining = memoryview(data).cast("B")
        length = len(remaining)
        try:
            # A raw write may take a part only, also when the disk becomes full within it.
            while self.failure is None and len(remaining):
                remaining = remaining[super().write(remaining) :]
        except OSError as error:
            self.failure = error
        return length

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


@contextmanager
def create_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file at ``path``.

    Raises
    ------
    OSError
        The disk is full or the file cannot be written; whatever HDF5 made of it meanwhile is its cause.
    """
    import h5py

    with _RememberingFile(path) as sink:
        try:
            with h5py.File(sink, "w") as file:
                yield file
        except (OSError, RuntimeError) as error:
            if sink.failure is None:
                raise
            raise sink.failure from error
        if sink.failure is not None:
            raise sink.failure
