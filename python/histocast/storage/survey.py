"""Ask the stores about many objects at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from histocast.errors import DataError, HistocastError, MissingInputError, UsageError
from histocast.storage.open import open_source
from histocast.storage.source import ObjectStat

# At 30 ms an answer this is two thousand a second, more than one processor can ask.
REQUESTS_AT_ONCE = 64


def stat_sources(objects: Sequence[tuple[str, str]]) -> Iterator[tuple[int, ObjectStat | HistocastError]]:
    """Yield position and answer for each of ``objects`` (URI, and how errors shall name it), as answers come.

    An object that is absent, forbidden or no file is an answer too, and is yielded as its error.

    Raises `TransientError` or `ConfigError`: a store did not answer, also after retries, or takes no credentials or
    settings of this machine. What was not asked yet is not asked any more.
    """
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="survey")
    try:
        coming = {pool.submit(_ask, uri, name): index for index, (uri, name) in enumerate(objects)}
        for future in as_completed(coming):
            yield coming[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ask(uri: str, name: str) -> ObjectStat | HistocastError:
    try:
        with open_source(uri, name=name) as source:
            return source.stat()
    except (DataError, MissingInputError, UsageError) as error:
        return error
