"""``-profile test`` run on this machine itself: what containers and the cluster must give again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium that keeps what it loads and what its console says."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("chromium or chromedriver is absent")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    # A container has a small /dev/shm and no place for the browser's own sandbox.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    yield running
    running.quit()
