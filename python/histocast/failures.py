"""How a command ends that fails, whatever its verb: with one message, an exit code, and foreign tracebacks in a log.

Standard library alone, so that it works where a library cannot be imported.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NoReturn

from histocast.errors import HistocastError
from histocast.foreign_errors import known_error, one_line

UNFORESEEN = 70
LOG_VARIABLE = "HISTOCAST_LOG"
LOG_FILE = "histocast.log"
TO_STDERR = "-"


def end_with(error: BaseException) -> NoReturn:
    """Print the message of an error to standard error and exit with its code (`histocast.errors`).

    An exception of another library ends with the code of what it means (`histocast.foreign_errors`), else with 70. Its
    traceback is appended to the file that ``HISTOCAST_LOG`` names (``-``: standard error), by default ``histocast.log``
    in the current folder; where that cannot be written, in the folder of temporary files, else on standard error.
    """
    known = known_error(error)
    log = None if isinstance(error, HistocastError) else _log_traceback(error)
    if known is None:
        message = f"histocast failed in a way it does not know: {type(error).__name__}: {one_line(error)}"
        message = f"{message} (traceback: {log}; please report it)"
    else:
        message = f"{known.message}\n  traceback: {log}" if log else known.message
    _say(f"error: {_without_slide(message, sys.argv)}")
    sys.exit(known.exit_code if known else UNFORESEEN)


def _log_traceback(error: BaseException) -> str:
    """Keep a traceback; return where it is."""
    text = "".join(traceback.format_exception(error))
    if os.environ.get(LOG_VARIABLE) != TO_STDERR:
        for path in (
            Path(os.environ.get(LOG_VARIABLE) or LOG_FILE).absolute(),
            Path(tempfile.gettempdir()) / f"histocast-{os.getpid()}.log",
        ):
            with suppress(OSError), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(text)
                stream.flush()
                return str(path)
    _say(text.rstrip("\n"))
    return "above"


def _say(text: str) -> None:
    # A terminal that is gone or a full disk behind it must not change the exit code.
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _without_slide(message: str, arguments: Sequence[str]) -> str:
    """The message without the location of the slide that was given, which can hold an accession number."""
    for given in _slides(arguments):
        for location in (given, PurePosixPath(given).name):
            if location:
                # Not within a word: a slide may be named by one letter.
                message = re.sub(rf"(?<!\w){re.escape(location)}(?!\w)", "the slide", message)
    return message


def _slides(arguments: Sequence[str]) -> Iterator[str]:
    """Locations of slides among the arguments: ``--slide A``, ``--slide=A`` and ``predict-slide A``."""
    for word, value in pairwise(arguments):
        if word == "--slide" or (word == "predict-slide" and not value.startswith("-")):
            yield value
    for word in arguments:
        if word.startswith("--slide="):
            yield word.removeprefix("--slide=")
