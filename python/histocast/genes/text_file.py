"""Read text files that may be compressed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from histocast.errors import DataError, MissingInputError


def read_text(path: Path, *, expected: str) -> str:
    """Read a text file, compressed with gzip or not.

    Raises
    ------
    MissingInputError, DataError
        There is no such file, or it is no text.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError("not a whole text file", expected=expected, where=str(path)) from error
    except OSError as error:
        raise MissingInputError(error.strerror or "cannot be read", expected=expected, where=str(path)) from error
