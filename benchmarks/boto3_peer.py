"""The peer of our S3 reader: the same plan of requests, each of them boto3's."""

from __future__ import annotations

from typing import Any, cast

import boto3
from botocore.config import Config

from histocast.storage.s3 import CONCURRENCY, S3Source

_RECEIVE_BYTES = 256 * 1024


class Boto3Source(S3Source):
    """An S3 object whose bodies come by boto3 into the memory that is used again."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        config = Config(max_pool_connections=CONCURRENCY)
        self._client = boto3.session.Session().client("s3", region_name="us-east-1", config=config)

    def _read_into(self, start: int, into: memoryview) -> None:
        if not into:
            return
        asked = f"bytes={start}-{start + len(into) - 1}"
        etag = f'"{self.stat().version}"'
        answer = self._client.get_object(Bucket=self._bucket, Key=self._key, Range=asked, IfMatch=etag)
        received = 0
        with answer["Body"] as stream:
            # Its annotations ask for a file there.
            while count := stream.readinto(cast(Any, into[received : received + _RECEIVE_BYTES])):
                received += count
        if received != len(into):
            raise SystemExit(f"{received} bytes of {len(into)}")
