"""The documentation builds as a site: every link leads somewhere, and a page fetches nothing when it is opened."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import histocast
from histocast.cli import VERBS

# What a browser fetches without being asked; a link may lead anywhere.
FETCHED = re.compile(r"""(?:<(?:script|img|iframe)[^>]*\ssrc=|<link[^>]*\shref=)["']?(https?:|//)""")


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(root / "python")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_the_documentation_is_in_the_navigation(root: Path, site: Path) -> None:
    pages = {path.relative_to(root / "docs").with_suffix("") for path in (root / "docs").rglob("*.md")}
    home = (site / "index.html").read_text()

    assert {page for page in pages if f'href="{page}/"' not in home} == {Path("index")}


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    assert {path.name for path in site.rglob("*.html") if FETCHED.search(path.read_text())} == set()
    assert not [path for path in site.rglob("*.css") if re.search(r"url\(['\"]?(https?:|//)", path.read_text())]


def test_the_reference_of_the_command_line_has_every_verb_and_that_of_python_every_name(site: Path) -> None:
    verbs = (site / "reference" / "command-line" / "index.html").read_text()
    names = (site / "reference" / "python" / "index.html").read_text()

    assert {verb for verb in VERBS if f'id="{verb.replace(" ", "-")}"' not in verbs} == set()
    assert {name for name in histocast.__all__ if f'.{name}"' not in names} == {"__version__"}
