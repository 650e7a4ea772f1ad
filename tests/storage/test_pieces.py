"""Ranges that come in a few arrays are the bytes that were asked for, for as long as somebody holds them."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histocast.storage.array_memory import ArrayMemory
from histocast.storage.pieces import Pieces, piece_memory
from histocast.storage.ranges import MAX_REQUEST_BYTES, plan_requests
from histocast.storage.source import clipped

CONTENT = bytes(index * 31 % 251 for index in range(12_000))


def read(ranges: dict[int, tuple[int, int]], memory: ArrayMemory, *, gap: int = 50, most: int = 700) -> Pieces:
    pieces = Pieces(plan_requests(ranges, max_gap_bytes=gap, max_request_bytes=most), ranges, memory)
    for start, into in pieces.places:
        into[:] = CONTENT[start : start + len(into)]
    return pieces


@given(
    ranges=st.dictionaries(st.integers(), st.tuples(st.integers(0, 13_000), st.integers(0, 500)), max_size=60),
    gap=st.integers(0, 800),
    most=st.integers(1, 3_000),
)
def test_every_range_is_found_again(ranges: dict[int, tuple[int, int]], gap: int, most: int) -> None:
    within = clipped(ranges, len(CONTENT))
    pieces = read(within, piece_memory(), gap=gap, most=most)
    assert pieces == {key: CONTENT[start : start + length] for key, (start, length) in ranges.items()}
    assert pieces.get(max(ranges, default=0) + 1) is None


def test_a_range_longer_than_a_request_may_be() -> None:
    ranges = {1: (0, 10), 2: (10, MAX_REQUEST_BYTES + 1), 3: (MAX_REQUEST_BYTES + 11, 10)}
    pieces = Pieces(plan_requests(ranges, max_gap_bytes=0), ranges, piece_memory())
    for start, into in pieces.places:
        into[:] = bytes([start % 251]) * len(into)
    assert {key: (len(piece), piece[0]) for key, piece in pieces.items()} == {
        1: (10, 0),
        2: (MAX_REQUEST_BYTES + 1, 10),
        3: (10, (MAX_REQUEST_BYTES + 11) % 251),
    }


def test_nobody_writes_to_what_is_held() -> None:
    memory = piece_memory()
    held = read({0: (100, 50)}, memory)[0]
    gc.collect()
    read({0: (5000, 50)}, memory)
    assert held == CONTENT[100:150]
    with pytest.raises(TypeError, match="read-only"):
        held[0] = 1
