"""The directories of a TIFF, read from a source of bytes without its pixels."""

from __future__ import annotations

import io
import logging
import math
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import tifffile

from histocast.slide.reader import CannotOpen
from histocast.storage import Source

# What tifffile finds wrong is said by our own errors; without a handler it would print to standard error.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What damaged directories make a parser raise; tifffile promises no single class.
_PARSER_ERRORS = (
    tifffile.TiffFileError, LookupError, ArithmeticError, ValueError, TypeError, AttributeError, RuntimeError,
    AssertionError, RecursionError, struct.error,
)  # fmt: skip
# From S3 a directory comes in one round trip instead of one a field: with its lists of blocks, which follow it and
# are a megabyte in the first directory of a large slide.
_CHUNK_BYTES = 256 * 1024
_FIRST_CHUNKS = 4
_MOST_KEPT_BYTES = 8 * 1024 * 1024


@contextmanager
def open_directories(source: Source) -> Iterator[tifffile.TiffFile]:
    """Yield the parsed file; what fails on its directories within the block means that they are damaged.

    Raises `CannotOpen`: it is no TIFF, or its directories are damaged.
    """
    stream = _SourceFile(source)
    if stream.read(4) not in MAGIC:
        raise CannotOpen("it is no TIFF")
    stream.seek(0)
    with _parsed(stream) as file:
        yield file


@contextmanager
def open_bytes(data: bytes) -> Iterator[tifffile.TiffFile]:
    """As `open_directories`, of directories in memory, as an EXIF block has them."""
    with _parsed(io.BytesIO(data)) as file:
        yield file


@contextmanager
def _parsed(stream: io.RawIOBase | io.BytesIO) -> Iterator[tifffile.TiffFile]:
    try:
        # Not a file on disk: tifffile then reads through `_SourceFile` only, and keeps no name.
        with tifffile.TiffFile(cast(BinaryIO, stream)) as file:
            yield file
    except _PARSER_ERRORS as error:
        raise CannotOpen(f"its TIFF directories are damaged ({type(error).__name__})") from error
    except MemoryError as error:
        # Who asks for more than the file holds follows a damaged number; else the machine has too little.
        if _asked_bytes(error) <= stream.seek(0, io.SEEK_END):
            raise
        raise CannotOpen("its TIFF directories are damaged (a list longer than the file)") from None


def _asked_bytes(error: MemoryError) -> int:
    """How much memory NumPy was asked for in vain; 0 where the error is another library's, which says nothing."""
    shape, dtype = getattr(error, "shape", ()), getattr(error, "dtype", None)
    return math.prod(shape) * dtype.itemsize if dtype is not None else 0


class _SourceFile(io.RawIOBase):
    """A source as the file tifffile wants; reads exactly what is asked for where the source is local."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._size_bytes = source.stat().size_bytes
        self._position = 0
        self._chunks: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that it can be sought in."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to an offset from the start, the position or the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer`` as far as the object goes."""
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._size_bytes - self._position))
        data = self._read(self._position, length)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def read(self, size: int = -1, /) -> bytes:
        """Return ``size`` bytes, or the rest where it is negative."""
        # A damaged directory may ask for gigabytes: no buffer is made beyond the object's end.
        rest = max(0, self._size_bytes - self._position)
        data = self._read(self._position, rest if size < 0 else min(size, rest))
        self._position += len(data)
        return data

    def _read(self, start: int, length: int) -> bytes:
        if self._source.is_local or length > _MOST_KEPT_BYTES:
            return self._source.read(start, length)
        first = start // _CHUNK_BYTES
        last = (start + max(length, 1) - 1) // _CHUNK_BYTES
        with self._lock:
            self._fetch_chunks(range(first, last + 1))
            data = b"".join(self._chunks[number] for number in range(first, last + 1))
        return data[start - first * _CHUNK_BYTES :][:length]

    def _fetch_chunks(self, needed: Iterable[int]) -> None:
        wanted = {number for number in needed if number not in self._chunks}
        if wanted and not self._chunks:
            # Directories stand at the start or at the end of a file, or are chained through it to the end.
            count = -(-self._size_bytes // _CHUNK_BYTES)
            wanted |= {*range(min(_FIRST_CHUNKS, count)), max(0, count - 1)}
        chunks = self._source.read_ranges({number: (number * _CHUNK_BYTES, _CHUNK_BYTES) for number in wanted})
        self._chunks.update({number: bytes(chunk) for number, chunk in chunks.items()})
