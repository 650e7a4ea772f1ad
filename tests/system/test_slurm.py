"""The pipeline as jobs of a real Slurm cluster, also when one of them is killed."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline_runs import Launcher, Run
from same_results import SAMPLES, assert_same_results
from slurm_cluster import SlurmCluster
from stained_sections import write_ridge_recipe, write_training_sheet

pytestmark = pytest.mark.timeout(900)

CPUS = 2

# Nextflow asks a large cluster seldom; this one is small and near.
SOONER = """
executor.pollInterval = '1 sec'
executor.queueStatInterval = '2 sec'
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    cluster = SlurmCluster(cpus=CPUS, memory_mb=memory_mb * 9 // 10)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


def cancel_while_running(cluster: SlurmCluster, job_name: str, cancelled: list[str], over: threading.Event) -> None:
    """Kill the first job of a name as soon as its task has begun."""
    while not over.is_set():
        for line in cluster.ask("squeue", "--noheader", "--format=%i %T %j %Z"):
            job, state, name, folder = line.split(maxsplit=3)
            # Nextflow's script writes this once it would say how it was ended: before, nobody would hear of it for minutes.
            if state == "RUNNING" and job_name in name and (Path(folder) / ".command.begin").exists():
                cluster.ask("scancel", job)
                cancelled.append(job)
                return
        time.sleep(0.05)


def name_of(header: str) -> str:
    """Process and sample of a job script."""
    return header.partition("#SBATCH -J ")[2].split()[0].rpartition("-")[2].rpartition("PREDICT_SLIDES_")[2]


def test_slides_give_the_same_as_jobs_of_which_one_is_cancelled(
    new_launcher: Callable[[str], Launcher], on_this_machine: Run, cluster: SlurmCluster
) -> None:
    launch = new_launcher("slurm")
    settings = launch.folder / "here.config"
    settings.write_text(SOONER)
    cancelled: list[str] = []
    over = threading.Event()
    canceller = threading.Thread(target=cancel_while_running, args=(cluster, "ENCODE_(B)", cancelled, over))
    canceller.start()

    run = launch(
        *("-profile", "slurm,test,gpu", "-c", settings, "--queue", "work", "--max_cpus", str(CPUS)),
        "--cluster_options=--time=30",
        env=cluster.environment,
    )
    over.set()
    canceller.join()

    assert run.code == 0, f"{run.output}\n{cluster.logs()}"
    assert len(cancelled) == 1, "no job could be cancelled while it ran"
    assert run.tasks("FAILED") == ["ENCODE B"]
    assert "ENCODE B" in run.tasks("COMPLETED")
    again = [
        row["attempt"] for row in run.trace() if row["process"].endswith("ENCODE") and row["status"] == "COMPLETED"
    ]
    assert sorted(again) == ["1"] * (len(SAMPLES) - 1) + ["2"]
    headers = [path.read_text() for path in (launch.folder / "work").rglob(".command.run")]
    assert all("#SBATCH -p work" in header and "#SBATCH --mem" in header for header in headers)
    assert all("--time=30\n" in header for header in headers)
    asking = {name_of(header) for header in headers if "#SBATCH --gres=gpu:1 " in header}
    assert asking == {f"ENCODE_({sample})" for sample in SAMPLES}
    assert_same_results(run, on_this_machine)


def test_a_bundle_is_trained_and_judged_the_same_as_jobs(
    new_launcher: Callable[[str], Launcher], cluster: SlurmCluster, tmp_path: Path
) -> None:
    sheet, recipe = write_training_sheet(tmp_path, sections=2), write_ridge_recipe(tmp_path / "tiny.json")
    settings = tmp_path / "here.config"
    settings.write_text(SOONER)
    asked = ("--workflow", "train", "--input", sheet, "--recipe", recipe, "--max_cpus", str(CPUS))

    here = new_launcher("train_here")(*asked)
    jobs = new_launcher("train_slurm")(
        *asked, "-profile", "slurm", "-c", settings, "--queue", "work", env=cluster.environment
    )

    assert here.code == 0, here.output
    assert jobs.code == 0, f"{jobs.output}\n{cluster.logs()}"
    headers = [path.read_text() for path in (jobs.outdir.parent / "work").rglob(".command.run")]
    assert sum("#SBATCH" in header for header in headers) == len(headers) == len(jobs.trace())
    scored = [json.loads((run.outdir / "evaluation" / "evaluation.json").read_text()) for run in (jobs, here)]
    assert scored[0] == scored[1]
    bundles = [json.loads((run.outdir / "ridge" / "bundle" / "bundle.json").read_text()) for run in (jobs, here)]
    assert bundles[0]["metrics"] == bundles[1]["metrics"]
