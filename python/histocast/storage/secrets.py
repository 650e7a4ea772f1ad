"""Secrets that a task reads for itself from AWS Secrets Manager, because no environment of its caller reaches it."""

from __future__ import annotations

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from histocast.errors import MissingInputError
from histocast.storage.s3_errors import RAISED, our_error

ATTEMPTS = 5


def read_secret(identifier: str, *, name: str) -> str:
    """Return the text of a secret in AWS Secrets Manager.

    Credentials and region are found as boto3 finds them, a job's role among them; a whole ARN names its region itself.

    ``identifier``: ARN or name of the secret.
    ``name``: how errors call it, for example the variable that names it. They never hold the secret.
    Raises `MissingInputError`: there is no such secret, it holds no text, or it may not be read; `StorageUnavailable`:
    Secrets Manager did not answer.
    """
    region = identifier.split(":")[3] if identifier.startswith("arn:") and identifier.count(":") >= 6 else None
    config = Config(connect_timeout=10, read_timeout=20, retries={"mode": "standard", "total_max_attempts": ATTEMPTS})
    try:
        client = boto3.session.Session().client("secretsmanager", region_name=region, config=config)
        text: str | None = client.get_secret_value(SecretId=identifier).get("SecretString")
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") == "ResourceNotFoundException":
            raise MissingInputError("no such secret", where=name, advice="check its ARN and its region") from error
        raise _denied(error, name) or our_error(error, name=name, key=identifier, version=None) from error
    except RAISED as error:
        raise our_error(error, name=name, key=identifier, version=None) from error
    if not text:
        raise MissingInputError("the secret holds no text", where=name, advice="store it as a string, not as bytes")
    return text


def _denied(error: ClientError, name: str) -> MissingInputError | None:
    if "AccessDenied" not in error.response.get("Error", {}).get("Code", ""):
        return None
    return MissingInputError(
        "access to the secret is denied",
        expected="secretsmanager:GetSecretValue on it, and kms:Decrypt where a key of yours encrypts it",
        where=name,
        advice="give the role of the jobs that permission (docs/deployment.md)",
    )
