"""Arrays that live in a file: what grows with the slide stays out of resident memory."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from histocast.errors import OutputError


def scratch_array(folder: Path, name: str, *, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """A zeroed array of ``shape`` backed by the file ``folder/name.bin``; the folder's owner deletes it.

    The disk space is reserved at once: writing through a memory map to a full disk would end the process by
    a signal, with no message, where this raises an error that says what to do.

    Raises
    ------
    OutputError
        The scratch disk has no room for it, or the folder cannot be written.
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
