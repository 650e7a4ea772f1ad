"""Which requests bring many small ranges: near ones together, none too large, not too much in vain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from histocast.storage.source import Range

# Measured at 30 ms latency: gaps up to 1 MB cost a quarter more bytes and spare three quarters of the
# requests. A gap of 64 kB takes less than a millisecond and is always read over; larger ones are as long as
# their sum stays a quarter of what was asked for. A request of 8 MB is past the point where latency matters, and
# small enough to be asked for again.
SMALL_GAP_BYTES = 64_000
MAX_GAP_BYTES = 1_000_000
MAX_REQUEST_BYTES = 8_000_000
MAX_WASTE = 0.25
"""Bytes read in larger gaps, as a share of those asked for."""


@dataclass(frozen=True)
class Request:
    """One contiguous read, and the ranges it brings."""

    start: int
    length: int
    members: tuple[int, ...]
    """Positions of the ranges among those asked for."""


def plan_requests(
    ranges: Sequence[Range],
    *,
    max_gap_bytes: int = MAX_GAP_BYTES,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    max_waste: float = MAX_WASTE,
    small_gap_bytes: int = SMALL_GAP_BYTES,
) -> Iterator[Request]:
    """Yield the requests that cover every range, in the order of the file.

    Small gaps are read over, then larger ones from the smallest, as far as ``max_waste`` goes. A range is never split, so one longer
    than ``max_request_bytes`` is a request of its own. Ranges may overlap or repeat.

    >>> [(r.start, r.length, r.members) for r in plan_requests([(90, 10), (0, 30), (32, 5)], small_gap_bytes=10)]
    [(0, 37, (1, 2)), (90, 10, (0,))]
    """
    order = sorted(range(len(ranges)), key=ranges.__getitem__)
    gaps = _gaps_before(order, ranges)
    left_bytes = max_waste * sum(length for _, length in ranges)
    joined = set()
    for gap, index in sorted(gaps):
        left_bytes -= gap if gap > small_gap_bytes else 0
        if gap > max(max_gap_bytes, small_gap_bytes) or left_bytes < 0:
            break
        joined.add(index)
    members: list[int] = []
    start = end = 0
    for index in order:
        range_start, length = ranges[index]
        range_end = range_start + length
        if members and (index not in joined or max(end, range_end) - start > max_request_bytes):
            yield Request(start, end - start, tuple(members))
            members = []
        if not members:
            start, end = range_start, range_end
        members.append(index)
        end = max(end, range_end)
    if members:
        yield Request(start, end - start, tuple(members))


def _gaps_before(order: Sequence[int], ranges: Sequence[Range]) -> list[tuple[int, int]]:
    """Return the bytes between each range and those before it, with its position."""
    gaps = []
    end = 0
    for index in order:
        start, length = ranges[index]
        gaps.append((max(0, start - end), index))
        end = max(end, start + length)
    return gaps
