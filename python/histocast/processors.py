"""How many processors a program may use."""

from __future__ import annotations

import os

from histocast.errors import UsageError

THREADS_VARIABLE = "HISTOCAST_THREADS"


def available_threads() -> int:
    """Processors this process may use, which in a container or a job is not the machine's count.

    The pipeline says in ``HISTOCAST_THREADS`` what a task asked for, because many schedulers share a machine out
    without showing each job its own part.

    Raises
    ------
    UsageError
        ``HISTOCAST_THREADS`` is no number of threads.
    """
    shown = len(os.sched_getaffinity(0))
    said = os.environ.get(THREADS_VARIABLE, "")
    if not said:
        return shown
    if not said.isdecimal() or int(said) < 1:
        raise UsageError(f"{THREADS_VARIABLE} is {said!r}", expected="a whole number, at least 1")
    return min(shown, int(said))
