"""How inference servers are reached: where, with what credentials, and how patiently.

Everything comes from the environment, since none of it decides a result: moving a server or renewing a token
keeps a pipeline's cache.

    HISTOCAST_TRITON_URL           grpc://a:8001,b:8001, or grpcs:// for TLS
    HISTOCAST_TRITON_CA            PEM file of the authority that signed the servers' certificates
    HISTOCAST_TRITON_CERT, _KEY    PEM files of the client's own certificate, where servers ask for one
    HISTOCAST_TRITON_TOKEN         sent with every call; or HISTOCAST_TRITON_TOKEN_FILE, a file that holds it
    HISTOCAST_TRITON_TOKEN_SECRET  a secret of AWS Secrets Manager that holds the token, by its ARN: for jobs that no
                                   environment and no file reaches; so too _CA_SECRET, _CERT_SECRET and _KEY_SECRET
    HISTOCAST_TRITON_TOKEN_HEADER  the header it is sent in; by default both "authorization: Bearer ..." and the one
                                   that 'histocast serve' has Triton ask for
    HISTOCAST_TRITON_DEADLINE_S    how long one call may take, by default 120
    HISTOCAST_TRITON_PATIENCE_S    how long a call is tried again while servers are away, by default 300
    HISTOCAST_TRITON_IN_FLIGHT     calls under way at once, by default 6
    HISTOCAST_TRITON_SHARED_MEMORY 0 has tensors go through the socket also where the server is on this host
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError

from histocast.errors import MissingInputError, UsageError
from histocast.inference.predictor import Precision, asked_precision
from histocast.records import Record

DEFAULT_PORT = 8001

TOKEN_HEADER = "triton-grpc-protocol-token"  # noqa: S105 - the name of a header
"""The header in which a server that ``histocast serve`` started wants the token."""


class ServerAddress(Record):
    """One server, or a name behind which several stand."""

    scheme: Literal["grpc", "grpcs"]
    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it is an address of this host by its name alone; behind it may still be a tunnel."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def target(self) -> str:
        """As gRPC wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.target}"


class TritonSettings(Record):
    """See the module's table; names are those of the variables without ``HISTOCAST_TRITON_``."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    token_header: str | None = None
    ca_secret: str | None = None
    cert_secret: str | None = None
    key_secret: str | None = None
    token_secret: str | None = None
    deadline_s: float = Field(default=120, gt=0)
    """A request may queue behind those of other slides, so this is many times what one takes."""
    patience_s: float = Field(default=300, ge=0)
    """A server that restarts loads its models first, which takes minutes."""
    in_flight: int = Field(default=6, ge=1, le=64)
    """4 to 8 hide the network behind the server's work; more only queue."""
    precision: Precision = "fp32"
    """In which the servers' models must compute; from ``HISTOCAST_PRECISION``."""
    shared_memory: bool = True
    """Whether tensors may go through memory that is shared with a server of this host."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> TritonSettings:
        """Read the variables that are set.

        Raises `UsageError`: a value cannot be what its variable stands for; `MissingInputError`: a file that is named
        does not exist.
        """
        given = {name: environment.get(f"HISTOCAST_TRITON_{name.upper()}") for name in cls.model_fields}
        given["precision"] = asked_precision(environment)
        try:
            settings = cls.model_validate({name: value for name, value in given.items() if value})
        except ValidationError as error:
            fault = error.errors()[0]
            name = f"HISTOCAST_TRITON_{str(fault['loc'][0]).upper()}"
            raise UsageError(f"{name}: {fault['msg']}", where="environment") from error
        for name in ("ca", "cert", "key", "token_file"):
            path = getattr(settings, name)
            if path is not None and not path.is_file():
                raise MissingInputError("no such file", where=f"HISTOCAST_TRITON_{name.upper()}, {path}")
        return settings

    def certificates(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The authority, the client's key and its certificate, as gRPC takes them.

        Raises `MissingInputError` or `StorageUnavailable`: a secret that is to hold one cannot be read.
        """
        return self._pem("ca"), self._pem("key"), self._pem("cert")

    def _pem(self, name: str) -> bytes | None:
        if identifier := getattr(self, f"{name}_secret"):
            return _read_once(identifier, f"HISTOCAST_TRITON_{name.upper()}_SECRET").encode()
        path: Path | None = getattr(self, name)
        return path.read_bytes() if path else None

    def secret(self) -> str | None:
        """The token; its file is read each time, since tokens are renewed, and Secrets Manager is asked once a process.

        Raises `MissingInputError` or `StorageUnavailable`: the secret that is to hold it cannot be read.
        """
        if self.token_secret:
            return _read_once(self.token_secret, "HISTOCAST_TRITON_TOKEN_SECRET").strip()
        if self.token_file:
            try:
                return self.token_file.read_text(encoding="utf-8").strip()
            except UnicodeDecodeError as error:
                raise UsageError("not text", expected="a token", where=str(self.token_file)) from error
        return self.token.get_secret_value() if self.token else None

    def headers(self) -> dict[str, str]:
        """What is sent with every call."""
        token = self.secret()
        if token is None:
            return {}
        bearer = {"authorization": f"Bearer {token}"}
        if self.token_header is None:
            return {**bearer, TOKEN_HEADER: token}
        header = self.token_header.lower()
        return bearer if header == "authorization" else {header: token}


@lru_cache
def _read_once(identifier: str, name: str) -> str:
    # boto3 takes a while to load, and few runs keep anything there.
    from histocast.storage.secrets import read_secret

    return read_secret(identifier, name=name)


def parse_servers(text: str) -> tuple[ServerAddress, ...]:
    """Read ``grpc://a:8001,b:8001``; the scheme of the first stands for those that follow without one.

    Raises `UsageError`: a part is no address.
    """
    servers: list[ServerAddress] = []
    scheme = "grpc"
    for part in (part.strip() for part in text.split(",")):
        url = part if "://" in part else f"{scheme}://{part}"
        try:
            split = urlsplit(url)
            host, port = split.hostname, split.port or DEFAULT_PORT
        except ValueError:
            host, port = None, 0
        if not host or split.scheme not in ("grpc", "grpcs") or split.path.strip("/") or split.username:
            raise UsageError(
                f"{part!r} is no address of a server",
                expected="grpc://host:8001 or grpcs://host:8001, several separated by commas",
                where="--triton_url",
                advice="give the gRPC port, 8001 by default, and not the HTTP port 8000",
            )
        scheme = split.scheme
        servers.append(ServerAddress(scheme="grpcs" if scheme == "grpcs" else "grpc", host=host, port=port))
    return tuple(dict.fromkeys(servers))
