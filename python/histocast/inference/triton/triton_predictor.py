"""Graphs run by inference servers, as dependably as in this process.

    caller        submit(), and later result()             order is kept, because each result is asked for by its call
    threads       one a request under way: send, wait, try again
    gRPC          the bytes

Every call has a deadline. Servers that are away, slow or full are asked again, with growing pauses of random
length so that tasks do not come back together, until the patience of `TritonSettings` is over. Whatever would
fail again ends all other calls at once.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from histocast.bundle import Bundle
from histocast.errors import ConfigError, DeadlineExceeded, HistocastError, ServingUnavailable, TransientError
from histocast.inference.onnx_predictor import PIECE_TILES
from histocast.inference.predictor import Facts, Pending, Tensors, check_finite, check_tensors, choose_graphs, graphs_of
from histocast.inference.triton.call_stats import CallFacts
from histocast.inference.triton.check_server import check_server
from histocast.inference.triton.model_repository import is_batched, model_name
from histocast.inference.triton.servers import Fleet, ModelUnloaded, Server, translate
from histocast.inference.triton.settings import TritonSettings, parse_servers
from histocast.inference.triton.shared_memory import SharedMemory
from histocast.inference.triton.wire import keep_memory_of_requests, read_response, write_request
from histocast.progress import log

Answer = TypeVar("Answer")

REQUEST_TILES = 64
REQUEST_BYTES = 16 * 2**20
"""Largest request: beyond it the client's time a tile doubles (measured), and a retry repeats more."""

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0

UNLOADED_PATIENCE_S = 15.0
"""A model that is being exchanged is back by then; one that somebody took away is not."""


class TritonPredictor:
    """`Predictor` on inference servers; calls may come from several threads.

    ``bundle``: states the graphs, whose models the servers must serve by digest and contract.
    ``names``: graphs that will be run.
    ``url``: ``grpc://host:8001``, several separated by commas.
    ``settings``: credentials and limits.
    Raises `UsageError`: ``url`` is none; `ConfigError`: a server serves something else, or refuses us;
    `ServingUnavailable` or `DeadlineExceeded`: no server answered.
    """

    def __init__(self, bundle: Bundle, *, names: Sequence[str], url: str, settings: TritonSettings) -> None:
        keep_memory_of_requests()
        self._graphs = choose_graphs(bundle, names)
        self._settings = settings
        self.in_flight = settings.in_flight
        self._limits: dict[str, int] = {}
        self._failure: HistocastError | None = None
        self._stopped = threading.Event()
        self._calls: set[Any] = set()
        self._lock = threading.Lock()
        self._fleet = Fleet(parse_servers(url), settings)
        self._memory = None
        first, *others = self._fleet.servers
        if settings.shared_memory and first.address.is_loopback and not others:
            self._memory = SharedMemory(first.client, settings, largest_bytes=REQUEST_BYTES)
        self._pool = ThreadPoolExecutor(settings.in_flight, thread_name_prefix="triton")
        self._facts = CallFacts([model_name(name, graph) for name, graph in self._graphs.items()])
        try:
            self._try("its models", lambda _: None)
        except HistocastError:
            self.close()
            raise
        self._facts.begin(self._fleet, settings)

    def infer(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run a graph once and return its outputs by name.

        Raises `ConfigError`: an input or output does not fit the contract, an output is not finite, or a server
        refused; `ServingUnavailable` or `DeadlineExceeded`: no server answered while patience lasted.
        """
        return self.submit(name, inputs).result()

    def submit(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Pending:
        """Send a call, an encoder's in requests of at most `REQUEST_TILES`; see `infer` for what its result raises."""
        if self._failure is not None:
            raise self._failure
        graph = self._graphs[name]
        check_tensors(inputs, graph.inputs, where=f"graph {name!r}")
        if not is_batched(name, graph):
            # Whole: inputs of a region have different lengths, spots and genes.
            return _Joined([self._pool.submit(self._request, name, inputs)], self._facts)
        count = len(next(iter(inputs.values())))
        rows = self._rows_of_request(name, inputs)
        requests = [
            self._pool.submit(self._request, name, {key: value[start : start + rows] for key, value in inputs.items()})
            for start in range(0, max(count, 1), rows)
        ]
        return _Joined(requests, self._facts)

    def _rows_of_request(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> int:
        """Most rows in one request; whole pieces, as every runtime cuts a batch, so that results are the same bits."""
        row_bytes = max(sum(value[:1].nbytes for value in inputs.values()), 1)
        rows = min(REQUEST_TILES, REQUEST_BYTES // row_bytes, self._limits[name] or REQUEST_TILES)
        return max(rows - rows % PIECE_TILES, min(rows, PIECE_TILES), 1)

    def facts(self) -> Facts:
        """Requests, retries, waiting, latencies, and how many tiles the servers ran at once."""
        facts = self._facts.facts(self._fleet, self._settings)
        if self._memory:
            facts["server_requests_by_shared_memory"] = self._memory.used
        return facts

    def check_every_server(self) -> None:
        """Compare all servers' models with the bundle; a server that is away is told of, since others stand in.

        Raises `ConfigError`: a server serves something else, or refuses us.
        """
        for server in self._fleet.servers:
            try:
                self._check(server)
            except TransientError as error:
                log(f"going on without {server.address}: {error.found}")

    def close(self) -> None:
        """Cancel what is under way and end the connections."""
        is_idle = not self._calls
        self._stop(None)
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._memory:
            self._memory.close(is_idle=is_idle)
        self._fleet.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _request(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Send one request, again where that may help, and hold its answer to the contract."""
        graph = self._graphs[name]
        sizes = check_tensors(inputs, graph.inputs, where=f"graph {name!r}")
        try:
            server, outputs = self._try(f"graph {name!r}", lambda server: (server, self._send(server, name, inputs)))
            where = f"graph {name!r}, server {server.address}"
            check_tensors(outputs, graph.outputs, where=where, sizes=sizes)
            check_finite(outputs, where=where)
        except HistocastError as error:
            self._stop(error)
            raise
        return outputs

    def _try(self, what: str, call: Callable[[Server], Answer]) -> Answer:
        """Call with a server that serves the bundle, until it answers or patience ends."""
        started_s = time.monotonic()
        attempts = 0
        while not self._stopped.is_set():
            attempts += 1
            with self._fleet.server() as server:
                try:
                    if not server.is_checked:
                        self._check(server)
                    return call(server)
                except TransientError as error:
                    another_is_ready = self._fleet.rest(server)
                    failure = error
            if self._stopped.is_set():
                break
            self._give_up_after(failure, what, attempts=attempts, waited_s=time.monotonic() - started_s)
            self._facts.count_retry()
            if attempts == 1:
                log(f"{failure.message.splitlines()[0]}; trying again")
            if not another_is_ready or attempts > len(self._fleet.servers):
                pause_s = min(FIRST_PAUSE_S * 2 ** min(attempts, 16), LONGEST_PAUSE_S)
                self._stopped.wait(random.uniform(0.5, 1.0) * pause_s)  # noqa: S311 - spreads load, hides nothing
        raise self._failure or ServingUnavailable("cancelled", where=what)

    def _check(self, server: Server) -> None:
        """Compare a server's models with the bundle; requests are cut to what the strictest server takes."""
        for name, limit in check_server(server, self._graphs, self._settings).items():
            known = self._limits.get(name, 0)
            self._limits[name] = min(limit, known) if limit and known else limit or known

    def _give_up_after(self, error: TransientError, what: str, *, attempts: int, waited_s: float) -> None:
        if isinstance(error, ModelUnloaded) and waited_s >= min(UNLOADED_PATIENCE_S, self._settings.patience_s):
            raise ConfigError(error.found, expected="a loaded model", where=error.where, advice=error.advice) from error
        if waited_s >= self._settings.patience_s:
            raise type(error)(
                f"{error.found}; given up on {what} after {attempts} tries in {waited_s:.0f} s",
                where=error.where,
                advice=error.advice,
            ) from error

    def _send(self, server: Server, name: str, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Make one call and wait for its answer."""
        graph = self._graphs[name]
        where = f"graph {name!r}, server {server.address}"
        with self._memory.block(inputs) if self._memory else nullcontext() as block:
            started_s = time.monotonic()
            response = self._call(server, write_request(model_name(name, graph), graph, inputs, block), where=where)
        self._facts.count_call(time.monotonic() - started_s)
        return read_response(response, graph, where=where)

    def _call(self, server: Server, request: bytes, *, where: str) -> Any:
        call = server.infer.future(
            request, timeout=self._settings.deadline_s, metadata=tuple(self._settings.headers().items())
        )
        with self._lock:
            self._calls.add(call)
        try:
            if self._stopped.is_set():
                call.cancel()
            # gRPC keeps the deadline; this one is for the case that it does not.
            return call.result(timeout=2 * self._settings.deadline_s + 10)
        except grpc.RpcError as error:
            raise translate(error, where=where) from error
        except grpc.FutureCancelledError as error:
            raise ServingUnavailable("cancelled", where=where) from error
        except grpc.FutureTimeoutError as error:
            call.cancel()
            raise DeadlineExceeded("no answer, and no end of the call", where=where) from error
        finally:
            with self._lock:
                self._calls.discard(call)

    def _stop(self, error: HistocastError | None) -> None:
        """End every call; those that still run fail with ``error``."""
        with self._lock:
            if self._failure is None and not self._stopped.is_set():
                self._failure = error
            self._stopped.set()
            calls = list(self._calls)
        for call in calls:
            call.cancel()


class _Joined:
    """The requests of one call, joined in order."""

    def __init__(self, requests: list[Future[Tensors]], facts: CallFacts) -> None:
        self._requests = requests
        self._facts = facts

    def result(self) -> Tensors:
        """Wait for all of them."""
        with self._facts.waiting():
            parts = [request.result() for request in self._requests]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def verify_servers(bundle: Bundle, *, url: str, settings: TritonSettings) -> None:
    """Hold every server to every graph of a bundle, before the first slide is opened.

    Raises `ConfigError`: a server serves something else, or refuses us; both digests are named; `ServingUnavailable` or
    `DeadlineExceeded`: no server answered while patience lasted.
    """
    with TritonPredictor(bundle, names=tuple(graphs_of(bundle)), url=url, settings=settings) as predictor:
        predictor.check_every_server()
