"""What is worth knowing afterwards of calls to inference servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from tritonclient.utils import InferenceServerException

from histocast.inference.predictor import Facts
from histocast.inference.triton.servers import Fleet
from histocast.inference.triton.settings import TritonSettings

STATISTICS_DEADLINE_S = 2.0


class CallFacts:
    """Counts calls; may be used by several threads.

    ``models``: whose statistics the servers are asked for.
    """

    def __init__(self, models: Sequence[str]) -> None:
        self._models = models
        self._lock = threading.Lock()
        self._latencies_s: list[float] = []
        self._retries = 0
        self._waited_s = 0.0
        self._before: dict[str, tuple[int, int]] = {}

    def begin(self, fleet: Fleet, settings: TritonSettings) -> None:
        """Note what the servers had done before."""
        self._before = _executions(fleet, self._models, settings)

    def count_call(self, seconds: float) -> None:
        """Note an answered call."""
        with self._lock:
            self._latencies_s.append(seconds)

    def count_retry(self) -> None:
        """Note a call that has to be made again."""
        with self._lock:
            self._retries += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block's duration as time the stage waited for servers."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._waited_s += time.monotonic() - started_s

    def facts(self, fleet: Fleet, settings: TritonSettings) -> Facts:
        """Everything so far; ``effective_batch`` only where the servers say."""
        with self._lock:
            latencies_ms = 1000 * np.array(self._latencies_s)
            facts: Facts = {
                "server_requests": len(latencies_ms),
                "server_retries": self._retries,
                "waiting_on_server_s": round(self._waited_s, 3),
            }
        if len(latencies_ms):
            facts["server_p50_ms"] = round(float(np.percentile(latencies_ms, 50)), 1)
            facts["server_p99_ms"] = round(float(np.percentile(latencies_ms, 99)), 1)
        after = _executions(fleet, self._models, settings)
        changes = [np.subtract(after[name], before) for name, before in self._before.items() if name in after]
        # Counts that fell are those of a server that was started again.
        rows, batches = np.sum([change for change in changes if change.min() >= 0] or [(0, 0)], axis=0)
        if batches:
            facts["effective_batch"] = round(float(rows / batches), 1)
        return facts


def _executions(fleet: Fleet, models: Sequence[str], settings: TritonSettings) -> dict[str, tuple[int, int]]:
    """By server, the rows it has inferred and the batches they were in; without those that do not say.

    Other clients' rows count too: a batch may hold several clients' requests.
    """
    counts = {}
    for server in fleet.servers:
        rows = batches = 0
        try:
            for model in models:
                answer = server.client.get_inference_statistics(
                    model, headers=settings.headers(), client_timeout=STATISTICS_DEADLINE_S
                )
                rows += sum(entry.inference_count for entry in answer.model_stats)
                batches += sum(entry.execution_count for entry in answer.model_stats)
        except InferenceServerException:
            # It is away, or keeps its statistics to itself: the figure is then without it.
            continue
        counts[str(server.address)] = (rows, batches)
    return counts
