"""Real runs of the pipeline: Nextflow, the command line and small slides, in folders of their own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_runs import Launcher
from stained_sections import write_stained_slide


@pytest.fixture(scope="session")
def nextflow(root: Path) -> str:
    """The launcher of Nextflow: that of PATH, else the one `make setup` brought."""
    found = shutil.which("nextflow", path=f"{os.environ['PATH']}:{root / '.tools' / 'bin'}")
    if found is None:
        pytest.skip("nextflow is absent: make setup")
    return found


@pytest.fixture
def launch(root: Path, nextflow: str, tmp_path: Path) -> Launcher:
    """A launcher in an empty folder."""
    return Launcher(root, tmp_path, nextflow)


@pytest.fixture(scope="session")
def bundle(root: Path) -> Path:
    """The bundle that comes with the pipeline."""
    return root / "assets" / "demo-bundle"


@pytest.fixture(scope="session")
def make_slide() -> Callable[..., Path]:
    """Writer of small stained slides: ``make_slide(path, seed=1)``."""
    return write_stained_slide
