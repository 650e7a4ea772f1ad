"""Merged requests cover every range and stay within their bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from histocast.storage.ranges import SMALL_GAP_BYTES, coalesce_gap, plan_requests, should_read_whole

RANGES = st.dictionaries(st.integers(), st.tuples(st.integers(0, 10_000), st.integers(0, 500)), max_size=60)


@given(ranges=RANGES, gap=st.integers(0, 800), most=st.integers(1, 3_000))
def test_every_range_is_covered_once(ranges: dict[int, tuple[int, int]], gap: int, most: int) -> None:
    requests = list(plan_requests(ranges, max_gap_bytes=gap, max_request_bytes=most))
    assert sorted(key for request in requests for key in request.members) == sorted(ranges)
    for request in requests:
        ends = [request.start]
        for key in sorted(request.members, key=lambda member: ranges[member]):
            start, length = ranges[key]
            assert request.start <= start
            assert start + length <= request.start + request.length
            assert start - max(ends) <= gap, "a gap too wide was read"
            ends.append(start + length)
        longest = max(ranges[key][1] for key in request.members)
        assert request.length <= max(most, longest)


@given(ranges=RANGES)
def test_requests_go_through_the_file_once(ranges: dict[int, tuple[int, int]]) -> None:
    starts = [request.start for request in plan_requests(ranges, max_gap_bytes=50, max_request_bytes=1000)]
    assert starts == sorted(starts)


@given(ranges=RANGES, waste=st.floats(0, 2))
def test_gaps_cost_what_was_allowed(ranges: dict[int, tuple[int, int]], waste: float) -> None:
    gap = coalesce_gap(ranges.values(), max_waste=waste, least=0)
    asked = sum(length for _, length in ranges.values())
    assert sum(request.length for request in plan_requests(ranges, max_gap_bytes=gap)) <= asked * (1 + waste)


def test_the_narrowest_gaps_are_read_first() -> None:
    ranges = [(0, 100), (110, 100), (240, 100), (400, 100), (505, 100)]
    found = [coalesce_gap(ranges, max_waste=waste, least=0) for waste in (0, 0.01, 0.03, 0.1, 1)]
    assert found == [0, 5, 10, 30, 60]
    assert coalesce_gap(ranges, max_waste=1, least=0, most=50) == 50
    assert coalesce_gap(ranges, max_waste=0, least=20) == 20


def test_gaps_of_one_width_are_read_all_or_none() -> None:
    ranges = [(0, 100), (110, 100), (220, 100), (325, 100)]
    assert [coalesce_gap(ranges, max_waste=waste, least=0) for waste in (0.04, 0.07)] == [5, 10]


def test_an_object_is_read_whole_from_half_of_its_bytes_on() -> None:
    stored = [(start, 100) for start in range(1000, 2000, 100)]
    for count in range(1, 11):
        assert should_read_whole(stored[:count], stored=stored, object_bytes=1500) == (100 * count > 750)


def test_nothing_is_read_whole_that_has_something_else_in_it() -> None:
    """Such as a label, from behind which the blocks go on."""
    for between, whole in ((SMALL_GAP_BYTES, True), (SMALL_GAP_BYTES + 1, False)):
        stored = [(0, 400_000), (400_000 + between, 400_000)]
        assert should_read_whole(stored, stored=stored, object_bytes=900_000) == whole


def test_what_is_not_needed_in_the_order_of_the_file_is_not_read_whole() -> None:
    stored = [(start, 100) for start in range(0, 1000, 100)]
    assert should_read_whole(stored, stored=stored, object_bytes=1000)
    assert should_read_whole(stored, stored=stored[::-1], object_bytes=1000)
    assert not should_read_whole([stored[1], stored[0], *stored[2:]], stored=stored, object_bytes=1000)
