"""A training in a process of its own that is killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from histocast.training.checkpoint import load_checkpoint

LIMIT_S = 120


def epochs_kept_by_a_killed_training(module: str, function: str, checkpoint: Path, *, epochs: int) -> int:
    """Call ``module.function(checkpoint)``, kill it once ``epochs`` are kept, and return how many are by then."""
    code = f"from pathlib import Path; import {module} as t; t.{function}(Path({str(checkpoint)!r}))"
    places = [Path(__file__).parent, Path(__file__).parents[1], *map(Path, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(place) for place in places if str(place) != ".")}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + LIMIT_S
    while _epochs_kept(checkpoint) < epochs and time.monotonic() < deadline_s:
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return _epochs_kept(checkpoint)


def _epochs_kept(checkpoint: Path) -> int:
    state = load_checkpoint(checkpoint, identity="same")
    return 0 if state is None else len(state["history"])
