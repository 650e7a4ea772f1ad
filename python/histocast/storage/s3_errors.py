"""What is said of boto3's and obstore's errors: which of ours each is, without keys, which can hold names, and without passwords."""

from __future__ import annotations

import re
from urllib.parse import quote

from botocore import exceptions as boto_errors
from obstore import exceptions as obstore_errors

from histocast.errors import ConfigError, HistocastError, MissingInputError, StorageUnavailable
from histocast.storage.source import overwritten

RAISED = (
    obstore_errors.BaseError,
    boto_errors.BotoCoreError,
    boto_errors.ClientError,
    OSError,
)
"""All that a request can raise."""

_NO_OBJECT = ("no such object", "check the bucket and the key")
_ARCHIVED = ("archived (GLACIER or DEEP_ARCHIVE)", "restore it, then run again with -resume")
# What was found and what to do.
_ABSENT = {
    "404": _NO_OBJECT,
    "NotFound": _NO_OBJECT,
    "NoSuchKey": _NO_OBJECT,
    "NoSuchBucket": ("no such bucket", "check the bucket"),
    "InvalidObjectState": _ARCHIVED,
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
    obstore_errors.UnauthenticatedError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.MetadataRetrievalError,
    boto_errors.TokenRetrievalError,
    boto_errors.SSOError,
)
_TRANSIENT = (
    obstore_errors.BaseError,
    boto_errors.HTTPClientError,
    boto_errors.ConnectionError,
    boto_errors.IncompleteReadError,
    boto_errors.ResponseStreamingError,
    OSError,
)
_ELSEWHERE = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
# obstore has no fields for them: what it says holds the store's answer, and then its own structures.
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_REDIRECT = "Received redirect without LOCATION"
_DEBUG = "\n\nDebug source:"
_CAUSE = re.compile(r"""^ *(?:kind: )?(\w+|\[?[0-9a-f.:]+\]?:\d+),$|"([^"\n]+)\"""", re.MULTILINE)
_RENEW = (
    "renew them: AWS_PROFILE, or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the role of the "
    "machine or task; then run again with -resume"
)
_ADDRESS = re.compile(r"""\bhttps?://(?:[^/@\s"']*@)?([^/\s"']+)[^\s"']*""")


def our_error(error: Exception, *, name: str, key: str, version: str | None) -> HistocastError:
    """Return what is to be raised in place of an error of boto3; `StorageUnavailable` where asking again can help.

    So it is with credentials: they are renewed by others, and no object is to blame.

    ``error``: one of `RAISED`.
    ``name``: how errors call the object.
    ``key``: its key, which is left out of what boto3 says.
    ``version``: the ETag that was recorded, if one was.
    """
    if status_of(error):
        return _our_error_for_answer(error, name=name, version=version)
    if isinstance(error, _NO_CREDENTIALS):
        return StorageUnavailable(f"no credentials for S3: {_told(error, key)}", where=name, advice=_RENEW)
    if is_of_region(error):
        return ConfigError("the bucket is in another region", where=name, advice="check AWS_REGION")
    if isinstance(error, _TRANSIENT):
        return StorageUnavailable(f"the store did not answer: {_told(error, key)}", where=name)
    return ConfigError(f"boto3 cannot ask for it: {_told(error, key)}", where=name, advice="check the AWS settings")


def status_of(error: Exception) -> int:
    """Return the status of the store's answer; 0 where it did not answer, or with something else."""
    if isinstance(error, boto_errors.ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found = _STATUS.search(_summary(error))
    return int(found[1]) if found else 0


def is_of_credentials(error: Exception) -> bool:
    """Whether it is of credentials, which others may have renewed."""
    return _code(error) in _CREDENTIALS or isinstance(error, _NO_CREDENTIALS)


def is_of_region(error: Exception) -> bool:
    """Whether the bucket may be in another region than the one that was asked."""
    return _code(error) in _ELSEWHERE or _REDIRECT in _summary(error)


def _code(error: Exception) -> str:
    """Return S3's word for what is wrong; the status where the answer had none."""
    if isinstance(error, boto_errors.ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    found = _CODE.search(_summary(error))
    return found[1] if found else str(status_of(error))


def _summary(error: Exception) -> str:
    """Return what an error says of itself, without obstore's structures."""
    return str(error).partition(_DEBUG)[0]


def _told(error: Exception, key: str) -> str:
    """What it says, of addresses the host alone: they hold the key, and a proxy's its password."""
    words, _, structures = str(error).partition(_DEBUG)
    # Why there was no connection, and to whom, is told by obstore's structures alone.
    causes = dict.fromkeys(map("".join, _CAUSE.findall(structures.partition("HttpError")[2])))
    words = _ADDRESS.sub(r"\1", f"{words} ({', '.join(causes)})" if causes else words)
    for spelt in (key, quote(key)):
        words = words.replace(spelt, "<key>") if spelt else words
    return words


def _our_error_for_answer(error: Exception, *, name: str, version: str | None) -> HistocastError:
    code, status = _code(error), status_of(error)
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
