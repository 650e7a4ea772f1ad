"""Read text files that may be compressed."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from histocast.errors import DataError, MissingInputError
from histocast.foreign_errors import is_machine_fault

_GZIP = b"\x1f\x8b"


@contextmanager
def open_text(path: Path, *, expected: str, compressed: bool = False) -> Iterator[TextIO]:
    """Open a UTF-8 text file, compressed with gzip or not, with its line ends as they are.

    ``compressed``: refuse a file that is not.
    NCBI's `gene_info` of all species is 60 million lines: what goes through a file line by line holds one of them.

    Raises `MissingInputError` or `DataError`: there is no such file; or it is no text, or no table where it is read as
    one.
    """
    try:
        with path.open("rb") as raw:
            is_gzip = raw.read(len(_GZIP)) == _GZIP
            raw.seek(0)
            content = gzip.GzipFile(fileobj=raw) if is_gzip or compressed else raw
            with io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as stream:
                yield stream
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        found = f"not a whole gzip file: {error}"
        raise DataError(found, expected=expected, where=str(path), advice="copy the file again") from error
    except UnicodeDecodeError as error:
        raise DataError("not a text file", expected=expected, where=str(path)) from error
    except csv.Error as error:
        raise DataError(f"not a table: {error}", expected=expected, where=str(path)) from error
    except OSError as error:
        if is_machine_fault(error):
            raise
        absent = isinstance(error, FileNotFoundError)
        found = "no such file" if absent else error.strerror or "cannot be read"
        raise MissingInputError(found, expected=expected, where=str(path)) from error


def read_text(path: Path, *, expected: str) -> str:
    """Read a text file, compressed with gzip or not.

    Raises `MissingInputError` or `DataError`: there is no such file, or it is no text.
    """
    with open_text(path, expected=expected) as stream:
        return stream.read()


def require_columns(
    found: Iterable[str] | None, needed: Iterable[str], path: Path, *, instead: str = "", advice: str | None = None
) -> None:
    """Raise `DataError` where a table lacks columns that it needs; ``instead``: what the file may be besides."""
    columns = list(found or ())
    if missing := sorted(set(needed) - set(columns)):
        raise DataError(
            f"columns {', '.join(columns[:8]) or 'none'}",
            expected=f"{instead}the column {' and '.join(missing)}",
            where=str(path),
            advice=advice,
        )
