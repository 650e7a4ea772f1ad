"""A folder on a machine's own disk that its tasks share: each bundle is fetched once, and the size is bounded.

<cache>/<bundle>            files of a bundle, each whole or absent
<cache>/<bundle>.arriving   what is being fetched; after a crash the next one who fetches removes it
<cache>/<bundle>.use        locked by every process that uses the bundle; its time is that of the last use
<cache>/lock                locked by the one process that fetches or removes
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from histocast.progress import log
from histocast.storage.lock import open_lock_file

ARRIVING = ".arriving"
USE = ".use"
LOCK = "lock"

_held: dict[Path, int] = {}


def hold_folder(folder: Path) -> None:
    """Keep a bundle's folder from being removed until this process ends, however it ends.

    Raises `OutputError`: the cache cannot be written.
    """
    if folder not in _held:
        descriptor = open_lock_file(_beside(folder, USE))
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _held[folder] = descriptor
    os.utime(_held[folder])


def make_room(cache: Path, *, needed_bytes: int, limit_bytes: int) -> None:
    """Remove bundles that no process uses, the least recently used first, until as much fits; call under `LOCK`.

    What crashed processes left of a fetch is removed whether or not there is room.
    """
    for left in cache.glob(f"*{ARRIVING}"):
        shutil.rmtree(left, ignore_errors=True)
    used_bytes = sum(_size(each) for each in cache.iterdir() if each.is_dir())
    for use in sorted(cache.glob(f"*{USE}"), key=lambda path: path.stat().st_mtime):
        if used_bytes + needed_bytes <= limit_bytes:
            return
        folder = use.with_name(use.name.removesuffix(USE))
        if folder.is_dir():
            used_bytes -= _remove_unused(folder, use)
    if used_bytes + needed_bytes > limit_bytes:
        log(
            f"the cache of bundles needs {(used_bytes + needed_bytes) / 1e9:.1f} GB and may hold "
            f"{limit_bytes / 1e9:.1f} (HISTOCAST_CACHE_GB): all of it is in use"
        )


def _remove_unused(folder: Path, use: Path) -> int:
    """Remove a bundle unless a process uses it; return how many bytes that freed."""
    descriptor = open_lock_file(use)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    else:
        freed_bytes = _size(folder)
        # Under a name that a crash does not leave half a bundle at.
        leaving = _beside(folder, ARRIVING)
        folder.replace(leaving)
        shutil.rmtree(leaving, ignore_errors=True)
        return freed_bytes
    finally:
        os.close(descriptor)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.with_name(folder.name + suffix)


def _size(folder: Path) -> int:
    total_bytes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total_bytes += path.stat().st_size if path.is_file() else 0
    return total_bytes
