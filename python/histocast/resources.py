"""What the machine gives a task: threads, a scratch folder, and arrays on it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from histocast.errors import OutputError, UsageError

THREADS_VARIABLE = "HISTOCAST_THREADS"


def available_threads() -> int:
    """Processors this process may use, which in a container or a job is not the machine's count.

    The pipeline says in ``HISTOCAST_THREADS`` what a task asked for, because many schedulers share a machine out
    without showing each job its own part.

    Raises `UsageError`: ``HISTOCAST_THREADS`` is no number of threads.
    """
    shown = len(os.sched_getaffinity(0))
    said = os.environ.get(THREADS_VARIABLE, "")
    if not said:
        return shown
    if not said.isdecimal() or int(said) < 1:
        raise UsageError(f"{THREADS_VARIABLE} is {said!r}", expected="a whole number, at least 1")
    return min(shown, int(said))


SCRATCH_VARIABLE = "HISTOCAST_SCRATCH"


@contextmanager
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """Yield a folder for large temporary files that is gone with the block.

    It is made in the folder that ``HISTOCAST_SCRATCH`` names, else in ``beside``, else where the system keeps temporary
    files (``TMPDIR``).

    Raises `OutputError`: it cannot be made there.
    """
    disk = os.environ.get(SCRATCH_VARIABLE)
    parent = disk or beside
    try:
        parent = Path(parent or gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=".histocast-", dir=parent)
    except OSError as error:
        raise OutputError(
            f"cannot make a folder here: {error.strerror or error}",
            where=str(parent),
            advice=f"point {SCRATCH_VARIABLE} at a folder that can be written"
            + (", or choose another --outdir" if beside and not disk else ""),
        ) from error
    with folder as name:
        yield Path(name)


def scratch_array(folder: Path, name: str, *, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """A zeroed array of ``shape`` backed by the file ``folder/name.bin``; the folder's owner deletes it.

    The disk space is reserved at once: writing through a memory map to a full disk would end the process by
    a signal, with no message, where this raises an error that says what to do.

    Raises `OutputError`: the scratch disk has no room for it, or the folder cannot be written.
    """
    size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if size_bytes == 0:
        return np.zeros(shape, dtype)
    path = folder / f"{name}.bin"
    try:
        with path.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, size_bytes)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(
            f"no room for {size_bytes / 1e9:.2f} GB of scratch: {error.strerror or error}",
            where=str(folder),
            advice="make room, or point HISTOCAST_SCRATCH at a larger disk, then run again with -resume",
        ) from error
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
