"""Where large temporary files go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from histocast.errors import OutputError

SCRATCH_VARIABLE = "HISTOCAST_SCRATCH"


@contextmanager
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """Yield a folder for large temporary files that is gone with the block.

    It is made in the folder that ``HISTOCAST_SCRATCH`` names, else in ``beside``, else where the system keeps temporary
    files (``TMPDIR``).

    Raises
    ------
    OutputError
        It cannot be made there.
    """
    disk = os.environ.get(SCRATCH_VARIABLE)
    parent = disk or beside
    try:
        parent = Path(parent or gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=".histocast-", dir=parent)
    except OSError as error:
        raise OutputError(
            f"cannot make a folder here: {error.strerror or error}",
            where=str(parent),
            advice=f"point {SCRATCH_VARIABLE} at a folder that can be written"
            + (", or choose another --outdir" if beside and not disk else ""),
        ) from error
    with folder as name:
        yield Path(name)
