"""A copy can be read while it arrives, and says so when it never will."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from histocast.errors import OutputError, StorageUnavailable
from histocast.storage import ArrivingCopy, open_source
from histocast.storage.local import LocalSource
from histocast.storage.source import Piece, Range

PART = 1000


class SlowSource(LocalSource):
    """Hands out one part for each time it is let."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.let = threading.Semaphore(0)
        self.fails = False

    def read_ranges(self, ranges: Sequence[Range], *, max_gap_bytes: int | None = None) -> Iterator[Piece]:
        for piece in super().read_ranges(ranges, max_gap_bytes=max_gap_bytes):
            assert self.let.acquire(timeout=10)
            if self.fails:
                raise StorageUnavailable("the store is gone", where=self.name)
            yield piece


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr("histocast.storage.copies.MAX_REQUEST_BYTES", PART)
    data = np.random.default_rng(0).bytes(5 * PART + 123)
    (tmp_path / "object").write_bytes(data)
    return data


@pytest.fixture
def slow(data: bytes, tmp_path: Path) -> Iterator[SlowSource]:
    with SlowSource(str(tmp_path / "object")) as source:
        yield source


def test_what_has_arrived_can_be_read_and_the_rest_is_waited_for(slow: SlowSource, data: bytes, tmp_path: Path) -> None:
    with ArrivingCopy(slow, tmp_path / "scratch") as copy:
        slow.let.release(2)
        assert copy.read(500, 1500) == data[500:2000]
        later: list[bytes] = []
        reading = threading.Thread(target=lambda: later.append(copy.read(4000, 9000)))
        reading.start()
        reading.join(timeout=0.2)
        assert reading.is_alive()
        slow.let.release(4)
        reading.join(timeout=10)
        assert later == [data[4000:]]
        assert dict(copy.read_ranges([(5000, 200), (0, 10)])) == {0: data[5000:5200], 1: data[:10]}
        assert copy.stat() == slow.stat()


def test_an_error_reaches_whoever_waits(slow: SlowSource, tmp_path: Path) -> None:
    with ArrivingCopy(slow, tmp_path / "scratch") as copy:
        slow.let.release(1)
        copy.read(0, PART)
        slow.fails = True
        slow.let.release(1)
        with pytest.raises(StorageUnavailable, match="gone"):
            copy.read(PART, 1)


def test_closing_ends_the_download_and_leaves_nothing(slow: SlowSource, tmp_path: Path) -> None:
    copy = ArrivingCopy(slow, tmp_path / "scratch")
    slow.let.release(1)
    copy.read(0, PART)
    slow.let.release(1)
    copy.close()
    assert not list((tmp_path / "scratch").iterdir())


def test_a_scratch_that_cannot_be_written_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "scratch").write_text("a file")
    with open_source(str(tmp_path / "object")) as source, pytest.raises(OutputError, match="HISTOCAST_SCRATCH"):
        ArrivingCopy(source, tmp_path / "scratch")
