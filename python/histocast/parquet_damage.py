"""What pyarrow says of a Parquet file that is damaged or none, in the words of histocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from histocast.errors import DataError, MissingInputError
from histocast.foreign_errors import is_out_of_memory


def read_parquet(path: Path, *, expected: str) -> pa.Table:
    """Read a Parquet file whole; raises `MissingInputError` where there is none, and `DataError` where it is damaged."""
    import pyarrow.parquet as pq

    if not path.is_file():
        raise MissingInputError("no such file", expected=expected, where=str(path))
    with refuse_damaged_parquet(path, expected=expected):
        return pq.read_table(path)


@contextmanager
def refuse_damaged_parquet(
    path: Path, *, expected: str, advice: str = "copy or write it again", kind: type[DataError] = DataError
) -> Iterator[None]:
    """Raise `DataError`, or a ``kind`` of it, where pyarrow cannot read a file.

    Of a damaged page pyarrow raises an `OSError` without a number, of a damaged schema `pyarrow.ArrowInvalid`. Errors
    of the system, which have a number, and lack of memory pass through.
    """
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if is_out_of_memory(error) or getattr(error, "errno", None) is not None:
            raise
        raise kind("not a readable Parquet file", expected=expected, where=str(path), advice=advice) from error
