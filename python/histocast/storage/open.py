"""Open an object wherever it lies."""

from __future__ import annotations

from histocast.storage.local import LocalSource
from histocast.storage.source import Source


def open_source(uri: str, *, version: str | None = None, name: str | None = None) -> Source:
    """Return the source at ``uri``, without asking the store yet.

    Parameters
    ----------
    uri:
        A path, or ``s3://bucket/key``. The endpoint, region, profile and role are those boto3 would use,
        ``AWS_ENDPOINT_URL`` among them.
    version:
        Version seen earlier (`ObjectStat.version`); any other is refused as overwritten.
    name:
        How errors call the object, for example ``slide of sample S1``; ``uri`` where none is given.
    """
    if uri.startswith("s3://"):
        # botocore takes a while to load, and a local slide does not need it.
        from histocast.storage.s3 import S3Source

        return S3Source(uri, version=version, name=name)
    return LocalSource(uri, version=version, name=name)
