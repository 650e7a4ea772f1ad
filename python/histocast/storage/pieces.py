"""Where the bytes of ranges lie once they were read: next to each other in a few large arrays that go round.

A copy each would be memory that is taken and given back with every read: on a virtual machine its pages, touched for
the first time again and again, cost a twentieth of a slide's decoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from histocast.storage.array_memory import ArrayMemory
from histocast.storage.ranges import MAX_REQUEST_BYTES, Request
from histocast.storage.source import Range


def piece_memory() -> ArrayMemory:
    """Return what the pieces of one source are written to."""
    return ArrayMemory((MAX_REQUEST_BYTES,))


class Pieces(Mapping[int, memoryview]):
    """The bytes of ranges by their keys, as read-only views; `places` says where to write what.

    A view is made when it is asked for: thousands that wait would each be looked at by every run of the garbage
    collector.

    ``requests``: which reads bring them.
    ``ranges``: start and length of each range.
    ``memory``: `piece_memory`, used again once neither the pieces nor a view of them are held.
    """

    def __init__(self, requests: Iterable[Request], ranges: Mapping[int, Range], memory: ArrayMemory) -> None:
        self.places: list[tuple[int, memoryview]] = []
        """Start of each request, and what its bytes are to be written to."""
        self._arrays: list[memoryview] = []
        self._pieces: dict[int, tuple[int, int, int]] = {}
        used = free = 0
        for request in requests:
            if request.length > free or not self._arrays:
                # A range longer than a request may be is read at once, into memory of its own.
                fits = request.length <= MAX_REQUEST_BYTES
                self._arrays.append((memory.array() if fits else np.empty(request.length, np.uint8)).data)
                used, free = 0, len(self._arrays[-1])
            self.places.append((request.start, self._arrays[-1][used : used + request.length]))
            for key in request.members:
                start, length = ranges[key]
                first = used + start - request.start
                self._pieces[key] = (len(self._arrays) - 1, first, first + length)
            used, free = used + request.length, free - request.length

    def __getitem__(self, key: int) -> memoryview:
        """Return the bytes of a range."""
        array, start, end = self._pieces[key]
        return self._arrays[array][start:end].toreadonly()

    def __iter__(self) -> Iterator[int]:
        """Go through the keys, in the order of the file."""
        return iter(self._pieces)

    def __len__(self) -> int:
        """Return how many ranges there are."""
        return len(self._pieces)
