"""S3 objects by ranged reads, with boto3.

Credentials, region, profile, role and endpoint (``AWS_ENDPOINT_URL``) are found as boto3 finds them;
server-side encryption is transparent to readers. ``AWS_REQUEST_PAYER=requester`` pays for requester-pays
buckets. Every body is asked for with ``If-Match``, so that no stage mixes two versions of an object.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.loaders import Loader, create_loader

from histocast.errors import ConfigError, DataError, MissingInputError, StorageUnavailable, UsageError
from histocast.storage.copies import write_copy
from histocast.storage.pieces import Pieces, piece_memory
from histocast.storage.ranges import MAX_REQUEST_BYTES, coalesce_gap, plan_requests
from histocast.storage.s3_errors import ARCHIVED, RAISED, is_refusal, our_error
from histocast.storage.source import Bytes, ObjectStat, Range, clipped, overwritten

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

Answer = TypeVar("Answer")
Wanted = TypeVar("Wanted")

# Sixteen requests of 8 MB in flight reach 11,700 tiles/s at 30 ms, far above what decoding takes; eight
# are still above it and bound memory at 64 MB.
CONCURRENCY = 8
ATTEMPTS = 6
BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
CONNECT_TIMEOUT_S = 10
# A stalled connection is given up and asked again: twenty seconds without one byte is not slowness.
READ_TIMEOUT_S = 20
_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
# As much as stays in the processor's cache on its way through the HTTP library.
_RECEIVE_BYTES = 256 * 1024


def connect(connections: int) -> S3Client:
    """Return a client that keeps up to ``connections`` open; threads may share it.

    Making the first takes a tenth of a second, most of it to read what AWS's services are like, which later ones share.

    Raises
    ------
    ConfigError
        The AWS settings name a profile, a region or an endpoint that there is not.
    """
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=connections,
        # Ours alone, since botocore's retries do not cover a body that stops half-way.
        retries={"total_max_attempts": 1},
    )
    try:
        # A session of its own, since credentials and profile are found when it is made.
        session = botocore.session.Session()
        session.register_component("data_loader", _service_descriptions())
        client: S3Client = boto3.session.Session(botocore_session=session).client("s3", config=config)
    except RAISED as error:
        raise our_error(error, name="S3", key="", version=None) from error
    except ValueError as error:
        raise ConfigError("boto3 takes no such endpoint", where="AWS_ENDPOINT_URL", expected="https://host") from error
    return client


@lru_cache(maxsize=1)
def _service_descriptions() -> Loader:
    return create_loader()


class _WrongBody(OSError):
    """The body is shorter than what was asked for, because the connection closed, or longer."""


class S3Source:
    """An S3 object; see `Source`."""

    is_local = False

    def __init__(
        self,
        uri: str,
        *,
        version: str | None = None,
        name: str | None = None,
        client: S3Client | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.uri = uri
        self.name = name or uri
        self._bucket, _, self._key = uri.removeprefix("s3://").partition("/")
        if not self._bucket or not self._key:
            raise UsageError(f"the URI {uri!r}", expected="s3://bucket/key")
        self._version = version
        self._stat: ObjectStat | None = None
        self._client = client
        # A client that was given serves others too, and is theirs to close.
        self._owns_client = client is None
        self._attempts = attempts
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._memory = piece_memory()
        payer = os.environ.get("AWS_REQUEST_PAYER")
        self._options: dict[str, Any] = {"RequestPayer": payer} if payer else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self._client is not None and self._owns_client:
            self._client.close()
            self._client = None

    def stat(self) -> ObjectStat:
        """See `Source.stat`."""
        if self._stat is None:
            answer = self._retried(self._head)
            if answer.get("StorageClass") in _ARCHIVES and 'ongoing-request="false"' not in answer.get("Restore", ""):
                raise MissingInputError(ARCHIVED[0], where=self.name, advice=ARCHIVED[1])
            found = ObjectStat(answer["ContentLength"], self._version_of(answer))
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

    def keys_below(self) -> Iterator[str]:
        """Yield every key that begins with this source's, in the store's order."""
        asked: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._key, **self._options}
        while True:
            answer = self._retried(partial(_list, asked=asked))
            yield from (found["Key"] for found in answer.get("Contents", ()))
            if not answer.get("IsTruncated"):
                return
            asked = {**asked, "ContinuationToken": answer["NextContinuationToken"]}

    def local_copy(self, scratch: Path) -> Path:
        """Download the object into ``scratch`` and return the file, whole and of the recorded version."""

        def get(part: Range) -> tuple[int, Bytes]:
            start, length = part
            body = self._memory.array()[:length].data
            self._read_into(start, body)
            return start, body

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

    def _connected(self) -> S3Client:
        with self._lock:
            if self._client is None:
                self._client = connect(CONCURRENCY)
            return self._client

    def _head(self, client: S3Client) -> Mapping[str, Any]:
        """Ask for size and version; of a refusal, which comes without a reason, ask for the reason."""
        asked: Any = {"Bucket": self._bucket, "Key": self._key, **self._options}
        try:
            answer: Mapping[str, Any] = client.head_object(**asked)
        except ClientError as error:
            if is_refusal(error):
                try:
                    client.get_object(**asked, Range="bytes=0-0")["Body"].close()
                except ClientError as reason:
                    if is_refusal(reason):
                        raise
            raise
        return answer

    def _read_into(self, start: int, into: memoryview) -> None:
        if not into:
            return
        etag = self.stat().version

        def ask(client: S3Client) -> None:
            answer = client.get_object(
                Bucket=self._bucket,
                Key=self._key,
                Range=f"bytes={start}-{start + len(into) - 1}",
                IfMatch=f'"{etag}"',
                **self._options,
            )
            with answer["Body"] as stream:
                # A store that ignores If-Match must not mix two versions either.
                if (found := self._version_of(answer)) != etag:
                    raise overwritten(self.name, found=found, expected=etag)
                _receive(stream, into)

        self._retried(ask)

    def _version_of(self, answer: Mapping[str, Any]) -> str:
        etag = str(answer.get("ETag", "")).strip('"')
        if not etag:
            raise DataError(
                "the store gives it no ETag",
                expected="one, by which an object that is overwritten during a run is told",
                where=self.name,
                advice="put the object there through S3, not into the folder behind the store",
            )
        return etag

    def _retried(self, ask: Callable[[S3Client], Answer]) -> Answer:
        for attempt in range(1, self._attempts + 1):
            try:
                return ask(self._connected())
            except RAISED as error:
                mapped = our_error(error, name=self.name, key=self._key, version=self._version)
                if not isinstance(mapped, StorageUnavailable) or attempt == self._attempts:
                    raise mapped from error
                if isinstance(error, NoCredentialsError) and self._owns_client:
                    # A client looks for credentials once, when it is made.
                    with self._lock:
                        self._client = None
            # Full jitter: threads that were throttled together do not come back together.
            time.sleep(random.uniform(0, min(MAX_BACKOFF_S, BACKOFF_S * 2**attempt)))  # noqa: S311
        raise AssertionError(self.name)  # pragma: no cover - the last attempt returns or raises


def _list(client: S3Client, *, asked: dict[str, Any]) -> Mapping[str, Any]:
    return client.list_objects_v2(**asked)


def _receive(stream: StreamingBody, into: memoryview) -> None:
    received = 0
    # Its annotations ask for a file there.
    while count := stream.readinto(cast(Any, into[received : received + _RECEIVE_BYTES])):
        received += count
    # A store that ignores Range sends the object from its start.
    if received != len(into) or stream.read(1):
        raise _WrongBody(f"{received} bytes of {len(into)}, or more")


def _parts(start: int, length: int) -> dict[int, Range]:
    """Divide a range into those of a request each."""
    return {
        position: (position, min(MAX_REQUEST_BYTES, start + length - position))
        for position in range(start, start + length, MAX_REQUEST_BYTES)
    }
