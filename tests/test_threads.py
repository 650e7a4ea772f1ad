"""A task uses as many threads as it asked for, whatever machine it came to."""

from __future__ import annotations

import os

import pytest

from histocast.errors import UsageError
from histocast.resources import THREADS_VARIABLE, available_threads


def test_threads_are_those_of_the_process_or_the_fewer_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = len(os.sched_getaffinity(0))
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    assert available_threads() == shown
    monkeypatch.setenv(THREADS_VARIABLE, "1")
    assert available_threads() == 1
    monkeypatch.setenv(THREADS_VARIABLE, "100000")
    assert available_threads() == shown


@pytest.mark.parametrize("said", ["0", "-2", "some", "1.5"])
def test_what_is_no_number_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, said)
    with pytest.raises(UsageError, match=THREADS_VARIABLE):
        available_threads()
