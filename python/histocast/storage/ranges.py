"""Which requests bring many small ranges: near ones together, none too large, not too much in vain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histocast.storage.source import Range

Ranges = Iterable[Range] | NDArray[np.int64]
"""Also as an array of starts and lengths, [range, 2]: a slide has hundreds of thousands."""

# Measured at 30 ms latency: gaps up to 1 MB cost a quarter more bytes and spare three quarters of the
# requests. A gap of 64 kB takes less than a millisecond and is always read over; larger ones are as long as
# their sum stays a quarter of what was asked for. A request of 8 MB is past the point where latency matters, and
# small enough to be asked for again.
SMALL_GAP_BYTES = 64_000
MAX_GAP_BYTES = 1_000_000
MAX_REQUEST_BYTES = 8_000_000
MAX_WASTE = 0.25
"""Bytes read in gaps, as a share of those asked for."""
WHOLE_FROM = 0.5
"""Share of an object's bytes: where more of them are needed, it is read whole."""


@dataclass(frozen=True)
class Request:
    """One contiguous read, and the ranges it brings."""

    start: int
    length: int
    members: tuple[int, ...]
    """Keys of the ranges."""


def file_order(ranges: Mapping[int, Range]) -> list[int]:
    """Return the keys of the ranges, in the order of the file."""
    return sorted(ranges, key=ranges.__getitem__)


def coalesce_gap(
    ranges: Ranges, *, max_waste: float = MAX_WASTE, least: int = SMALL_GAP_BYTES, most: int = MAX_GAP_BYTES
) -> int:
    """Return how wide a gap between ranges may be to be read over, so that few requests are made at a bounded price.

    All gaps up to it together are at most ``max_waste`` of the bytes asked for, unless it is ``least``. To read the
    narrowest gaps saves the most requests a byte, so that it is best asked about all ranges that will be read.

    >>> coalesce_gap([(0, 100), (110, 100), (240, 100), (400, 100)], max_waste=0.1, least=5)
    30
    """
    starts, ends = _in_order(ranges)
    gaps = np.sort(_gaps(starts, ends))
    # Of gaps of one width either all are read or none.
    paid = np.flatnonzero(np.cumsum(gaps) <= max_waste * int((ends - starts).sum()))
    count = int(paid[-1]) + 1 if len(paid) else 0
    while 0 < count < len(gaps) and gaps[count - 1] == gaps[count]:
        count -= 1
    return min(max(int(gaps[count - 1]) if count else 0, least), most)


def should_read_whole(needed: Ranges, *, stored: Ranges, object_bytes: int) -> bool:
    """Whether all between the first and the last of the needed ranges is to be read, gaps of any width included.

    Parameters
    ----------
    needed:
        What will be read, in that order: in another than the file's, each part of it would bring other parts as well.
    stored:
        What may be read, needed or not: with anything else between them, such as a label, nothing is read whole.
    object_bytes:
        Size of the object, over half of which has to be needed.

    >>> few, most = [(0, 20), (70, 20)], [(0, 20), (30, 20), (70, 20)]
    >>> [should_read_whole(needed, stored=[(0, 50), (50, 50)], object_bytes=100) for needed in (few, most)]
    [False, True]
    """
    wanted = _table(needed)
    if wanted[:, 1].sum() <= WHOLE_FROM * object_bytes or (np.diff(wanted[:, 0]) < 0).any():
        return False
    return bool(_gaps(*_in_order(stored)).max(initial=0) <= SMALL_GAP_BYTES)


def plan_requests(
    ranges: Mapping[int, Range], *, max_gap_bytes: int, max_request_bytes: int = MAX_REQUEST_BYTES
) -> Iterator[Request]:
    """Yield the requests that cover every range, in the order of the file; gaps up to ``max_gap_bytes`` are read over.

    A range is never split, so one longer than ``max_request_bytes`` is a request of its own. Ranges may overlap or
    repeat.

    >>> ranges = {6: (90, 10), 7: (0, 30), 8: (32, 5)}
    >>> [(r.start, r.length, r.members) for r in plan_requests(ranges, max_gap_bytes=10)]
    [(0, 37, (7, 8)), (90, 10, (6,))]
    """
    members: list[int] = []
    start = end = 0
    for key in file_order(ranges):
        range_start, length = ranges[key]
        range_end = range_start + length
        if members and (range_start - end > max_gap_bytes or max(end, range_end) - start > max_request_bytes):
            yield Request(start, end - start, tuple(members))
            members = []
        if not members:
            start, end = range_start, range_end
        members.append(key)
        end = max(end, range_end)
    if members:
        yield Request(start, end - start, tuple(members))


def _table(ranges: Ranges) -> NDArray[np.int64]:
    """Starts and lengths, [range, 2]."""
    return np.asarray(ranges if isinstance(ranges, np.ndarray) else list(ranges), np.int64).reshape(-1, 2)


def _in_order(ranges: Ranges) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends, sorted by start."""
    table = _table(ranges)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return table[:, 0], table.sum(axis=1)


def _gaps(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many bytes lie between each of the sorted ranges and all before it."""
    return np.maximum(starts[1:] - np.maximum.accumulate(ends)[:-1], 0)
