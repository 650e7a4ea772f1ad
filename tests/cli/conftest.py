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

    def run(*arguments: object, user: int | None = None, env: dict[str, str] | None = None):
        command: Sequence[str] = [sys.executable, "-m", "histocast", *map(str, arguments)]
        variables = {**os.environ, "PYTHONPATH": str(root / "python"), **(env or {})}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, user=user, env=variables
        )

    return run


@pytest.fixture(scope="session")
def demo_bundle(root: Path) -> Path:
    """The bundle in the repository."""
    return root / "assets" / "demo-bundle"
