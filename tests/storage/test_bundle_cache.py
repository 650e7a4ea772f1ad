"""Claims: tasks of a machine fetch a bundle once, whole, into a cache that is bounded and loses nothing in use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from faulty_proxy import BUCKET, FaultyProxy
from histocast.bundle import read_bundle, verify_files
from histocast.errors import OutputError, UsageError
from histocast.stages.environment import fetch_bundle as fetch_for_stage
from histocast.storage import fetch_bundle
from histocast.storage.cache import hold_folder, make_room
from sample_bundle import write_bundle

PREFIX = f"s3://{BUCKET}/bundles/v1"
LIMIT_BYTES = 10**9
TASK = """
import sys
from pathlib import Path
from histocast.storage import fetch_bundle
print(fetch_bundle(sys.argv[1], Path(sys.argv[2]), limit_bytes=10**9), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def uploaded(bucket, tmp_path: Path) -> int:
    """A bundle in the bucket; the number of its files besides ``bundle.json``."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_bundle(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        bucket.upload_file(str(path), BUCKET, f"bundles/v1/{path.relative_to(folder)}")
    return len(files) - 1


def start_task(root: Path, cache: Path, store: str) -> subprocess.Popen[str]:
    """A process that fetches the bundle, says where it is, and uses it until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", TASK, PREFIX, str(cache)],
        env={**os.environ, "PYTHONPATH": str(root / "python"), "AWS_ENDPOINT_URL": store},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_of_two_tasks_one_fetches_and_what_it_uses_is_not_removed(
    root: Path, uploaded: int, proxy: FaultyProxy, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    # Long enough for both to be at it at the same time.
    proxy.before = lambda _: time.sleep(0.1)
    tasks = [start_task(root, cache, proxy.url) for _ in range(2)]
    try:
        folder, other = (Path(task.stdout.readline().strip()) for task in tasks)
        assert folder == other
        verify_files(folder, read_bundle(folder))
        gets = [asked for _, asked in proxy.requests if asked != "bytes=0-0"]
        assert len(gets) == uploaded + 2, "each file once, and bundle.json by each"
        make_room(cache, needed_bytes=1, limit_bytes=1)
        verify_files(folder, read_bundle(folder))
    finally:
        for task in tasks:
            task.communicate(timeout=30)
    make_room(cache, needed_bytes=1, limit_bytes=1)
    assert not folder.exists()


def test_a_task_that_is_killed_leaves_no_half_bundle(
    root: Path, uploaded: int, proxy: FaultyProxy, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    is_fetching, release = threading.Event(), threading.Event()

    def hold_back(number: int) -> None:
        # Two requests for bundle.json, one for the size of each file, two for the first file: then comes the second.
        if number >= uploaded + 4:
            is_fetching.set()
            release.wait(30)

    proxy.before = hold_back
    task = start_task(root, cache, proxy.url)
    assert is_fetching.wait(60)
    task.kill()
    task.communicate(timeout=30)
    release.set()
    proxy.before = lambda _: None
    assert len(list(cache.glob("*.arriving"))) == 1, "it was within a fetch"
    folder = fetch_bundle(PREFIX, cache, limit_bytes=LIMIT_BYTES)
    verify_files(folder, read_bundle(folder))
    assert list(cache.glob("*.arriving")) == []


def add(cache: Path, name: str, *, size_bytes: int, age_s: float) -> Path:
    """A bundle that was last used some time ago."""
    folder = cache / name
    folder.mkdir(parents=True)
    (folder / "fusion.onnx").write_bytes(bytes(size_bytes))
    use = cache / f"{name}.use"
    use.touch()
    os.utime(use, (time.time() - age_s,) * 2)
    return folder


def test_the_least_recently_used_of_what_nobody_uses_makes_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ages_s = {"used": 4000, "oldest": 3000, "older": 2000, "newest": 1000}
    folders = {name: add(tmp_path, name, size_bytes=100, age_s=age_s) for name, age_s in ages_s.items()}
    hold_folder(folders["used"])
    os.utime(tmp_path / "used.use", (0, 0))
    (tmp_path / "lost.arriving").mkdir()

    def left() -> set[str]:
        return {path.name for path in tmp_path.iterdir() if path.is_dir()}

    make_room(tmp_path, needed_bytes=100, limit_bytes=500)
    assert left() == {"used", "oldest", "older", "newest"}, "there is room, and what is left of a crash takes none"
    make_room(tmp_path, needed_bytes=101, limit_bytes=400)
    assert left() == {"used", "newest"}
    make_room(tmp_path, needed_bytes=500, limit_bytes=400)
    assert left() == {"used"}
    assert "in use" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["many", "0", "-1", "inf", "nan"])
def test_a_bound_that_is_none_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("HISTOCAST_CACHE", str(tmp_path))
    monkeypatch.setenv("HISTOCAST_CACHE_GB", given)
    with pytest.raises(UsageError, match="HISTOCAST_CACHE_GB"):
        fetch_for_stage(PREFIX, tmp_path)


def test_a_cache_that_cannot_be_written_is_an_output_error(uploaded: int, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        fetch_bundle(PREFIX, tmp_path / "cache", limit_bytes=LIMIT_BYTES)
