"""Replace the files of a cohort together, so that no interruption leaves some of the old ones beside some of the new."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from histocast.errors import OutputError

PARTIAL, WHOLE = ".cohort.partial", ".cohort.whole"
"""Folder of new files as they are written; its name from when all are there until each has taken its place."""
_LIST = "files"
"""In the folder: names of the new files, one per line. What is not named is to go."""


@contextmanager
def replace_files(outdir: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a folder for new files; when the block ends they take the place of the old ones, all or none.

    An interruption leaves the old files, or a folder that `finish_replacing` and the next call finish. One process at a time
    may write to ``outdir``.

    ``names``: files that belong together. One that is not written is removed from ``outdir``.
    Raises `OutputError`: ``outdir`` cannot be written.
    """
    partial = outdir / PARTIAL
    finish_replacing(outdir, names)
    with _output_errors(outdir):
        outdir.mkdir(parents=True, exist_ok=True)
        # What an interrupted call left.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    try:
        yield partial
        with _output_errors(outdir):
            with (partial / _LIST).open("w") as stream:
                stream.write("\n".join(name for name in names if (partial / name).exists()))
                stream.flush()
                os.fsync(stream.fileno())
            partial.rename(outdir / WHOLE)
            _flush_folder(outdir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    finish_replacing(outdir, names)


def finish_replacing(outdir: Path, names: Sequence[str]) -> None:
    """Put into place what an interrupted `replace_files` had written whole; nothing where there is no such thing.

    Raises `OutputError`: ``outdir`` cannot be written.
    """
    whole = outdir / WHOLE
    if not whole.is_dir():
        return
    with _output_errors(outdir):
        # Without its list everything has taken its place.
        if (whole / _LIST).exists():
            listed = (whole / _LIST).read_text().split("\n")
            for name in names:
                if (whole / name).exists():
                    (whole / name).replace(outdir / name)
                elif name not in listed:
                    (outdir / name).unlink(missing_ok=True)
            _flush_folder(outdir)
            (whole / _LIST).unlink()
        whole.rmdir()


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _output_errors(outdir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write the files of a cohort: {error.strerror or error}",
            where=str(outdir),
            advice="make room or choose another output folder, then run again",
        ) from error
