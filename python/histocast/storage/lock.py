"""Locks between the processes of one machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histocast.errors import OutputError


def open_lock_file(path: Path) -> int:
    """Return a descriptor to lock; the empty file stays, since another process may wait for it.

    Raises `OutputError`: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(
            f"cannot write {path.name}: {error.strerror or error}",
            where=str(path.parent),
            advice="name a folder by HISTOCAST_CACHE that every task may write",
        ) from error


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Wait until no other process holds this lock, and hold it within the block; a process that dies releases it."""
    descriptor = open_lock_file(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
