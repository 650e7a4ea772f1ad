"""Ask the stores about many objects at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from histocast.errors import DataError, HistocastError, MissingInputError, UsageError
from histocast.storage.open import open_source
from histocast.storage.source import ObjectStat, Source

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# At 30 ms an answer this is two thousand a second, more than one processor can ask.
REQUESTS_AT_ONCE = 64


def stat_sources(objects: Sequence[tuple[str, str]]) -> Iterator[tuple[int, ObjectStat | HistocastError]]:
    """Yield position and answer for each of ``objects`` (URI, and how errors shall name it), as answers come.

    An object that is absent, forbidden or no file is an answer too, and is yielded as its error.

    Raises
    ------
    TransientError, ConfigError
        A store did not answer, also after retries, or takes no credentials or settings of this machine. What was not asked
        yet is not asked any more.
    """
    with ExitStack() as stack:
        client = None
        if any(uri.startswith("s3://") for uri, _ in objects):
            from histocast.storage.s3 import connect

            client = stack.enter_context(closing(connect(REQUESTS_AT_ONCE)))
        pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="survey")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        coming = {pool.submit(_ask, uri, name, client): index for index, (uri, name) in enumerate(objects)}
        for future in as_completed(coming):
            yield coming[future], future.result()


def _ask(uri: str, name: str, client: S3Client | None) -> ObjectStat | HistocastError:
    try:
        with _open(uri, name, client) as source:
            return source.stat()
    except (DataError, MissingInputError, UsageError) as error:
        return error


def _open(uri: str, name: str, client: S3Client | None) -> Source:
    if uri.startswith("s3://"):
        from histocast.storage.s3 import S3Source

        return S3Source(uri, name=name, client=client)
    return open_source(uri, name=name)
