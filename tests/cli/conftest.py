"""The command line as a user runs it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Verb = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def histocast(root: Path) -> Verb:
    """Run ``histocast ARGS`` and return what it printed and its exit code."""

    def run(*arguments: object, unprivileged: bool = False, env: dict[str, str] | None = None):
        # Root reads whatever it likes, until it gives up the capability to.
        drop = (
            ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if unprivileged and os.geteuid() == 0 else []
        )
        command: Sequence[str] = [*drop, sys.executable, "-m", "histocast", *map(str, arguments)]
        variables = {**os.environ, "PYTHONPATH": str(root / "python"), **(env or {})}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=variables)

    return run


@pytest.fixture(scope="session")
def demo_bundle(root: Path) -> Path:
    """The bundle in the repository."""
    return root / "assets" / "demo-bundle"
