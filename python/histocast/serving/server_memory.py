"""Shared memory that a server's Python backend leaves behind when it is killed."""

from __future__ import annotations

import secrets
from pathlib import Path

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
