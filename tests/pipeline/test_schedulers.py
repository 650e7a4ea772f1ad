"""What each scheduler is sent for a task on CPUs and for one on a GPU, by Nextflow's own executors."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from kubernetes_api import kubernetes_api
from pipeline_runs import Launcher, write_samplesheet

# A program that takes jobs: it keeps what it was given, runs it at once, and answers as the real one does.
TAKES_JOBS = """#!/bin/bash
jobs={folder}/jobs
mkdir -p "$jobs"
number=$(mktemp -u "XXXX" | od -An -N3 -tu4 | tr -d ' ')
case ${{0##*/}} in bsub) cat ;; *) cat "${{@: -1}}" ;; esac > "$jobs/$number"
printf '%s\\n' "$*" > "$jobs/$number.arguments"
setsid bash "$jobs/$number" > /dev/null 2>&1 < /dev/null &
{answer}
"""
KNOWS_NOTHING = "#!/bin/bash\nexit 0\n"
SCHEDULERS = {
    "slurm": ("sbatch", "squeue", 'echo "Submitted batch job $number"'),
    "lsf": ("bsub", "bjobs", 'echo "Job <$number> is submitted to queue <cpus>."'),
    "pbs": ("qsub", "qstat", 'echo "$number.server"'),
    "pbspro": ("qsub", "qstat", 'echo "$number.server"'),
    "sge": ("qsub", "qstat", 'echo "$number"'),
}

# Two processes of the pipeline, by their names and labels.
TASKS = """
include {{ task_environment }} from '{root}/modules/inputs.nf'
process ENCODE {{
    label 'process_gpu'
    script:
    "${{task_environment(task)}}true"
}}
process TILE {{
    label 'process_io'
    script:
    "${{task_environment(task)}}true"
}}
workflow {{
    ENCODE()
    TILE()
}}
"""
# The profile's own interval comes after what a file says of all executors, and before what one says of a single executor. Nobody
# reads the reports.
SOONER = """
executor {{ ${executor} {{ pollInterval = '200 ms'
    queueStatInterval = '200 ms' }} }}
report.enabled = timeline.enabled = false
"""

ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:triton-token"
OF_SLURM = ("--no-requeue", "--signal B:USR2@30")
COMMON = ("--queue", "cpus", "--gpu_queue", "gpus")


def put_programs(folder: Path, scheduler: str) -> Path:
    """Programs of a scheduler; what they were given lies in ``jobs``."""
    submits, asks, answer = SCHEDULERS[scheduler]
    programs = {submits: TAKES_JOBS.format(folder=folder, answer=answer), asks: KNOWS_NOTHING}
    (folder / "bin").mkdir()
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return folder / "bin"


def headers_of_jobs(folder: Path) -> dict[str, set[str]]:
    """The lines for the scheduler of each process, without names and paths."""
    found = {}
    for path in (folder / "jobs").iterdir():
        if not path.suffix:
            script = path.read_text()
            name = re.search(r"^### name: '(\w+)", script, re.MULTILINE)
            assert name, script
            lines = re.findall(r"^#(?:SBATCH|BSUB|PBS|\$) (.*?) *$", script, re.MULTILINE)
            found[name[1]] = {line for line in lines if not re.match(r"-[NJo] ", line)}
    return found


@pytest.mark.parametrize(
    ("scheduler", "given", "cpu", "gpu"),
    [
        (
            "slurm",
            ("--cluster_options=--account=lab --time=12:00:00",),
            {*OF_SLURM, "-p cpus", "-c 2", "--mem 3072M", "--account=lab --time=12:00:00"},
            {*OF_SLURM, "-p gpus", "-c 4", "--mem 6144M", "--gres=gpu:1 --account=lab --time=12:00:00"},
        ),
        (
            "lsf",
            ("--cluster_options=-P lab -W 12:00",),
            # By slot, and reserved by job, as lsf.conf says there; in its unit.
            {
                *("-q cpus", "-n 2", '-R "span[hosts=1]"', "-M 1536", "-P lab -W 12:00"),
                '-R "select[mem>=3072] rusage[mem=3072]"',
            },
            {
                *("-q gpus", "-n 4", '-R "span[hosts=1]"', "-M 1536", "-gpu num=1:j_exclusive=yes", "-P lab -W 12:00"),
                '-R "select[mem>=6144] rusage[mem=6144]"',
            },
        ),
        (
            "pbs",
            ("--cluster_options=-A my-lab",),
            {"-j oe", "-q cpus", "-l nodes=1:ppn=2", "-l mem=3gb", "-A my-lab"},
            {"-j oe", "-q gpus", "-l mem=6gb", "-l nodes=1:ppn=4:gpus=1 -A my-lab"},
        ),
        (
            "pbspro",
            ("--cluster_options=-l walltime=12:00:00",),
            {"-j oe", "-q cpus", "-l select=1:ncpus=2:mem=3072mb -l walltime=12:00:00"},
            {"-j oe", "-q gpus", "-l select=1:ncpus=4:mem=6144mb:ngpus=1 -l walltime=12:00:00"},
        ),
        (
            "sge",
            ("--penv", "smp", "--cluster_options=-P lab"),
            {
                *("-j y", "-terse", "-notify", "-q cpus", "-pe smp 2", "-l h_rss=3072M,mem_free=3072M"),
                "-S /bin/bash -l mem_free=1536M,h_rss=1536M,h_vmem=1536M -P lab",
            },
            {
                *("-j y", "-terse", "-notify", "-q gpus", "-pe smp 4", "-l h_rss=6144M,mem_free=6144M"),
                "-S /bin/bash -l mem_free=1536M,h_rss=1536M,gpu=1 -P lab",
            },
        ),
    ],
)
def test_a_job_asks_its_scheduler_for_queue_processors_memory_and_gpu(
    launch: Launcher,
    root: Path,
    tmp_path: Path,
    scheduler: str,
    given: tuple[str, ...],
    cpu: set[str],
    gpu: set[str],
) -> None:
    script, settings = tmp_path / "tasks.nf", tmp_path / "here.config"
    script.write_text(TASKS.format(root=root))
    settings.write_text(
        f"includeConfig '{root}/nextflow.config'\n{SOONER.format(executor=scheduler)}\nenv.HISTOCAST_TRITON_TOKEN_SECRET = '{ARN}'\n"
    )
    (tmp_path / "lsf.conf").write_text("LSB_JOB_MEMLIMIT=N\nLSF_UNIT_FOR_LIMITS=MB\n")
    programs = put_programs(tmp_path, scheduler)

    run = launch(
        *("-c", settings, "-profile", f"{scheduler},gpu", *COMMON, *given),
        script=script,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "LSF_ENVDIR": str(tmp_path)},
    )

    assert run.code == 0, run.output
    # How the address of a secret reaches jobs, whatever the environment of the head process does.
    scripts = [path.read_text() for path in (tmp_path / "work").rglob(".command.run")]
    assert all(f'export HISTOCAST_TRITON_TOKEN_SECRET="{ARN}"' in script for script in scripts)
    found = headers_of_jobs(tmp_path)
    assert found["TILE"] == cpu
    assert found["ENCODE"] == gpu


CLAIM = """
k8s {{
    storageClaimName = 'lab'
    storageMountPath = '/mnt/lab'
    namespace = 'histocast'
    client {{
        server = '{server}'
        token = 'none'
    }}
}}
"""


def test_pods_ask_for_processors_memory_and_gpu_and_an_image_that_cannot_be_pulled_ends_the_run(
    launch: Launcher, root: Path, tmp_path: Path
) -> None:
    """The whole pipeline, whose first pod of the encoders' image, PROVE_IMAGE, asks for what ENCODE would."""
    sheet = write_samplesheet(tmp_path / "sheet.csv", {"A": "a.tiff", "B": "b.tiff"})
    settings = tmp_path / "here.config"
    missing = "here.org/histocast/client-gpu:0.1.0"
    with kubernetes_api(absent_image=missing) as api:
        settings.write_text(
            f"includeConfig '{root}/nextflow.config'\n{SOONER.format(executor='k8s')}\n{CLAIM.format(server=api.url)}"
        )

        run = launch(
            *("-stub", "-c", settings, "-profile", "k8s,gpu", "--registry", "here.org"),
            *("--input", sheet, "--bundle", "s3://lab/bundle", "--node_cache", tmp_path / "cache"),
            *("--formats", "h5ad,spatialdata"),
        )

    assert run.code != 0
    assert "image cannot be pulled" in run.output
    started = Counter(pod["metadata"]["labels"]["nextflow.io/processName"] for pod in api.pods)
    assert started.keys() == {
        f"PREDICT_SLIDES_{name}" for name in ("CHECK", "TILE", "PROVE_IMAGE", "PROVE_COHORT_IMAGE")
    }
    assert 1 <= started["PREDICT_SLIDES_PROVE_IMAGE"] <= 4
    pods = {pod["metadata"]["labels"]["nextflow.io/processName"]: pod["spec"] for pod in api.pods}
    containers = {name.removeprefix("PREDICT_SLIDES_"): spec["containers"][0] for name, spec in pods.items()}
    assert containers["TILE"]["image"] == "here.org/histocast/client:0.1.0"
    assert containers["TILE"]["resources"] == {
        "requests": {"cpu": 2, "memory": "3072Mi"},
        "limits": {"memory": "3072Mi"},
    }
    # REPORT writes SpatialData there.
    assert containers["PROVE_COHORT_IMAGE"]["image"] == "here.org/histocast/cohort:0.1.0"
    assert containers["PROVE_IMAGE"]["image"] == missing
    assert containers["PROVE_IMAGE"]["resources"] == {
        "requests": {"cpu": 4, "memory": "6144Mi", "nvidia.com/gpu": 1},
        "limits": {"memory": "6144Mi", "nvidia.com/gpu": 1},
    }
    for spec in pods.values():
        (claim,) = (volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume)
        assert claim["persistentVolumeClaim"] == {"claimName": "lab"}
        assert {"path": str(tmp_path / "cache")} in [volume.get("hostPath") for volume in spec["volumes"]]
    commands = [path.read_text() for path in (tmp_path / "work").rglob(".command.sh")]
    assert any(f"HISTOCAST_IMAGE='{missing}' " in command for command in commands)
