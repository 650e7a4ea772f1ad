"""Where buckets are, who asks them and how: boto3 says it, and obstore asks.

Credentials, region, profile, role, endpoint and its certificates are found as boto3 finds them, and
``AWS_REGION`` besides, as the other AWS tools do. ``AWS_REQUEST_PAYER=requester`` pays for requester-pays
buckets. Server-side encryption is transparent to readers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3.session
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.httpsession import get_cert_path
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from histocast.errors import ConfigError
from histocast.storage.s3_errors import RAISED, our_error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 6
CONNECT_TIMEOUT_S = 10
# A stalled connection is given up and asked again: twenty seconds without one byte is not slowness.
READ_TIMEOUT_S = 20
# obstore asks for credentials again five minutes before they end: so in every minute, and a role's are renewed in time.
_CREDENTIALS_LAST = timedelta(minutes=6)

_lock = threading.Lock()
_known: dict[frozenset[tuple[str, str]], Buckets] = {}


class Buckets:
    """The buckets that one set of AWS settings reaches; threads may share it.

    Raises `BotoCoreError` or `OSError`: there are no credentials, or the settings name a profile or a file that there
    is not; `ConfigError`: they name an endpoint that is no URL.
    """

    def __init__(self) -> None:
        self._session = boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
        self._client = self._connect(None)
        if self._session.get_credentials() is None:
            raise NoCredentialsError
        self._regions: dict[str, str] = {}
        self._stores: dict[tuple[str, str], S3Store] = {}
        self._lock = threading.Lock()

    def store(self, bucket: str, key: str) -> tuple[S3Store, str]:
        """Return the store of an object, and the object's path in it."""
        # obstore's paths have no empty segment, and its stores have any URL.
        folder, slash, name = key.rpartition("/") if "" in key.split("/") else ("", "", key)
        with self._lock:
            if (bucket, folder + slash) not in self._stores:
                self._stores[bucket, folder + slash] = self._open(bucket, folder + slash)
            return self._stores[bucket, folder + slash], name

    def find_region(self, bucket: str, *, asked: S3Store) -> bool:
        """Ask where a bucket is, and say whether that is elsewhere than it was asked for by ``asked``."""
        # One thread asks, and the others wait.
        with self._lock:
            if all(store is not asked for store in self._stores.values()):
                return True
            try:
                answer: Any = self._client.head_bucket(Bucket=bucket)
            except ClientError as error:
                answer = error.response
            region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
            if region is None or region == self._regions.get(bucket, self._client.meta.region_name):
                return False
            self._regions[bucket] = region
            self._stores = {place: store for place, store in self._stores.items() if place[0] != bucket}
            return True

    def keys(self, bucket: str, prefix: str) -> Iterator[str]:
        """Yield every key that begins with ``prefix``, in the store's order.

        By boto3: obstore's list fails at a key with an empty segment, and gives the marker of a folder the name of a file.
        """
        payer = os.environ.get("AWS_REQUEST_PAYER")
        asked: Any = {"Bucket": bucket, "Prefix": prefix, **({"RequestPayer": payer} if payer else {})}
        for page in self._client.get_paginator("list_objects_v2").paginate(**asked):
            yield from (found["Key"] for found in page.get("Contents", ()))

    def _connect(self, region: str | None) -> S3Client:
        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        try:
            client: S3Client = self._session.client("s3", region_name=region, config=config)
        except ValueError as error:
            raise ConfigError(
                "boto3 takes no such endpoint", where="AWS_ENDPOINT_URL", expected="https://host"
            ) from error
        return client

    def _open(self, bucket: str, folder: str) -> S3Store:
        region = self._regions.get(bucket)
        client = self._connect(region) if region else self._client
        # boto3 alone knows which host answers for a bucket: by partition, FIPS, style of addresses, access point.
        url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": f"{folder}k"})
        endpoint = url.partition("?")[0].removesuffix("/k")
        return S3Store(
            bucket,
            aws_endpoint_url_s3=endpoint,
            virtual_hosted_style_request=True,
            region=client.meta.region_name or "us-east-1",
            credential_provider=Boto3CredentialProvider(self._session, ttl=_CREDENTIALS_LAST),
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
                "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
                # Of a whole answer, however large.
                "timeout": timedelta(days=1),
                "root_certificate": self._certificates(),
            },
            # Ours alone: what obstore asks again it signs with the credentials it had.
            retry_config={"max_retries": 0},
        )

    def _certificates(self) -> bytes:
        """Return whom boto3 trusts: a container may have no list of its own."""
        # boto3 tells it nowhere else.
        chosen: str | None = self._session._session.get_config_variable("ca_bundle")  # noqa: SLF001
        path = Path(chosen or os.environ.get("REQUESTS_CA_BUNDLE") or str(get_cert_path(True)))
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"the certificates cannot be read: {error.strerror}", expected="a file of PEM", where="AWS_CA_BUNDLE"
            ) from error


def connect() -> Buckets:
    """Return the buckets of the AWS settings as they are now; a process asks for them once.

    Raises `ConfigError`: the AWS settings name a profile, a region or an endpoint that there is not;
    `StorageUnavailable`: there are no credentials.
    """
    settings = frozenset(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith("AWS_") or name.lower().endswith(("_proxy", "_ca_bundle"))
    )
    # What was not found is not remembered, since a machine's metadata service may only be busy.
    with _lock:
        if settings not in _known:
            _known[settings] = Buckets()
        return _known[settings]


def read_settings_again(buckets: Buckets) -> None:
    """Forget these credentials and settings: others may have renewed them in their files."""
    with _lock:
        for settings in [settings for settings, known in _known.items() if known is buckets]:
            del _known[settings]


def list_keys(bucket: str, prefix: str) -> Iterator[str]:
    """Yield every key of a bucket that begins with ``prefix``, in the store's order.

    Raises `MissingInputError`: there is no such bucket, or it may not be listed; `StorageUnavailable`: the store did
    not answer, also after retries.
    """
    try:
        yield from connect().keys(bucket, prefix)
    except RAISED as error:
        raise our_error(error, name=f"s3://{bucket}/{prefix}", key="", version=None) from error
