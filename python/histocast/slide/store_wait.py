"""How long decoding stood still for lack of stored bytes, which tells a slow store from a slow processor."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StoreWait:
    """Counts one thread's waiting, which others may look at while it goes on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total_s = 0.0
        self._since_s: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the block's duration."""
        with self._lock:
            self._since_s = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._total_s += time.monotonic() - self._since_s
                self._since_s = None

    @property
    def seconds(self) -> float:
        """Waited so far, what goes on included."""
        with self._lock:
            return self._total_s + (time.monotonic() - self._since_s if self._since_s is not None else 0.0)
