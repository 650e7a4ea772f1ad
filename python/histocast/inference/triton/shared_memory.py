"""Tensors handed to a server of this host through memory that both map, instead of through a socket.

A request over loopback costs client and server together 0.3 ms of processor time a 256-px tile more than one whose
tensors are written where the server reads them (docs/serving.md). Whether the server is on this host is tried, not
guessed: behind an address of loopback may be a tunnel or a container. A server that cannot open a name of 64 random
bits in its own /dev/shm does not share ours.

A block's name is removed as soon as the server has mapped it, and the server forgets it when the client closes. What
a killed client leaves is mapped by the server until it ends, or until the next client of this host comes: each holds
a lock on a file beside the blocks for as long as it lives, so that those without a living owner are known.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from histocast.errors import ConfigError, ServingUnavailable
from histocast.inference.triton.settings import TritonSettings
from histocast.progress import log

ALIGNMENT_BYTES = 64
REGISTER_DEADLINE_S = 3.0
"""A server of this host does it at once; one behind a tunnel that stalls should not hold up the first request."""
PREFIX = "histocast-client-"


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

    ``client``: of the server.
    ``settings``: one block is made a request under way.
    ``largest_bytes``: of one block; larger requests go through the socket, so that a task's memory stays bounded.
    """

    def __init__(self, client: InferenceServerClient, settings: TritonSettings, *, largest_bytes: int) -> None:
        self._client = client
        self._settings = settings
        self._largest_bytes = largest_bytes
        self._lock = threading.Lock()
        self._owner: Owner | None = None
        self._regions: list[str] = []
        self._free: list[Block] = []
        self._is_given_up = False
        self.used = 0
        """Requests whose tensors went this way."""

    @contextmanager
    def block(self, values: Mapping[str, NDArray[Any]]) -> Iterator[Block | None]:
        """Lend a block that holds these tensors; none where there is no room, and they go through the socket.

        Raises `ServingUnavailable`: the call within failed because the server was started again, and knows no blocks
        any more.
        """
        needed = sum(-(-value.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for value in values.values())
        found = self._take(needed) if 0 < needed <= self._largest_bytes else None
        try:
            yield found
        except ConfigError as error:
            if found is None or found.region not in error.found:
                raise
            self._give_up("the server has forgotten it")
            raise ServingUnavailable(error.found, where=error.where) from error
        finally:
            if found is not None:
                with self._lock:
                    self._free.append(found)

    def close(self, *, is_idle: bool) -> None:
        """Have the server forget the blocks, or leave that to the next client where the server may still read them."""
        self._is_given_up = True
        regions, self._regions = self._regions, []
        # A server that is gone has forgotten them, and one that does not answer need not be asked for each.
        with suppress(InferenceServerException):
            for region in regions if is_idle else ():
                self._client.unregister_system_shared_memory(region, **self._call_options())
        if self._owner is not None:
            self._owner.end()
            self._owner = None

    def _take(self, needed_bytes: int) -> Block | None:
        try:
            with self._lock:
                if self._is_given_up:
                    return None
                for index, block in enumerate(self._free):
                    if block.size_bytes >= needed_bytes:
                        self.used += 1
                        return self._free.pop(index)
                if len(self._regions) == self._settings.in_flight:
                    return None
                self._owner = self._owner or Owner()
                region = f"{self._owner.name}-{len(self._regions)}"
                self._regions.append(region)
            made = self._make(region, needed_bytes)
        except (OSError, OverflowError, InferenceServerException) as error:
            self._give_up(str(error))
            return None
        with self._lock:
            self.used += 1
        return made

    def _give_up(self, reason: str) -> None:
        with self._lock:
            is_news, self._is_given_up = not self._is_given_up, True
        if is_news:
            log(f"no more memory shared with the server, requests go through its socket: {reason}")

    def _make(self, region: str, size_bytes: int) -> Block:
        disk = os.statvfs(SHARED_MEMORY)
        if disk.f_bavail * disk.f_frsize - size_bytes < disk.f_blocks * disk.f_frsize / 2:
            # The server's own programs pass tensors there, too; a container has 64 MB for all.
            raise OSError(errno.ENOSPC, "half of it is taken", str(SHARED_MEMORY))
        path = SHARED_MEMORY / region
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Reserved now: writing to memory that is not there would end the process by a signal.
            os.posix_fallocate(descriptor, 0, size_bytes)
            memory = mmap.mmap(descriptor, size_bytes)
            self._client.register_system_shared_memory(region, f"/{region}", size_bytes, **self._call_options())
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                path.unlink()
        if region.endswith("-0"):
            self._forget_the_dead()
        return Block(region, memory)

    def _forget_the_dead(self) -> None:
        """Have the server forget blocks of clients that ended without a word, and remove their marks."""
        with suppress(InferenceServerException):
            for region in self._client.get_system_shared_memory_status(**self._call_options()).regions:
                if region.startswith(PREFIX) and not is_alive(region.rpartition("-")[0]):
                    self._client.unregister_system_shared_memory(region, **self._call_options())
        for mark in SHARED_MEMORY.glob(f"{PREFIX}*.owner"):
            is_alive(mark.stem)

    def _call_options(self) -> dict[str, Any]:
        deadline_s = min(REGISTER_DEADLINE_S, self._settings.deadline_s)
        return {"headers": self._settings.headers(), "client_timeout": deadline_s}


class Owner:
    """A client's mark that it lives: a file it holds a lock on, which the kernel releases with its process."""

    def __init__(self) -> None:
        self.name = f"{PREFIX}{secrets.token_hex(8)}"
        self._mark = mark_of(self.name)
        unlocked = self._mark.with_suffix(".new")
        self._descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        unlocked.rename(self._mark)

    def end(self) -> None:
        """Remove the mark."""
        self._mark.unlink(missing_ok=True)
        os.close(self._descriptor)


def mark_of(owner: str) -> Path:
    """The file that an owner holds a lock on."""
    return SHARED_MEMORY / f"{owner}.owner"


def is_alive(owner: str) -> bool:
    """Whether an owner of this host lives; the mark of one that does not is removed.

    Marks of other users cannot be read; their owners count as alive.
    """
    try:
        descriptor = os.open(mark_of(owner), os.O_RDWR)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mark_of(owner).unlink(missing_ok=True)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where shm_open, which servers call, looks for names


class Regions:
    """Names of the shared memory in which one server's Python backend keeps its tensors.

    Each model of that backend has a region of at least 1 MB. A server removes its names when it ends by itself; those
    of one that was killed would stay until the machine is started again.
    """

    def __init__(self) -> None:
        self._prefix = f"histocast-server-{secrets.token_hex(8)}-"

    @property
    def option(self) -> str:
        """What has a server choose these names."""
        return f"--backend-config=python,shm-region-prefix-name={self._prefix}"

    @property
    def pattern(self) -> str:
        """Matches their files."""
        return str(SHARED_MEMORY / f"{self._prefix}*")

    def remove(self) -> None:
        """Remove those that a server left."""
        for path in SHARED_MEMORY.glob(f"{self._prefix}*"):
            path.unlink(missing_ok=True)
