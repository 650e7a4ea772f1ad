"""What no environment reaches is read from AWS Secrets Manager, and never shown."""

from __future__ import annotations

from collections.abc import Callable

import boto3
import pytest

from histocast.errors import HistocastError, MissingInputError, StorageUnavailable
from histocast.inference.triton.settings import TOKEN_HEADER, TritonSettings
from histocast.storage.secrets import read_secret

PEM = "-----BEGIN CERTIFICATE-----\nhush\n"


@pytest.fixture
def keep(s3_endpoint: str) -> Callable[..., str]:
    """Writer of secrets; it returns the ARN of each."""
    client = boto3.client("secretsmanager")
    return lambda name, **content: client.create_secret(Name=name, **content)["ARN"]


def test_token_and_certificates_come_from_secrets(keep: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: keep(name, SecretString=text) for name, text in {"token": "hush\n", "ca": PEM, "key": "K"}.items()}
    given = {f"HISTOCAST_TRITON_{name.upper()}_SECRET": arn for name, arn in kept.items()}
    # The ARN says the region.
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    settings = TritonSettings.from_environment({**given, "HISTOCAST_TRITON_TOKEN": "not this one"})

    assert settings.headers() == {"authorization": "Bearer hush", TOKEN_HEADER: "hush"}
    assert settings.certificates() == (PEM.encode(), b"K", None)
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("prepare", "expected", "told"),
    [
        (
            lambda _keep: "arn:aws:secretsmanager:us-east-1:123456789012:secret:none-AbCdEf",
            MissingInputError,
            "no such",
        ),
        (lambda _keep: "none", MissingInputError, "no such"),
        (lambda keep: keep("bytes", SecretBinary=b"hush"), MissingInputError, "holds no text"),
    ],
)
def test_a_secret_that_is_not_there_is_named_by_its_variable(
    keep: Callable[..., str], prepare: Callable[..., str], expected: type[HistocastError], told: str
) -> None:
    with pytest.raises(expected, match=told) as raised:
        read_secret(prepare(keep), name="HISTOCAST_TRITON_TOKEN_SECRET")
    assert "HISTOCAST_TRITON_TOKEN_SECRET" in str(raised.value)
    assert "hush" not in str(raised.value)


def test_a_service_that_does_not_answer_is_asked_again_later(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("histocast.storage.secrets.ATTEMPTS", 1)
    with pytest.raises(StorageUnavailable):
        read_secret("token", name="HISTOCAST_TRITON_TOKEN_SECRET")
