"""A file written from pieces as they come."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from histocast.errors import HistocastError, OutputError
from histocast.storage.source import Bytes


def write_copy(pieces: Iterable[tuple[int, Bytes]], folder: Path, *, suffix: str) -> Path:
    """Write pieces, each at its place (start, bytes), to a new file and return its path; a failed copy is removed.

    Raises `OutputError`: the folder cannot be written, or the disk is full; `HistocastError`: as the pieces' source
    raises them.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(prefix="object-", suffix=suffix, dir=folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        for start, piece in pieces:
            _write(descriptor, start, piece, folder)
    except HistocastError:
        Path(path).unlink()
        raise
    finally:
        os.close(descriptor)
    return Path(path)


def _write(descriptor: int, start: int, piece: Bytes, folder: Path) -> None:
    view = memoryview(piece)
    try:
        while view:
            written = os.pwrite(descriptor, view, start)
            start += written
            view = view[written:]
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot copy the object: {error.strerror or error}",
        where=str(folder),
        advice="point HISTOCAST_SCRATCH at a folder with room for whole slides",
    )
