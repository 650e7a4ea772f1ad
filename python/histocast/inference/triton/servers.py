"""Connections to inference servers, which one a call goes to, and what their errors mean."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from tritonclient.grpc import InferenceServerClient, service_pb2
from tritonclient.utils import InferenceServerException

from histocast.errors import ConfigError, DeadlineExceeded, HistocastError, ServingUnavailable
from histocast.inference.triton.settings import TOKEN_HEADER, ServerAddress, TritonSettings
from histocast.inference.triton.wire import METHOD

LARGEST_MESSAGE_BYTES = 2**31 - 1

# Whatever is given here replaces all of the client's defaults, so what those would hold is here too.
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    # A dead peer is noticed while a call waits for it; less often than servers take for an attack.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # A name may stand for many servers, and one connection would pin one of them.
    ("grpc.lb_policy_name", "round_robin"),
    # A server that comes back is found soon.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
)

REST_S = 1.0
"""How long a server that failed is passed over while another one answers."""

MESSAGES_OF_REFUSAL = ("protocol is restricted", "token", "unauthorized", "forbidden")
MESSAGES_OF_TLS = ("CERTIFICATE_VERIFY_FAILED", "SSL_ERROR", "Ssl handshake", "WRONG_VERSION_NUMBER")


class ModelUnloaded(ServingUnavailable):
    """The server is there, the model is not: it may be on its way back, or somebody took it away."""


class Server:
    """The connections to one server: ``client`` for questions, ``infer`` for calls, whose requests are bytes."""

    def __init__(self, address: ServerAddress, settings: TritonSettings) -> None:
        self.address = address
        self.in_flight = 0
        self.resting_until_s = 0.0
        self.is_checked = False
        """Whether its models were compared with the bundle since it was last lost."""
        credentials = None
        if address.scheme == "grpcs":
            credentials = grpc.ssl_channel_credentials(*settings.certificates())
            self._channel = grpc.secure_channel(address.target, credentials, options=CHANNEL_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address.target, options=CHANNEL_OPTIONS)
        self.client = InferenceServerClient(address.target, creds=credentials, channel_args=list(CHANNEL_OPTIONS))
        self.infer = self._channel.unary_unary(METHOD, response_deserializer=service_pb2.ModelInferResponse.FromString)

    def close(self) -> None:
        """End the connections."""
        self.client.close()
        self._channel.close()


class Fleet:
    """Servers that can stand in for one another.

    A call goes to the one with the fewest under way. A server that failed rests, so that the next try meets
    another one; where all rest, the one that has rested longest is tried.
    """

    def __init__(self, addresses: tuple[ServerAddress, ...], settings: TritonSettings) -> None:
        self.servers = [Server(address, settings) for address in addresses]
        self._lock = threading.Lock()
        self._turn = 0

    @contextmanager
    def server(self) -> Iterator[Server]:
        """Yield a server for one call."""
        with self._lock:
            now_s = time.monotonic()
            self._turn += 1
            # Among equals each in turn.
            turned = self.servers[self._turn % len(self.servers) :] + self.servers[: self._turn % len(self.servers)]
            chosen = min(turned, key=lambda server: (max(server.resting_until_s - now_s, 0.0), server.in_flight))
            chosen.in_flight += 1
        try:
            yield chosen
        finally:
            with self._lock:
                chosen.in_flight -= 1

    def rest(self, server: Server) -> bool:
        """Pass a server over for a while; return whether another one is ready to be asked."""
        with self._lock:
            server.resting_until_s = time.monotonic() + REST_S
            server.is_checked = False
            return any(other.resting_until_s <= time.monotonic() for other in self.servers)

    def close(self) -> None:
        """End all connections."""
        for server in self.servers:
            server.close()


def translate(error: InferenceServerException | grpc.RpcError, *, where: str) -> HistocastError:
    """What a server's error means: a `TransientError` is worth another try, all else is not."""
    if isinstance(error, grpc.RpcError):
        status, message = error.code().name, error.details()
    else:
        status, message = str(error.status() or "").removeprefix("StatusCode."), error.message()
    message = str(message or "no message").strip().partition("\n")[0]
    text = message.lower()
    refused = any(sign in text for sign in MESSAGES_OF_REFUSAL)
    if status in ("UNAUTHENTICATED", "PERMISSION_DENIED") or (status == "UNAVAILABLE" and refused):
        return ConfigError(
            f"the server refuses us: {message}",
            where=where,
            advice="set HISTOCAST_TRITON_TOKEN or HISTOCAST_TRITON_TOKEN_FILE, and HISTOCAST_TRITON_TOKEN_HEADER "
            f"where the server wants another header than 'authorization' or {TOKEN_HEADER!r}",
        )
    if any(sign in message for sign in MESSAGES_OF_TLS):
        return ConfigError(
            f"no secure connection: {message}",
            where=where,
            advice="use grpcs:// for servers with TLS and grpc:// for others, and set HISTOCAST_TRITON_CA to the "
            "authority that signed the server's certificate",
        )
    if status == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(
            "no answer in time",
            where=where,
            advice="look at the server's queue; raise HISTOCAST_TRITON_DEADLINE_S if it is merely busy",
        )
    if status == "UNAVAILABLE" and "unknown model" in text:
        return ModelUnloaded(message, where=where, advice="load the model on the server again")
    if status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED", "ABORTED"):
        return ServingUnavailable(f"{status}: {message}", where=where, advice="see whether the server runs")
    return ConfigError(f"{status}: {message}", where=where, advice="see the server's log")
