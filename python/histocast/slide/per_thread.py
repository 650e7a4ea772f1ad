"""Something each thread has its own of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class PerThread(Generic[Thing]):
    """Makes one for each thread that asks; it goes with the thread."""

    def __init__(self, make: Callable[[], Thing]) -> None:
        self._make = make
        self._local = threading.local()

    def get(self) -> Thing:
        """Return this thread's."""
        try:
            thing: Thing = self._local.thing
        except AttributeError:
            thing = self._local.thing = self._make()
        return thing
