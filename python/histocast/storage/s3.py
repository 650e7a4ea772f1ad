"""S3 objects by ranged reads, with obstore.

Every body is asked for with ``If-Match``, so that no stage mixes two versions of an object.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self, TypeVar

import obstore

from histocast.errors import DataError, StorageUnavailable, UsageError
from histocast.storage.copies import write_copy
from histocast.storage.pieces import Pieces, piece_memory
from histocast.storage.ranges import MAX_REQUEST_BYTES, coalesce_gap, plan_requests
from histocast.storage.s3_buckets import ATTEMPTS, Buckets, connect, read_settings_again
from histocast.storage.s3_errors import RAISED, is_of_credentials, is_of_region, our_error, status_of
from histocast.storage.source import Bytes, ObjectStat, Range, clipped, overwritten

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

Answer = TypeVar("Answer")
Wanted = TypeVar("Wanted")

# Sixteen requests of 8 MB in flight reach 11,700 tiles/s at 30 ms, far above what decoding takes; eight
# are still above it and bound memory at 64 MB.
CONCURRENCY = 8
BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
_NO_SUCH_RANGE = 416


_UNASKABLE = re.compile(r"(^|/)\.\.?(/|$)|[\x00-\x1f\x7f]")


class _WrongBody(OSError):
    """The body is shorter than what was asked for, or longer."""


class S3Source:
    """An S3 object; see `Source`."""

    is_local = False

    def __init__(self, uri: str, *, version: str | None = None, name: str | None = None) -> None:
        self.uri = uri
        self.name = name or uri
        self._bucket, _, self._key = uri.removeprefix("s3://").partition("/")
        if not self._bucket or not self._key:
            raise UsageError(f"the URI {uri!r}", expected="s3://bucket/key")
        if _UNASKABLE.search(self._key):
            raise UsageError(
                "a key with '.' or '..' between slashes, or with a control character",
                expected="s3://bucket/key",
                where=self.name,
                advice="copy the object to another key: no URL can say this one",
            )
        self._version = version
        self._stat: ObjectStat | None = None
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._memory = piece_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; connections stay for the next object of the bucket."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def stat(self) -> ObjectStat:
        """See `Source.stat`."""
        if self._stat is None:
            meta = self._retried(_meta)
            found = ObjectStat(meta["size"], self._version_of(meta))
            if self._version is not None and found.version != self._version:
                raise overwritten(self.name, found=found.version, expected=self._version)
            self._stat = found
        return self._stat

    def read(self, start: int, length: int) -> bytes:
        """See `Source.read`; parts of a long range are asked for at once."""
        return b"".join(self.read_ranges(_parts(start, length)).values())

    def read_ranges(self, ranges: Mapping[int, Range], *, max_gap_bytes: int | None = None) -> Mapping[int, Bytes]:
        """See `Source.read_ranges`; `CONCURRENCY` requests at a time."""
        within = clipped(ranges, self.stat().size_bytes)
        if max_gap_bytes is None:
            max_gap_bytes = coalesce_gap(within.values())
        pieces = Pieces(plan_requests(within, max_gap_bytes=max_gap_bytes), within, self._memory)
        for _ in self._at_once(lambda place: self._read_into(*place), pieces.places):
            pass
        return pieces

    def local_copy(self, scratch: Path) -> Path:
        """Download the object into ``scratch`` and return the file, whole and of the recorded version."""

        def get(part: Range) -> tuple[int, Bytes]:
            return part[0], self._read_part(*part)

        parts = _parts(0, self.stat().size_bytes).values()
        # The suffix stays, because some formats are told by it; the name does not.
        return write_copy(self._at_once(get, parts), scratch, suffix=PurePosixPath(self._key).suffix)

    def _at_once(self, read: Callable[[Wanted], Answer], wanted: Iterable[Wanted]) -> Iterator[Answer]:
        """Yield what ``read`` returns of each, in their order, `CONCURRENCY` at a time."""
        coming: deque[Future[Answer]] = deque()
        pool = self._executor()
        try:
            for one in wanted:
                coming.append(pool.submit(read, one))
                if len(coming) == CONCURRENCY:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="s3")
            return self._pool

    def _read_into(self, start: int, into: memoryview) -> None:
        if into:
            into[:] = self._read_part(start, len(into))

    def _read_part(self, start: int, length: int) -> memoryview:
        etag = self.stat().version

        def ask(store: S3Store, path: str) -> memoryview:
            answer = obstore.get(store, path, options={"if_match": f'"{etag}"', "range": (start, start + length)})
            # A store that ignores If-Match must not mix two versions either.
            if (found := self._version_of(answer.meta)) != etag:
                raise overwritten(self.name, found=found, expected=etag)
            body = memoryview(answer.bytes())
            if len(body) != length:
                raise _WrongBody(f"{len(body)} bytes of {length}")
            return body

        return self._retried(ask)

    def _version_of(self, meta: ObjectMeta) -> str:
        etag = (meta["e_tag"] or "").strip('"')
        if not etag:
            raise DataError(
                "the store gives it no ETag",
                expected="one, by which an object that is overwritten during a run is told",
                where=self.name,
                advice="put the object there through S3, not into the folder behind the store",
            )
        return etag

    def _retried(self, ask: Callable[[S3Store, str], Answer]) -> Answer:
        for attempt in range(1, ATTEMPTS + 1):
            buckets = None
            try:
                buckets = connect()
                return self._ask(buckets, ask)
            except RAISED as error:
                mapped = our_error(error, name=self.name, key=self._key, version=self._version)
                if not isinstance(mapped, StorageUnavailable) or attempt == ATTEMPTS:
                    raise mapped from error
                if buckets is not None and is_of_credentials(error):
                    read_settings_again(buckets)
            # Full jitter: threads that were throttled together do not come back together.
            time.sleep(random.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2**attempt)))  # noqa: S311
        raise AssertionError(self.name)  # pragma: no cover - the last attempt returns or raises

    def _ask(self, buckets: Buckets, ask: Callable[[S3Store, str], Answer]) -> Answer:
        store, path = buckets.store(self._bucket, self._key)
        try:
            return ask(store, path)
        except RAISED as error:
            if is_of_region(error) and buckets.find_region(self._bucket, asked=store):
                return ask(*buckets.store(self._bucket, self._key))
            raise


def _meta(store: S3Store, path: str) -> ObjectMeta:
    """Ask for size and version by the first byte: an answer to HEAD neither says why it refuses, nor what only a reader is refused for."""
    try:
        answer = obstore.get(store, path, options={"range": (0, 1)})
    except obstore.exceptions.BaseError as error:
        if status_of(error) != _NO_SUCH_RANGE:
            raise
        # Of an empty object.
        return obstore.head(store, path)
    answer.bytes()
    return answer.meta


def _parts(start: int, length: int) -> dict[int, Range]:
    """Divide a range into those of a request each."""
    return {
        position: (position, min(MAX_REQUEST_BYTES, start + length - position))
        for position in range(start, start + length, MAX_REQUEST_BYTES)
    }
