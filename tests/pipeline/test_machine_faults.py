"""A fault of a machine costs a task one attempt or ends the run; no slide is blamed, and ``-resume`` completes the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from faulty_proxy import BUCKET, bucket, faulty_proxy
from pipeline_runs import Launcher, Run, write_samplesheet
from small_disk import small_disk

__all__ = ["bucket"]

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Cause:
    """Why one attempt of a task fails."""

    code: int
    """The exit code of the task."""
    said: str
    """Part of what the task says on standard error."""
    shell: str
    """What happens to the task before its verb runs; it may refer to `places`."""


SAMPLES = {"remote": f"s3://{BUCKET}/remote.tiff", "mounted": "mount/mounted.tiff", "local": "local.tiff"}

CAUSES = {
    "check sheet.csv": Cause(
        75,
        "no credentials for S3",
        "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY\n"
        "export AWS_EC2_METADATA_SERVICE_ENDPOINT={503} AWS_SHARED_CREDENTIALS_FILE=/nonexistent",
    ),
    "tile remote": Cause(75, "the credentials have expired", "export AWS_ENDPOINT_URL={ExpiredToken}"),
    "encode remote": Cause(75, "the clock of this machine", "export AWS_ENDPOINT_URL={RequestTimeTooSkewed}"),
    "predict remote": Cause(
        73, "HISTOCAST_SCRATCH", "cat /dev/zero > {scratch_disk}/filled\nexport HISTOCAST_SCRATCH={scratch_disk}"
    ),
    "tile mounted": Cause(
        66,
        "no such file",
        'mv {mount} {mount}.away\n{histocast} "$@"\ncode=$?\nmv {mount}.away {mount}\nexit $code',
    ),
    "encode mounted": Cause(75, "onnxruntime::BFCArena", 'exec python {short_of_memory} "$@"'),
    "predict mounted": Cause(73, "HISTOCAST_SCRATCH", "export HISTOCAST_SCRATCH=/dev/null/below"),
    # The links to its inputs come along.
    "tile local": Cause(73, "space", "cp -a * {work_disk}\ncd {work_disk}\ncat /dev/zero > filled"),
    "encode local": Cause(64, "HISTOCAST_SERVING", "export HISTOCAST_SERVING=nonsense"),
}
"""The cause that each task of this ``verb tag`` finds the first time it runs, and only then."""

HISTOCAST = """#!/usr/bin/env bash
cause="{causes}/$1 $TAG"
if mv "$cause" "$cause.gone" 2> /dev/null; then . "$cause.gone"; fi
exec {histocast} "$@"
"""

# The limit is set around the graph alone, because imports need more than the graph of a small encoder.
SHORT_OF_MEMORY = """
import contextlib, resource, sys
from histocast.__main__ import main
from histocast.inference.onnx_predictor import OnnxPredictor

whole_run = OnnxPredictor._run


def run_without_memory(*arguments):
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (0, limits[1]))
    taken = []
    with contextlib.suppress(MemoryError):
        while True:
            taken.append(bytearray(100_000))
    # The graph needs more than this, and to say so needs less: without any, the process would end by a signal.
    del taken[-5:]
    try:
        return whole_run(*arguments)
    finally:
        taken.clear()
        resource.setrlimit(resource.RLIMIT_AS, limits)


OnnxPredictor._run = run_without_memory
sys.argv[0] = "histocast"
main()
"""


@pytest.fixture
def places(bucket: object, s3_endpoint: str, root: Path, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What the causes refer to: stores that answer in one way, disks, programs and the folder of a mount."""
    (tmp_path / "mount").mkdir()
    (tmp_path / "short_of_memory.py").write_text(SHORT_OF_MEMORY)
    with ExitStack() as stack:
        disks = {name: stack.enter_context(small_disk(tmp_path / name)) for name in ("scratch_disk", "work_disk")}
        fates = ("503", "ExpiredToken", "RequestTimeTooSkewed")
        stores = {fate: stack.enter_context(faulty_proxy(s3_endpoint, fate=fate)).url for fate in fates}
        yield {
            **disks,
            **stores,
            "causes": tmp_path / "causes",
            "histocast": root / "bin" / "histocast",
            "mount": tmp_path / "mount",
            "short_of_memory": tmp_path / "short_of_memory.py",
        }


def write_config(folder: Path, root: Path, places: Mapping[str, Any]) -> Path:
    """Write the causes, and settings by which every task finds its own."""
    places["causes"].mkdir()
    for task, cause in CAUSES.items():
        (places["causes"] / task).write_text(filled_in(cause.shell, places))
    program = folder / "bin" / "histocast"
    program.parent.mkdir()
    program.write_text(filled_in(HISTOCAST, places))
    program.chmod(0o755)
    config = folder / "here.config"
    path = f"'{program.parent}':'{root}/.venv/bin':\\\"\\$PATH\\\""
    config.write_text(f"process.beforeScript = {{ \"export TAG='${{task.tag}}' PATH={path}\" }}\n")
    return config


def filled_in(text: str, places: Mapping[str, Any]) -> str:
    """Replace each ``{name}`` by its place, and leave other braces alone."""
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", str(place))
    return text


def failed_tasks(launcher: Launcher, run: Run) -> dict[str, tuple[int, str]]:
    """Exit code and standard error of the tasks that failed, by ``verb tag``; none may have recorded an outcome."""
    found = {}
    for row in run.trace():
        if row["status"] != "FAILED":
            continue
        (folder,) = (launcher.folder / "work").glob(f"{row['hash']}*")
        assert not list(folder.rglob("*.status.json"))
        task = f"{row['process'].split(':')[-1].lower()} {row['tag']}"
        assert task not in found, "a cause that is gone fails no task"
        assert row["attempt"] == "1"
        found[task] = (int(row["exit"]), (folder / ".command.err").read_text())
    return found


def test_every_fault_of_a_machine_costs_an_attempt_or_the_run_and_no_slide(
    launch: Launcher,
    tmp_path: Path,
    bundle: Path,
    bucket: Any,
    places: dict[str, Any],
    make_slide: Callable[..., Path],
    root: Path,
) -> None:
    slide = make_slide(tmp_path / SAMPLES["local"], seed=1, side_px=700)
    (tmp_path / SAMPLES["mounted"]).write_bytes(slide.read_bytes())
    bucket.upload_file(str(slide), BUCKET, "remote.tiff")
    sheet = write_samplesheet(tmp_path / "sheet.csv", SAMPLES)
    given = ("--input", sheet, "--bundle", bundle, "-c", write_config(tmp_path, root, places))

    ended = launch(*given)

    assert ended.code != 0
    assert "exit status (64)" in ended.output, ended.output
    assert not list(ended.outdir.rglob("status.json"))
    failed_at_first, done_at_first = failed_tasks(launch, ended), ended.tasks("COMPLETED")

    resumed = launch(*given, "-resume")

    assert resumed.code == 0, resumed.output
    failed_later = failed_tasks(launch, resumed)
    failed = failed_at_first | failed_later
    assert {task: code for task, (code, _) in failed.items()} == {task: cause.code for task, cause in CAUSES.items()}
    assert len(failed_at_first) + len(failed_later) == len(CAUSES)
    for task, (_, said) in failed.items():
        assert CAUSES[task].said in said
    assert not list(places["work_disk"].rglob("*.status.json"))
    assert resumed.tasks("CACHED") == done_at_first
    stages = {f"{stage} {sample}" for stage in ("TILE", "ENCODE", "PREDICT", "REPORT") for sample in SAMPLES}
    assert {*resumed.tasks("CACHED"), *resumed.tasks("COMPLETED")} == {*stages, "SUMMARISE"}
    for sample in SAMPLES:
        assert json.loads((resumed.outdir / sample / "status.json").read_text())["outcome"] == "ok"
