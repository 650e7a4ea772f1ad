"""What is said of boto3's errors: which of ours each is, without keys, which can hold names, and without passwords."""

from __future__ import annotations

import re
from urllib.parse import quote

import urllib3.exceptions
from botocore import exceptions as boto_errors

from histocast.errors import ConfigError, HistocastError, MissingInputError, StorageUnavailable
from histocast.storage.source import overwritten

RAISED = (boto_errors.BotoCoreError, boto_errors.ClientError, urllib3.exceptions.HTTPError, OSError)
"""All that a request can raise."""

_NO_OBJECT = ("no such object", "check the bucket and the key")
ARCHIVED = ("archived (GLACIER or DEEP_ARCHIVE)", "restore it, then run again with -resume")
# What was found and what to do.
_ABSENT = {
    "404": _NO_OBJECT,
    "NotFound": _NO_OBJECT,
    "NoSuchKey": _NO_OBJECT,
    "NoSuchBucket": ("no such bucket", "check the bucket"),
    "InvalidObjectState": ARCHIVED,
}
_FORBIDDEN = {"401", "403", "AccessDenied", "Forbidden", "AllAccessDisabled", "AccountProblem"}
_CREDENTIALS = {
    "ExpiredToken": "the credentials have expired",
    "ExpiredTokenException": "the credentials have expired",
    "TokenRefreshRequired": "the credentials have expired",
    "RequestExpired": "the credentials have expired",
    "InvalidToken": "the session token is not valid",
    "InvalidAccessKeyId": "the access key is not known",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "RequestTimeTooSkewed": "the clock of this machine differs from the store's by more than 15 minutes",
}
_CHANGED = {"412", "PreconditionFailed", "416", "InvalidRange"}
_BUSY = {"429", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout", "503"}
# Of the one who gives credentials: a machine's metadata service that is busy looks like one that has none to give.
_NO_CREDENTIALS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.MetadataRetrievalError,
    boto_errors.TokenRetrievalError,
    boto_errors.SSOError,
)
_TRANSIENT = (
    boto_errors.HTTPClientError,
    boto_errors.ConnectionError,
    boto_errors.IncompleteReadError,
    boto_errors.ResponseStreamingError,
    urllib3.exceptions.HTTPError,
    OSError,
)
_RENEW = (
    "renew them: AWS_PROFILE, or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role of the "
    "machine or task; then run again with -resume"
)
_ADDRESS = re.compile(r"""\bhttps?://(?:[^/@\s"']*@)?([^/\s"']+)[^\s"']*""")


def our_error(error: Exception, *, name: str, key: str, version: str | None) -> HistocastError:
    """Return what is to be raised in place of an error of boto3; `StorageUnavailable` where asking again can help.

    So it is with credentials: they are renewed by others, and no object is to blame.

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
    if isinstance(error, _NO_CREDENTIALS):
        return StorageUnavailable(f"no credentials for S3: {_told(error, key)}", where=name, advice=_RENEW)
    if isinstance(error, _TRANSIENT):
        return StorageUnavailable(f"the store did not answer: {_told(error, key)}", where=name)
    return ConfigError(f"boto3 cannot ask for it: {_told(error, key)}", where=name, advice="check the AWS settings")


def is_refusal(error: boto_errors.ClientError) -> bool:
    """Whether the store refuses whoever asks, and not what is asked for; an answer to HEAD has no body to say why."""
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (400, 401, 403)


def _told(error: Exception, key: str) -> str:
    """What boto3 says, of addresses the host alone: they hold the key, and a proxy's its password."""
    words = _ADDRESS.sub(r"\1", str(error))
    for spelt in (key, quote(key)):
        words = words.replace(spelt, "<key>") if spelt else words
    return words


def _our_error_for_answer(error: boto_errors.ClientError, *, name: str, version: str | None) -> HistocastError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _ABSENT:
        found, advice = _ABSENT[code]
        return MissingInputError(found, where=name, advice=advice)
    if code in _CHANGED:
        return overwritten(name, found="another", expected=version or "the one read first")
    if code in _CREDENTIALS:
        advice = "set its clock (NTP)" if code == "RequestTimeTooSkewed" else _RENEW
        return StorageUnavailable(_CREDENTIALS[code], where=name, advice=advice)
    if status >= 500 or code in _BUSY or status == 429:
        return StorageUnavailable(f"the store answered {status} {code}", where=name)
    if code in _FORBIDDEN or status in (401, 403):
        return MissingInputError(
            f"access is forbidden ({code})",
            expected="s3:GetObject on the object, and s3:ListBucket for a missing one to be told as missing",
            where=name,
            advice="grant the permission, choose another AWS_PROFILE, or set AWS_REQUEST_PAYER=requester",
        )
    return ConfigError(
        f"the store refused with {status} {code}", where=name, advice="check AWS_REGION and AWS_ENDPOINT_URL"
    )
