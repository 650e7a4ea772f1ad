"""The command that starts a Triton server: strict, bound to given addresses, with a token where others can reach it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence

from histocast.errors import ConfigError, MissingInputError, UsageError
from histocast.inference.triton.settings import TOKEN_HEADER

COMMAND = "HISTOCAST_TRITONSERVER"
"""Variable with the command that starts a server, ``tritonserver`` by default."""

STRICT = (
    # Every model of the repository is loaded at start, and no client can load or unload one.
    "--model-control-mode=none",
    "--strict-readiness=true",
    "--disable-auto-complete-config",
)

HEALTH = "health"
PROTOCOLS = (
    *("metadata", "inference", "shared-memory", "model-config", "model-repository"),
    *("statistics", "trace", "logging"),
)
"""What Triton can restrict besides health, in gRPC and in HTTP."""

TOKEN = re.compile(r"[A-Za-z0-9._-]{16,}")
"""Triton splits its option at ``:``, ``,`` and ``=``."""


def find_program() -> list[str]:
    """The command that starts a server.

    Raises `MissingInputError`: there is no such program; `ConfigError`: the variable is no command line.
    """
    given = os.environ.get(COMMAND) or "tritonserver"
    try:
        command = shlex.split(given)
    except ValueError as error:
        raise ConfigError(f"{COMMAND} is {given!r}: {error}", expected="a command line as a shell has it") from error
    if not command or shutil.which(command[0]) is None:
        raise MissingInputError(
            f"no program {command[0] if command else ''!r}",
            expected="tritonserver on PATH",
            advice=f"run the task in the image 'triton', or say what starts a server by {COMMAND}",
        )
    return command


MUTUAL_TLS = "--grpc-use-ssl-mutual=true"
"""Option by which gRPC answers only who has a certificate of the clients' authority."""


def server_options(
    models: str,
    *,
    grpc: str,
    http: str | None = None,
    metrics: str | None = None,
    token: str | None = None,
    more: Sequence[str] = (),
) -> list[str]:
    """Options of a server over a model repository.

    ``models``: the repository: a folder, or a prefix that Triton itself can read.
    ``grpc``, ``http``, ``metrics``: ``host:port`` to listen on. HTTP and metrics are off where ``None``.
    ``token``: needed in every call but health over HTTP, so that probes work, and metrics, which are of load alone.
    ``more``: options of Triton's own, which come last.
    Raises `UsageError`: an address is none; gRPC or HTTP can be reached from other machines and there is no token, nor,
    for gRPC, a certificate asked for; or Triton could not read the token.
    """
    guarded = None if MUTUAL_TLS in more else grpc
    if token is None and (open_to_others := [each for each in (guarded, http) if each and not _is_loopback(each)]):
        raise UsageError(
            f"no token for a server that other machines reach at {', '.join(open_to_others)}",
            expected="HISTOCAST_TRITON_TOKEN or HISTOCAST_TRITON_TOKEN_FILE",
            advice=f"make one with 'openssl rand -hex 32', listen on 127.0.0.1, or ask for certificates by {MUTUAL_TLS}",
        )
    if token is not None and not TOKEN.fullmatch(token):
        raise UsageError(
            "a token that Triton cannot be given",
            expected="16 or more of A-Z a-z 0-9 . _ -",
            where="HISTOCAST_TRITON_TOKEN",
            advice="make one with 'openssl rand -hex 32'",
        )
    options = [f"--model-repository={models}", *STRICT]
    for name, address in (("grpc", grpc), ("http", http), ("metrics", metrics)):
        options += _listen(name, address)
    if token is not None:
        # gRPC's header is the key behind a prefix, HTTP's is the key: both have one name here.
        key = TOKEN_HEADER.removeprefix("triton-grpc-protocol-")
        options.append(f"--grpc-restricted-protocol={','.join((HEALTH, *PROTOCOLS))}:{key}={token}")
        if http:
            options.append(f"--http-restricted-api={','.join(PROTOCOLS)}:{TOKEN_HEADER}={token}")
    return [*options, *more]


def server_environment(*, tf32: bool, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables of a server's process.

    TensorRT computes float32 in TF32 by default, and its execution provider has no option against it: this variable
    of NVIDIA's libraries is the only way, and holds for the whole process.
    """
    return dict(environment) if tf32 else {**environment, "NVIDIA_TF32_OVERRIDE": "0"}


def _listen(name: str, address: str | None) -> list[str]:
    if address is None:
        return [f"--allow-{name}=false"]
    host, port = _split(address)
    return [f"--{name}-address={host}", f"--{name}-port={port}"]


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"{address!r} is no address to listen on", expected="host:port, for example 127.0.0.1:8001")
    return host, int(port)


def _is_loopback(address: str) -> bool:
    host = _split(address)[0]
    return host in ("localhost", "::1", "[::1]") or host.startswith("127.")
