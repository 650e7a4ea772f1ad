"""Which requests bring many small ranges: near ones together, none too large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from histocast.storage.source import Range

# Measured at 30 ms latency: gaps up to 1 MB cost a quarter more bytes and spare three quarters of the
# requests; a request of 8 MB is past the point where latency matters, and small enough to be retried.
MAX_GAP_BYTES = 1_000_000
MAX_REQUEST_BYTES = 8_000_000


@dataclass(frozen=True)
class Request:
    """One contiguous read, and the ranges it brings."""

    start: int
    length: int
    members: tuple[int, ...]
    """Positions of the ranges among those asked for."""


def plan_requests(
    ranges: Sequence[Range], *, max_gap_bytes: int = MAX_GAP_BYTES, max_request_bytes: int = MAX_REQUEST_BYTES
) -> Iterator[Request]:
    """Yield the requests that cover every range, in the order of the file.

    A range is never split, so one longer than ``max_request_bytes`` is a request of its own. Ranges may
    overlap or repeat.

    >>> [(r.start, r.length, r.members) for r in plan_requests([(90, 10), (0, 10), (20, 5)], max_gap_bytes=10)]
    [(0, 25, (1, 2)), (90, 10, (0,))]
    """
    members: list[int] = []
    start = end = 0
    for index in sorted(range(len(ranges)), key=ranges.__getitem__):
        range_start, length = ranges[index]
        range_end = range_start + length
        near = range_start - end <= max_gap_bytes and max(end, range_end) - start <= max_request_bytes
        if members and not near:
            yield Request(start, end - start, tuple(members))
            members = []
        if not members:
            start, end = range_start, range_end
        members.append(index)
        end = max(end, range_end)
    if members:
        yield Request(start, end - start, tuple(members))
