"""``-profile test`` run on this machine itself: what containers and the cluster must give again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_runs import Launcher, Run

NewLauncher = Callable[[str], Launcher]


@pytest.fixture(scope="session")
def new_launcher(root: Path, tmp_path_factory: pytest.TempPathFactory) -> NewLauncher:
    """Launchers of the pipeline, each in a new folder."""
    nextflow = shutil.which("nextflow") or str(root / ".tools" / "bin" / "nextflow")
    return lambda name: Launcher(root, tmp_path_factory.mktemp(name), nextflow)


@pytest.fixture(scope="session")
def on_this_machine(new_launcher: NewLauncher) -> Run:
    """Without containers and without a cluster."""
    run = new_launcher("plain")("-profile", "test")
    assert run.code == 0, run.output
    return run
