"""A real slide, damaged by chance, ends each verb well, with flagged spots, or as a data error.

``HISTOCAST_FUZZ=2000`` tries as many variants; the ordinary number keeps the suite short.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

VARIANTS = int(os.environ.get("HISTOCAST_FUZZ", "16"))


@pytest.mark.timeout(60 + 5 * VARIANTS)
def test_no_variant_crashes_hangs_or_takes_memory(shared_data: Path, root: Path) -> None:
    """In a process of its own, because its children are forked, and this one has threads."""
    slide = shared_data / "slides" / "CMU-1-Small-Region.svs"
    command = [sys.executable, root / "tests" / "fuzz_verbs.py", slide, "--count", str(VARIANTS)]
    environment = {**os.environ, "PYTHONPATH": str(root / "python")}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads(ended.stdout)
    assert sum(result["outcomes"].values()) == VARIANTS
    assert {"ok", "unreadable flagged", "data error in tile", "data error in encode"} >= set(result["outcomes"])
    assert len(result["outcomes"]) > 1, "the damage does nothing"
