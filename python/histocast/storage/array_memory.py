"""Memory of large arrays of bytes, used again once nobody holds the array.

An allocator either keeps what was freed, and a long slide's memory creeps up, or gives it back, and each new
array is paid for page by page: a sixth of all processor time. Here a few buffers go round.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

_HUGE_PAGE_BYTES = 2 * 1024 * 1024


class ArrayMemory:
    """Hands out arrays of one shape."""

    def __init__(self, shape: tuple[int, ...], *, offset_bytes: int = 0) -> None:
        self._shape = shape
        self._offset_bytes = offset_bytes
        self._free: deque[mmap.mmap] = deque()

    def array(self) -> NDArray[np.uint8]:
        """Return an uninitialised uint8 array; its memory comes back when it and every view of it are gone."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = _mapped(max(1, math.prod(self._shape)) + self._offset_bytes)
        flat = np.frombuffer(memory, np.uint8, math.prod(self._shape), self._offset_bytes)
        # Whatever is cut from this array refers to `flat`, and not to `memory`: while a view lives, `flat` does.
        weakref.finalize(flat, self._free.append, memory).atexit = False
        return flat.reshape(self._shape)


def _mapped(size_bytes: int) -> mmap.mmap:
    # Private, because Python's default is shared memory, whose pages cost more and are never huge.
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size_bytes >= 2 * _HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        # A kernel without huge pages refuses; small ones cost a tenth of a short slide's processor time.
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
