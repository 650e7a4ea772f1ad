"""Tensors handed to a server of this host through memory that both map, instead of through a socket.

A request over loopback costs client and server together 0.5 ms of processor time a 256-px tile more than one whose
tensors are written where the server reads them (docs/serving.md). A block's name is removed as soon as the server has
mapped it, so the memory is free again when both processes have ended, however they end.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from histocast.progress import log

FOLDER = Path("/dev/shm")  # noqa: S108 - where shm_open, which the server calls, looks for names
ALIGNMENT_BYTES = 64
REGISTER_DEADLINE_S = 20.0

_numbers = count()


class Block:
    """Memory that a server has mapped under ``region``."""

    def __init__(self, region: str, memory: mmap.mmap) -> None:
        self.region = region
        self._bytes = np.frombuffer(memory, np.uint8)

    @property
    def size_bytes(self) -> int:
        """How much it holds."""
        return len(self._bytes)

    def write(self, values: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, int]]:
        """Copy tensors in; by name, where each begins and its bytes."""
        places: dict[str, tuple[int, int]] = {}
        start = 0
        for name, value in values.items():
            content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            self._bytes[start : start + len(content)] = content
            places[name] = (start, len(content))
            start += -(-len(content) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return places


class SharedMemory:
    """Blocks for requests under way; may be used by several threads.

    Parameters
    ----------
    client:
        Of the server, which must run on this host.
    most_blocks:
        One a request under way.
    largest_bytes:
        Of one block; larger requests go through the socket, so that a task's memory stays bounded.
    """

    def __init__(self, client: InferenceServerClient, *, most_blocks: int, largest_bytes: int) -> None:
        self._client = client
        self._largest_bytes = largest_bytes
        self._lock = threading.Lock()
        self._free: list[Block] = []
        self._left = most_blocks
        self.used = 0
        """Requests whose tensors went this way."""

    @contextmanager
    def block(self, values: Mapping[str, NDArray[Any]]) -> Iterator[Block | None]:
        """Lend a block that holds these tensors; none where there is no room, and they go through the socket."""
        needed = sum(-(-value.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for value in values.values())
        found = self._take(needed) if 0 < needed <= self._largest_bytes else None
        try:
            yield found
        finally:
            if found is not None:
                with self._lock:
                    self._free.append(found)

    def _take(self, needed_bytes: int) -> Block | None:
        with self._lock:
            for index, block in enumerate(self._free):
                if block.size_bytes >= needed_bytes:
                    self.used += 1
                    return self._free.pop(index)
            if self._left == 0:
                return None
            self._left -= 1
        try:
            made = self._make(needed_bytes)
        except (OSError, OverflowError, InferenceServerException) as error:
            with self._lock:
                self._left = 0
            log(f"no more memory shared with the server, requests go through its socket: {error}")
            return None
        with self._lock:
            self.used += 1
        return made

    def _make(self, size_bytes: int) -> Block:
        region = f"histocast-{os.getpid()}-{next(_numbers)}"
        path = FOLDER / region
        disk = os.statvfs(FOLDER)
        if disk.f_bavail * disk.f_frsize - size_bytes < disk.f_blocks * disk.f_frsize / 2:
            # The server's own programs pass tensors there, too; a container has 64 MB for all.
            raise OSError(errno.ENOSPC, "half of it is taken", str(FOLDER))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Reserved now: writing to memory that is not there would end the process by a signal.
            os.posix_fallocate(descriptor, 0, size_bytes)
            memory = mmap.mmap(descriptor, size_bytes)
            self._client.register_system_shared_memory(
                region, f"/{region}", size_bytes, client_timeout=REGISTER_DEADLINE_S
            )
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                path.unlink()
        return Block(region, memory)
