"""Names of local files that a task within a container cannot be given."""

from __future__ import annotations

import os
import re

from histocast.errors import DataError

# Nextflow links inputs into a task's folder by a script that leaves these characters to the shell. A task without a
# container reads such a file where it lies (modules/inputs.nf).
_UNSTAGEABLE = re.compile(r"[$*?\[{\x00-\x1f\x7f]")


def refuse_unstageable(path: str, *, name: str) -> None:
    """Raise `DataError` for a path that Nextflow cannot bring to a container, within one; the path is not quoted."""
    found = _UNSTAGEABLE.search(path)
    if found and os.environ.get("HISTOCAST_IMAGE"):
        raise DataError(
            f"a path that holds {found[0]!r}",
            expected="a path without any of $ * ? [ { and control characters, which Nextflow cannot bring to a container",
            where=name,
            advice="rename the file or the folder that has it",
        )
