"""Open an object wherever it lies."""

from __future__ import annotations

import re

from histocast.errors import UsageError
from histocast.storage.local import LocalSource
from histocast.storage.source import Source

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_in_s3(uri: str, *, name: str | None = None) -> bool:
    """Return whether ``uri`` is an ``s3://`` address, and not a path.

    Raises `UsageError`: it is the address of another store, such as ``gs://`` or ``az://``.
    """
    scheme = _SCHEME.match(uri)
    if scheme and scheme[1] != "s3":
        raise UsageError(
            f"a {scheme[1]}:// address",
            expected="a path, or s3://bucket/key",
            where=name,
            advice="copy it to a disk or to S3 first; other stores are not supported",
        )
    return scheme is not None


def open_source(uri: str, *, version: str | None = None, name: str | None = None) -> Source:
    """Return the source at ``uri``, without asking the store yet.

    ``uri``: a path, or ``s3://bucket/key``. The endpoint, region, profile and role are those boto3 would use,
        ``AWS_ENDPOINT_URL`` among them.
    ``version``: version seen earlier (`ObjectStat.version`); any other is refused as overwritten.
    ``name``: how errors call the object, for example ``slide of sample S1``; ``uri`` where none is given.
    Raises `UsageError`: ``uri`` is the address of a store that is not supported.
    """
    if is_in_s3(uri, name=name):
        # botocore takes a while to load, and a local slide does not need it.
        from histocast.storage.s3 import S3Source

        return S3Source(uri, version=version, name=name)
    return LocalSource(uri, version=version, name=name)
