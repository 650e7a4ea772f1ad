"""What a run does without looking at a pixel: its files, its cache keys, its retries, its profiles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline_runs import Launcher, count_by_process, write_samplesheet

PROFILES = ("docker", "podman", "apptainer", "slurm", "awsbatch")


def test_a_stub_run_writes_every_file_and_a_moved_server_keeps_the_cache(launch: Launcher, tmp_path: Path) -> None:
    sheet = write_samplesheet(tmp_path / "sheet.csv", {"A": "a.tiff", "B": "b.tiff"})
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    given = ("-stub", "--input", sheet, "--bundle", bundle)

    first = launch(*given)

    assert first.code == 0, first.output
    found = {str(path.relative_to(first.outdir)) for path in first.outdir.rglob("*") if path.is_file()}
    assert found == {
        *(f"{sample}/{sample}.{suffix}" for sample in "AB" for suffix in ("h5ad", "parquet", "html")),
        *(f"{sample}/status.json" for sample in "AB"),
        *("summary.html", "summary.parquet"),
        *(f"pipeline_info/{name}" for name in ("samples.json", "params.json", "provenance.json", "trace.txt")),
        *(f"pipeline_info/{name}.html" for name in ("report", "timeline", "dag")),
    }
    parameters = json.loads((first.outdir / "pipeline_info" / "params.json").read_text())
    assert parameters["max_unreadable"] == 0.05
    assert parameters["input"] == str(sheet)

    moved = launch(*given, "--triton_url", "grpc://elsewhere:8001", "--max_cpus", "1", "-resume")

    assert moved.code == 0, moved.output
    assert count_by_process(moved.tasks("CACHED")) == {
        **dict.fromkeys(("TILE", "ENCODE", "PREDICT", "REPORT"), 2),
        "SUMMARISE": 1,
    }
    assert moved.tasks("COMPLETED") == []
    scripts = [path.read_text() for path in (tmp_path / "work").rglob(".command.run")]
    assert any('HISTOCAST_TRITON_URL="grpc://elsewhere:8001"' in script for script in scripts)

    stricter = launch(*given, "--max_unreadable", "0.5", "-resume")

    assert count_by_process(stricter.tasks("CACHED")) == {"TILE": 2}


EXIT_WITH = """
process ENDS {
    tag "${code}"
    label 'process_light'
    input:
    val code
    script:
    \"\"\"
    [ ${task.attempt} = 2 ] || exit ${code}
    \"\"\"
}
workflow {
    ENDS(channel.fromList(params.codes.toString().tokenize(':')))
}
"""


@pytest.mark.parametrize(
    "attempts",
    [
        {
            "75": [("FAILED", "2 GB"), ("COMPLETED", "2 GB")],
            "104": [("FAILED", "2 GB"), ("COMPLETED", "2 GB")],
            "137": [("FAILED", "2 GB"), ("COMPLETED", "4 GB")],
            "143": [("FAILED", "2 GB"), ("COMPLETED", "2 GB")],
        },
        {"65": [("FAILED", "2 GB")]},
        {"1": [("FAILED", "2 GB")]},
    ],
    ids=" ".join,
)
def test_the_exit_code_decides_about_a_retry_and_about_memory(
    launch: Launcher, root: Path, tmp_path: Path, attempts: dict[str, list[tuple[str, str]]]
) -> None:
    script = tmp_path / "ends.nf"
    script.write_text(EXIT_WITH)

    run = launch("-c", root / "nextflow.config", "--codes", ":".join(attempts), script=script)

    rows = sorted(run.trace(), key=lambda row: int(row["attempt"]))
    found = {code: [(row["status"], row["memory"]) for row in rows if row["tag"] == code] for code in attempts}
    assert found == attempts
    assert (run.code == 0) == all(ends[-1][0] == "COMPLETED" for ends in attempts.values())


def flat_configuration(launch: Launcher, root: Path, profiles: str) -> str:
    done = launch.execute([launch.nextflow, "config", root, "-flat", "-profile", profiles])
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_sets_its_own_engine_alone_and_gpus_only_with_the_gpu_profile(
    launch: Launcher, root: Path, profile: str
) -> None:
    configuration = flat_configuration(launch, root, profile)

    for engine in ("docker", "podman", "apptainer"):
        assert (f"{engine}.enabled = true" in configuration) == (engine == profile)
    for executor in ("slurm", "awsbatch"):
        assert (f"process.executor = '{executor}'" in configuration) == (executor == profile)
    assert "accelerator = " not in configuration
    with_gpus = flat_configuration(launch, root, f"{profile},gpu")
    asking = [line.partition(" = ")[0] for line in with_gpus.splitlines() if "accelerator = " in line]
    assert asking == ["process.'withLabel:process_gpu|process_train'.accelerator"]
