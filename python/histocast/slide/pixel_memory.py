"""Memory of large pixel arrays, used again once nobody holds the array.

An allocator either keeps what was freed, and a long slide's memory creeps up, or gives it back, and each new
array is paid for page by page: a sixth of all processor time. Here a few buffers go round.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections import deque

import numpy as np

from histocast.slide.reader import Pixels


class PixelMemory:
    """Hands out arrays of one shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: deque[mmap.mmap] = deque()

    def array(self) -> Pixels:
        """Return an uninitialised uint8 array; its memory comes back when it and every view of it are gone."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, max(1, math.prod(self._shape)))
        flat = np.frombuffer(memory, np.uint8, math.prod(self._shape))
        # Whatever is cut from this array refers to `flat`, and not to `memory`: while a view lives, `flat` does.
        weakref.finalize(flat, self._free.append, memory).atexit = False
        return flat.reshape(self._shape)
