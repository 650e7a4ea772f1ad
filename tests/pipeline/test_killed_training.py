"""A TRAIN task that is killed goes on where it was when it is tried again, where its checkpoints outlive it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest
import torch

from histocast.training.export_encoders import export_encoders
from made_sections import made_recipe, make_training_set
from pipeline_runs import Launcher

pytestmark = pytest.mark.timeout(900)

EPOCHS = 40
MODEL = "stnet-strict-B"

TRAIN_ALONE = """
include { TRAIN } from 'ROOT/modules/train.nf'

workflow {
    TRAIN(
        [[id: 'MODEL', method: 'stnet', protocol: 'strict', fold: 'B', bundle: ''], file(params.recipe).text],
        files("${params.sections}/[AB]*", type: 'dir'),
        [],
        [],
    )
}
"""


def test_a_killed_training_goes_on_when_its_task_is_tried_again(launch: Launcher, root: Path, tmp_path: Path) -> None:
    options = {"training": {"epochs": EPOCHS, "patience": EPOCHS, "members": 2, "steps_per_region": 20}}
    recipe = made_recipe(method="stnet", options=options)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    encoders = export_encoders(recipe, outdir=tmp_path / "encoders")
    sections = make_training_set(tmp_path / "made", encoders, patients={"A1": "A", "A2": "A", "B1": "B"})
    script = tmp_path / "alone.nf"
    script.write_text(TRAIN_ALONE.replace("ROOT", str(root)).replace("MODEL", MODEL))
    checkpoints, ended = tmp_path / "checkpoints", Event()

    with ThreadPoolExecutor(1) as pool:
        victim = pool.submit(kill_once_it_has_epochs, checkpoints / MODEL, work=tmp_path / "work", ended=ended)
        run = launch(
            *("-c", root / "nextflow.config", "--sections", sections, "--recipe", tmp_path / "recipe.json"),
            *("--checkpoints", checkpoints),
            script=script,
        )
        ended.set()

    assert run.code == 0, run.output
    epochs_before = victim.result()
    assert [(row["status"], row["exit"]) for row in run.trace()] == [("FAILED", "137"), ("COMPLETED", "0")]
    (folder,) = (tmp_path / "work").glob(f"{run.trace()[-1]['hash']}*")
    (gone_on,) = re.findall(r"going on after epoch (\d+)", (folder / ".command.err").read_text())
    assert epochs_before <= int(gone_on) <= EPOCHS
    rows = (run.outdir / "training" / MODEL / "metrics.csv").read_text().split()[1:]
    told = [tuple(row.split(",")[:2]) for row in rows]
    assert told == [(network, str(epoch)) for network in "01" for epoch in range(1, EPOCHS + 1)]
    assert not list(checkpoints.iterdir()), "checkpoints outlive their training"


def kill_once_it_has_epochs(folder: Path, *, work: Path, ended: Event) -> int:
    """Kill the training below ``work`` once its first network has two epochs; how many it had before."""
    while not ended.is_set():
        epochs = epochs_of(folder / "0.pt")
        if epochs >= 2:
            (process,) = trainings_below(work)
            os.kill(process, signal.SIGKILL)
            return epochs
        time.sleep(0.02)
    raise TimeoutError(f"no checkpoint in {folder}")


def epochs_of(checkpoint: Path) -> int:
    if not checkpoint.is_file():
        return 0
    return len(torch.load(checkpoint, weights_only=True)["history"])


def trainings_below(work: Path) -> Iterator[int]:
    """Process ids of every ``histocast train`` in a folder below this one."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            words = (place / "cmdline").read_bytes().split(b"\0")
            # Nextflow's own shells hold the script as one word.
            if b"train" in words and b"--set" in words and (place / "cwd").readlink().is_relative_to(work):
                yield int(place.name)
