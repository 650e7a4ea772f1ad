"""Local files answer like objects do."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from histocast.errors import DataError, MissingInputError
from histocast.storage import open_source, sampled_digest


def test_reads_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(200)))
    with open_source(str(path)) as source:
        assert source.stat().size_bytes == 200
        assert source.read(10, 5) == bytes(range(10, 15))
        assert source.read(190, 50) == bytes(range(190, 200))
        assert source.read(500, 5) == b""
        assert source.read_ranges({7: (50, 2), 8: (0, 1), 9: (198, 9)}) == {7: b"23", 8: b"\0", 9: b"\xc6\xc7"}
        assert source.local_copy(tmp_path) == path


def test_a_file_cut_short_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(200))
    with open_source(str(path)) as source:
        source.read(0, 200)
        os.truncate(path, 100)
        with pytest.raises(DataError, match="overwritten"):
            source.read_ranges({0: (50, 100)})


def test_threads_share_a_handle(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(1 << 20)
    path.write_bytes(data)
    with open_source(str(path)) as source, ThreadPoolExecutor(8) as pool:

        def agrees(start: int) -> bool:
            return source.read(start, 100) == data[start : start + 100]

        assert all(pool.map(agrees, range(0, len(data) - 100, 511)))


def test_nothing_is_asked_before_it_is_needed(tmp_path: Path) -> None:
    source = open_source(str(tmp_path / "absent"), name="slide of sample S1")
    with pytest.raises(MissingInputError, match=r"^slide of sample S1: no such file") as caught:
        source.stat()
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("absent", MissingInputError),
        ("file/below", MissingInputError),
        ("x" * 300, MissingInputError),
        ("a\0b", MissingInputError),
        (".", DataError),
        ("pipe", DataError),
    ],
)
def test_what_is_no_file(path: str, kind: type[Exception], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    with open_source(f"{tmp_path}/{path}") as source, pytest.raises(kind):
        source.stat()


def test_versions(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    with open_source(str(path)) as source:
        version = source.stat().version
    with open_source(str(path), version=version) as source:
        assert source.read(0, 3) == b"one"
    path.write_bytes(b"three")
    with open_source(str(path), version=version) as source, pytest.raises(DataError, match="overwritten"):
        source.read(0, 3)


@pytest.mark.parametrize("size", [0, 1, 65_536, 200_000])
def test_the_digest_tells_bytes_apart(size: int, tmp_path: Path) -> None:
    digests = set()
    for change in (None, 0, size // 2, size - 1):
        data = bytearray(size)
        if change is not None and size:
            data[change] ^= 1
        path = tmp_path / "file"
        path.write_bytes(data)
        with open_source(str(path)) as source:
            digests.add(sampled_digest(source))
    assert len(digests) == min(4, 1 + len({0, size // 2, size - 1} if size else set()))
    assert all(digest.startswith("sampled-sha256:") and len(digest) == 79 for digest in digests)
