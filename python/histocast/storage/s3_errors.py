"""What is said of boto3's errors: which of ours each is, without keys, which can hold names, and without passwords."""

from __future__ import annotations

import re
from urllib.parse import quote

import urllib3.exceptions
from botocore import exceptions as boto_errors

from histocast.errors import DataError, HistocastError, MissingInputError, StorageUnavailable
from histocast.storage.source import overwritten

RAISED = (boto_errors.BotoCoreError, boto_errors.ClientError, urllib3.exceptions.HTTPError, OSError)
"""All that a request can raise."""

_ABSENT = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_FORBIDDEN = {"401", "403", "AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"}
_CHANGED = {"412", "PreconditionFailed", "416", "InvalidRange"}
_BUSY = {"429", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout", "503"}
_TRANSIENT = (
    boto_errors.HTTPClientError,
    boto_errors.ConnectionError,
    boto_errors.IncompleteReadError,
    boto_errors.ResponseStreamingError,
    boto_errors.CredentialRetrievalError,
    urllib3.exceptions.HTTPError,
    OSError,
)
_ADDRESS = re.compile(r"""\bhttps?://(?:[^/@\s"']*@)?([^/\s"']+)[^\s"']*""")


def our_error(error: Exception, *, name: str, key: str, version: str | None) -> HistocastError:
    """Return what is to be raised in place of an error of boto3; `StorageUnavailable` where asking again can help.

    Parameters
    ----------
    error:
        One of `RAISED`.
    name:
        How errors call the object.
    key:
        Its key, which is left out of what boto3 says.
    version:
        The ETag that was recorded, if one was.
    """
    if isinstance(error, boto_errors.ClientError):
        return _our_error_for_answer(error, name=name, version=version)
    if isinstance(error, boto_errors.NoCredentialsError | boto_errors.PartialCredentialsError):
        return MissingInputError(
            "no credentials for S3",
            where=name,
            advice="set AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the task a role",
        )
    if isinstance(error, _TRANSIENT):
        return StorageUnavailable(f"the store did not answer: {_told(error, key)}", where=name)
    return MissingInputError(
        f"boto3 cannot ask for it: {_told(error, key)}", where=name, advice="check the AWS settings"
    )


def _told(error: Exception, key: str) -> str:
    """What boto3 says, of addresses the host alone: they hold the key, and a proxy's its password."""
    words = _ADDRESS.sub(r"\1", str(error))
    for spelt in (key, quote(key)):
        words = words.replace(spelt, "<key>")
    return words


def _our_error_for_answer(error: boto_errors.ClientError, *, name: str, version: str | None) -> HistocastError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _ABSENT:
        missing = "no such bucket" if code == "NoSuchBucket" else "no such object"
        return MissingInputError(missing, where=name, advice="check the bucket and the key")
    if code in _CHANGED:
        return overwritten(name, found="another", expected=version or "the one read first")
    if code in _EXPIRED:
        return MissingInputError("the credentials have expired", where=name, advice="renew them")
    if status >= 500 or code in _BUSY or status == 429:
        return StorageUnavailable(f"the store answered {status} {code}", where=name)
    if code in _FORBIDDEN or status in (401, 403):
        return MissingInputError(
            f"access is forbidden ({code})",
            expected="s3:GetObject on the object, and s3:ListBucket for a missing one to be told as missing",
            where=name,
            advice="grant the permission, choose another AWS_PROFILE, or set AWS_REQUEST_PAYER=requester",
        )
    return DataError(f"the store refused with {status} {code}", where=name)
