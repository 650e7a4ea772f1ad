"""Find files below a folder or an ``s3://`` prefix, and bring many small ones."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from histocast.errors import MissingInputError
from histocast.storage.fetch import fetch_file
from histocast.storage.open import is_in_s3, open_source

AT_ONCE = 32
"""Small objects on their way: at 30 ms each, a thousand a second."""


def list_files(uri: str) -> Iterator[str]:
    """Yield the path or URI of every file of a folder, or ``s3://`` prefix, and of the folders within it, but no deeper.

    Raises `MissingInputError`: there is no such folder, or it may not be read; `StorageUnavailable`: the store did not
    answer.
    """
    if is_in_s3(uri):
        yield from _list_objects(uri.rstrip("/") + "/")
        return
    try:
        with os.scandir(uri) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if not entry.is_dir():
                yield entry.path
                continue
            with os.scandir(entry.path) as inner:
                yield from sorted(file.path for file in inner if not file.is_dir())
    except OSError as error:
        raise MissingInputError(
            f"cannot be read: {error.strerror or error}", expected="a folder, or an s3:// prefix", where=uri
        ) from error


def _list_objects(prefix: str) -> Iterator[str]:
    # botocore takes a while to load, and local folders do not need it.
    from histocast.storage.s3_buckets import list_keys

    bucket, _, start = prefix.removeprefix("s3://").partition("/")
    for key in list_keys(bucket, start):
        if key.count("/") - start.count("/") <= 1:
            yield f"s3://{bucket}/{key}"


def fetch_files(uris: Sequence[str], folder: Path) -> Iterator[Path]:
    """Yield a local path of each small file, in order: itself, or a copy in ``folder`` that is gone when the next is asked for.

    Raises `MissingInputError` or `StorageUnavailable` or `OutputError`: as `fetch_file`.
    """
    if not any(is_in_s3(uri) for uri in uris):
        yield from (fetch_file(uri, folder) for uri in uris)
        return

    def fetch(uri: str) -> Path:
        with open_source(uri) as source:
            return source.local_copy(folder)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool:
        coming: deque[Future[Path]] = deque()
        try:
            for place, uri in enumerate(uris):
                # As many as may be on their way are asked for before the first is waited for.
                coming.extend(pool.submit(fetch, ahead) for ahead in uris[place + len(coming) : place + AT_ONCE])
                path = coming.popleft().result()
                yield path
                if is_in_s3(uri):
                    path.unlink()
        finally:
            for future in coming:
                future.cancel()
