"""What a run does without looking at a pixel: its files, its cache keys, its retries, its profiles."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from pathlib import Path

import pytest

from histocast import __version__
from pipeline_runs import Launcher, arrows_of, count_by_process, drawn_arrows, write_samplesheet

CLIENT, CLIENT_GPU = "here.org/histocast/client:0.1.0", "here.org/histocast/client-gpu:0.1.0"
ENGINES = ("docker", "podman", "apptainer", "singularity")
EXECUTORS = ("slurm", "lsf", "pbs", "pbspro", "sge", "k8s", "awsbatch")


OTHER_RUN = {
    "session": "other",
    "run": "grave_turing",
    "user": "ada",
    "host": "node7",
    "pid": 1,
    "started": "yesterday",
}


def test_a_stub_run_writes_every_file_and_a_moved_server_keeps_the_cache(launch: Launcher, tmp_path: Path) -> None:
    sheet = write_samplesheet(tmp_path / "sheet.csv", {"A": "a.tiff", "B": "b.tiff"})
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    given = ("-stub", "--input", sheet, "--bundle", bundle, "--cohort", "true", "--formats", "geojson,zarr,spatialdata")
    # Another run's, which crashed on another machine and has been silent since.
    lock = tmp_path / "results" / "pipeline_info" / "run.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps(OTHER_RUN))
    refused = launch(*given, "--trace_report_suffix", "refused")

    assert refused.code != 0
    assert "in use by run grave_turing of ada on node7 (process 1), begun yesterday" in refused.output
    assert f"remove {lock}" in refused.output
    assert json.loads(lock.read_text()) == OTHER_RUN
    assert not list(tmp_path.rglob(".command.run"))
    os.utime(lock, (time.time() - 601,) * 2)

    diagram = tmp_path / "diagram.mmd"
    first = launch(*given, "--trace_report_suffix", "first", "-with-dag", diagram)

    assert first.code == 0, first.output
    assert "took over the results folder from run grave_turing of ada" in first.output
    found = {str(path.relative_to(first.outdir)) for path in first.outdir.rglob("*") if path.is_file()}
    # Nextflow opens them before the pipeline can look at the lock: so they are no other run's.
    assert "pipeline_info/trace_refused.txt" in found
    assert {name for name in found if "_refused." not in name} == {
        *(
            f"{sample}/{sample}.{suffix}"
            for sample in "AB"
            for suffix in (
                *("h5ad", "parquet", "genes.parquet", "slide.parquet", "html"),
                *("geojson", "zarr.zip", "spatialdata.zarr/zarr.json"),
            )
        ),
        *(f"{sample}/status.json" for sample in "AB"),
        *("summary.html", "summary.parquet", "histocast_mqc.json"),
        *(f"cohort/{name}" for name in ("slides.parquet", "cohort.h5ad", "cohort.html")),
        *(
            f"pipeline_info/{name}"
            for name in ("samples.json", "params.json", "provenance.json", "workflow.svg", "trace_first.txt")
        ),
        *(f"pipeline_info/{name}_first.html" for name in ("report", "timeline")),
    }
    assert arrows_of(diagram) == drawn_arrows(launch.root, "predict")
    parameters = json.loads((first.outdir / "pipeline_info" / "params.json").read_text())
    assert parameters["max_unreadable"] == 0.05
    assert parameters["input"] == str(sheet)

    moved = launch(*given, "--triton_url", "grpc://elsewhere:8001", "--max_cpus", "1", "-resume")

    assert moved.code == 0, moved.output
    assert count_by_process(moved.tasks("CACHED")) == {
        **dict.fromkeys(("TILE", "ENCODE", "PREDICT", "REPORT"), 2),
        "SUMMARISE": 1,
        "COHORT": 1,
    }
    assert moved.tasks("COMPLETED") == []
    scripts = [path.read_text() for path in (tmp_path / "work").rglob(".command.run")]
    assert any('HISTOCAST_TRITON_URL="grpc://elsewhere:8001"' in script for script in scripts)

    stricter = launch(*given, "--max_unreadable", "0.5", "--report", "false", "-resume")

    assert count_by_process(stricter.tasks("CACHED")) == {"TILE": 2}
    assert count_by_process(stricter.tasks("COMPLETED"))["REPORT"] == 2
    # One of each run, but for the page.
    made = {suffix: len(list((tmp_path / "work").rglob(f"A/A.{suffix}"))) for suffix in ("html", "geojson")}
    assert made == {"html": 1, "geojson": 2}


CONCLUDES = """
include { CONCLUDE } from '{root}/modules/conclude.nf'
workflow {
    CONCLUDE(tuple(file('failures.txt'), file('outcomes.json')), 'skip', 'results')
}
"""


def test_what_an_earlier_run_left_of_a_failed_sample_is_moved_aside(
    launch: Launcher, root: Path, tmp_path: Path
) -> None:
    last_stages = {"S1": "tile", "S2": "report", "S3": "report", "S4": "check"}
    failed = {"S1", "S2", "S4"}
    for sample in ("S1", "S2", "S3"):
        (tmp_path / "results" / sample).mkdir(parents=True)
        for name in (f"{sample}.h5ad", f"{sample}.html", "status.json"):
            (tmp_path / "results" / sample / name).write_text("yesterday's")
    for name in ("S1.spatialdata.zarr", "S1.spatialdata.zarr.stale"):
        (tmp_path / "results" / "S1" / name).mkdir()
        (tmp_path / "results" / "S1" / name / "zarr.json").write_text("older" if "stale" in name else "yesterday's")
    (tmp_path / "results" / "S1" / "S1.h5ad.stale").write_text("older")
    outcomes = [
        {"sample": sample, "outcome": "failed" if sample in failed else "ok", "stages": [{"stage": stage}]}
        for sample, stage in last_stages.items()
    ]
    (tmp_path / "outcomes.json").write_text(json.dumps({"samples": outcomes}))
    (tmp_path / "failures.txt").write_text("S1, tile: no reader can open it\n")
    script = tmp_path / "concludes.nf"
    script.write_text(CONCLUDES.replace("{root}", str(root)))

    run = launch(script=script)

    assert run.code == 0, run.output
    assert "S2 failed: what an earlier run made of it is now S2/S2.html.stale" in run.output
    left = {str(path.relative_to(run.outdir)) for path in run.outdir.rglob("*") if path.is_file()}
    assert left == {
        *("S1/S1.h5ad.stale", "S1/S1.html.stale", "S1/S1.spatialdata.zarr.stale/zarr.json", "S1/status.json"),
        # REPORT failed: what PREDICT made of it is of this run.
        *("S2/S2.h5ad", "S2/S2.html.stale", "S2/status.json"),
        *("S3/S3.h5ad", "S3/S3.html", "S3/status.json"),
    }
    for name in ("S1.h5ad.stale", "S1.spatialdata.zarr.stale/zarr.json"):
        assert (run.outdir / "S1" / name).read_text() == "yesterday's"


EXIT_WITH = """
process ENDS {
    tag "${code}"
    label 'process_light'
    input:
    val code
    script:
    \"\"\"
    [ ${task.attempt} = 2 ] && [ ${code} != 73 ] || exit ${code}
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
        {"73": [("FAILED", "2 GB")] * 4},
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


# As `nextflow config -flat -profile` prints it, of many profiles at once.
CONFIGURATIONS = """
workflow {
    def folder = java.nio.file.Path.of(params.folder)
    params.profiles.tokenize(':').each { profiles ->
        def builder = new nextflow.config.ConfigBuilder().setBaseDir(folder).setProfile(profiles).setShowClosures(true)
        println "== ${profiles}"
        println nextflow.util.ConfigHelper.toFlattenString(builder.buildGivenFiles(folder.resolve('nextflow.config')), false)
    }
}
"""


@pytest.fixture(scope="module")
def configurations(root: Path, nextflow: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Flat settings by profiles: of none, and of each engine and executor with GPUs."""
    folder = tmp_path_factory.mktemp("profiles")
    profiles = ["standard", *(f"{profile},gpu" for profile in (*ENGINES, *EXECUTORS))]
    (folder / "configurations.nf").write_text(CONFIGURATIONS)
    run = Launcher(root, folder, nextflow)(
        *("--folder", root, "--profiles", ":".join(profiles)), script=folder / "configurations.nf"
    )
    assert run.code == 0, run.output
    parts = re.split(r"^== (.*)$", run.output, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(found) == profiles
    return found


@pytest.mark.parametrize("profile", [*ENGINES, *EXECUTORS])
def test_a_profile_sets_its_own_engine_alone_and_gpus_only_with_the_gpu_profile(
    root: Path, configurations: dict[str, str], profile: str
) -> None:
    plain, configuration = configurations["standard"], configurations[f"{profile},gpu"]

    for engine in ENGINES:
        assert (f"\n{engine}.enabled = true" in configuration) == (engine == profile)
        assert (f"\n{engine}." in configuration) == (engine == profile)
    for executor in EXECUTORS:
        assert (f"process.executor = '{executor}'" in configuration) == (executor == profile)
    for line in ("\naws.batch.maxSpotAttempts = 0\n", "\naws.batch.jobRole = null\n", "\naws."):
        assert (line in configuration) == (profile == "awsbatch")
    assert "accelerator = " not in plain
    assert "accelerator = " not in (root / "conf" / f"{profile}.config").read_text()
    asking = [line.partition(" = ")[0] for line in configuration.splitlines() if "accelerator = " in line]
    assert asking == ["process.'withName:ENCODE|PREPARE|TRAIN'.accelerator"]
    # A profile that repeated a selector of the base would replace all that the base says there.
    assert set(of_selectors(plain)) <= set(of_selectors(configuration))


def of_selectors(configuration: str) -> list[str]:
    return [line for line in configuration.splitlines() if line.startswith("process.'with")]


def test_the_pipeline_names_images_of_its_own_version(root: Path) -> None:
    files = [root / "nextflow.config", *(root / "conf").glob("*.config"), root / "containers" / "Dockerfile"]
    tags = {
        tag
        for path in files
        for tag in re.findall(r"/?(?:client|client-gpu|cohort|train|triton):([\w.]+)", path.read_text())
    }
    assert tags == {__version__}
    assert f"version = '{__version__}'" in (root / "nextflow.config").read_text()
    assert f"\nversion: {__version__}\n" in (root / "CITATION.cff").read_text()
    guide = (root / "docs" / "deployment.md").read_text()
    assert set(re.findall(r"histocast[-/$\w]*?[-:]([0-9]+\.[0-9]+\.[0-9]+)", guide)) == {__version__}


# Two tasks that lose their machine twice, and say where they are sent.
LOSES_TWO_MACHINES = """
process ENCODE {
    label 'process_gpu'
    script:
    \"\"\"
    : sent ${task.attempt} '${task.queue}' '${task.container}' '${task.containerOptions}' '${task.accelerator?.request}' '${task.clusterOptions ?: ''}' '${task.maxForks}'
    [ ${task.attempt} = 3 ] || exit 143
    \"\"\"
}
process TILE {
    label 'process_io'
    script:
    \"\"\"
    : sent ${task.attempt} '${task.queue}' '${task.container}' '${task.containerOptions}' '${task.accelerator?.request}' '${task.clusterOptions ?: ''}'
    [ ${task.attempt} = 3 ] || exit 143
    \"\"\"
}
workflow {
    ENCODE()
    TILE()
}
"""

# What each process of the train workflow asks for, and one that is none.
ASKS = """
process NAME {
    label 'LABEL'
    script:
    \"\"\"
    : sent '${task.cpus}' '${task.memory}' '${task.container}' '${task.accelerator?.request}'
    \"\"\"
}
"""


def write_settings(folder: Path, root: Path, *lines: str) -> Path:
    """Settings after those of the checkout, in one file: given two, the strict parser of Nextflow 25.04 knows only the
    profiles of the second."""
    path = folder / "here.config"
    path.write_text("\n".join([f"includeConfig '{root}/nextflow.config'", *lines]) + "\n")
    return path


# What PLAN says of models decides what TRAIN asks for.
TRAIN_ASKS = (
    ASKS.replace("NAME", "TRAIN")
    .replace("LABEL", "process_train")
    .replace(
        "    script:",
        "    ext device: { model.device }, threads: { model.threads }\n    input:\n    val model\n    script:",
    )
    .replace(": sent", ": sent '${model.device}'")
)
MODELS = "[[device: 'cpu', threads: 1], [device: 'cuda', threads: 3], [device: 'auto', threads: 1]]"
TRAIN_LABELS = {
    **dict.fromkeys(("PREPARE_ENCODERS", "PREPARE", "EVALUATE", "EXPORT"), "process_train"),
    **dict.fromkeys(("PLAN", "LINEAGE", "CHECK", "REPORT"), "process_light"),
    "PREDICT": "process_fusion",
}


@pytest.mark.parametrize(
    ("profiles", "formats", "files"),
    [
        ("awsbatch", "h5ad,parquet,zarr", CLIENT),
        ("awsbatch,gpu", "h5ad,spatialdata", CLIENT.replace("client", "cohort")),
    ],
)
def test_a_fold_asks_for_its_threads_and_a_gpu_is_asked_for_by_what_can_use_one(
    launch: Launcher, root: Path, tmp_path: Path, profiles: str, formats: str, files: str
) -> None:
    script = tmp_path / "asks.nf"
    processes = [ASKS.replace("NAME", name).replace("LABEL", label) for name, label in TRAIN_LABELS.items()]
    calls = [*(f"    {name}()\n" for name in TRAIN_LABELS), f"    TRAIN(channel.fromList({MODELS}))\n"]
    script.write_text("".join([*processes, TRAIN_ASKS, "workflow {\n", *calls, "}\n"]))
    here = write_settings(tmp_path, root, "process.executor = 'local'", "executor { cpus = 8\n memory = '16 GB' }")

    run = launch(
        "-c",
        here,
        "-profile",
        profiles,
        "--registry",
        "here.org",
        "--queue",
        "here",
        "--formats",
        formats,
        script=script,
    )

    assert run.code == 0, run.output
    gpu = "1" if "gpu" in profiles else "null"
    image = "here.org/histocast/train:0.1.0"
    assert {name: sent(tmp_path / "work", name) for name in TRAIN_LABELS} == {
        "CHECK": [["1", "2 GB", CLIENT, "null"]],
        "REPORT": [["1", "2 GB", files, "null"]],
        "PREDICT": [["4", "6 GB", CLIENT, "null"]],
        "PLAN": [["1", "2 GB", image, "null"]],
        "LINEAGE": [["1", "2 GB", image, "null"]],
        "PREPARE_ENCODERS": [["4", "8 GB", image, "null"]],
        "PREPARE": [["4", "8 GB", image, gpu]],
        "EVALUATE": [["4", "8 GB", image, "null"]],
        "EXPORT": [["4", "8 GB", image, "null"]],
    }
    assert sent(tmp_path / "work", "TRAIN") == [
        ["auto", "1", "4 GB", image, gpu],
        ["cpu", "1", "4 GB", image, "null"],
        ["cuda", "3", "4 GB", image, gpu],
    ]


BATCH_QUEUES = (
    *("--queue", "spot", "--on_demand_queue", "kept"),
    *("--gpu_queue", "gpu-spot", "--gpu_on_demand_queue", "gpu-kept"),
)


@pytest.mark.parametrize(
    ("profiles", "given", "graphs", "slides"),
    [
        (
            "awsbatch,gpu",
            BATCH_QUEUES,
            [[queue, CLIENT_GPU, "null", "1", ""] for queue in ("gpu-spot", "gpu-spot", "gpu-kept")],
            [[queue, CLIENT, "null", "null", ""] for queue in ("spot", "spot", "kept")],
        ),
        (
            "slurm,apptainer,gpu",
            ("--queue", "cpus", "--gpu_queue", "gpus", "--cluster_options=--account=lab --time=12:00:00"),
            [["gpus", CLIENT_GPU, "--nv", "1", "--gres=gpu:1 --account=lab --time=12:00:00"]] * 3,
            [["cpus", CLIENT, "", "null", "--account=lab --time=12:00:00"]] * 3,
        ),
        (
            "podman,gpu",
            ("--serving", "task", "--node_cache", "/tmp"),
            [
                [
                    *("null", "here.org/histocast/triton:0.1.0"),
                    *("${HISTOCAST_PODMAN_GPU:---device nvidia.com/gpu=all} -v /tmp:/tmp", "1", ""),
                ]
            ]
            * 3,
            [["null", CLIENT, "-v /tmp:/tmp", "null", ""]] * 3,
        ),
        (
            "docker,gpu",
            (),
            [["null", CLIENT_GPU, "${HISTOCAST_DOCKER_GPU:---gpus all}", "1", ""]] * 3,
            [["null", CLIENT, "", "null", ""]] * 3,
        ),
        ("docker", ("--triton_url", "grpc://a:8001,b:8001"), *[[["null", CLIENT, "", "null", ""]] * 3] * 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_task_asks_for_follows_its_label_its_gpu_and_its_attempt(
    launch: Launcher,
    root: Path,
    tmp_path: Path,
    profiles: str,
    given: tuple[str, ...],
    graphs: list[list[str]],
    slides: list[list[str]],
) -> None:
    script = tmp_path / "loses.nf"
    script.write_text(LOSES_TWO_MACHINES)
    engines = [f"{engine}.enabled = false" for engine in ENGINES]
    here = write_settings(tmp_path, root, "process.executor = 'local'", *engines)

    run = launch(
        *("-c", here, "-profile", profiles, "--registry", "here.org"),
        *(*given, "--max_cpus", "1"),
        script=script,
    )

    assert run.code == 0, run.output
    assert "undefined parameter" not in run.output
    # A server gets a few tasks at once, and without one nothing is bounded.
    most = "8" if "--triton_url" in given else "0"
    encodes = [[str(attempt), *row, most] for attempt, row in enumerate(graphs, start=1)]
    assert sent(tmp_path / "work", "ENCODE") == encodes
    assert sent(tmp_path / "work", "TILE") == [[str(attempt), *row] for attempt, row in enumerate(slides, start=1)]


@pytest.mark.parametrize(
    ("profiles", "given", "told"),
    [
        ("slurm,singularity", ("--queue", "here"), "--registry is missing"),
        ("k8s", (), "--registry is missing"),
        ("sge", (), "--penv is missing"),
        ("awsbatch", ("--queue", "here"), "--registry is missing"),
        ("awsbatch", ("--registry", "here.org"), "--queue is missing"),
    ],
)
def test_what_a_profile_cannot_do_without_is_told_before_any_task(
    launch: Launcher, root: Path, tmp_path: Path, profiles: str, given: tuple[str, ...], told: str
) -> None:
    # Batch needs a plugin; as Batch does, SGE asks for the queue when it submits.
    here = write_settings(tmp_path, root, "process.executor = 'sge'", "singularity.enabled = false")
    sheet = write_samplesheet(tmp_path / "sheet.csv", {"A": "a.tiff"})
    common = ("-stub", "-c", here, "-profile", profiles, "--input", sheet, "--bundle", tmp_path)

    run = launch(*common, *given)

    assert run.code != 0
    assert told in run.output
    assert "docs/deployment.md" in run.output
    assert not list((tmp_path / "work").rglob(".command.run"))


def test_image_files_of_the_site_take_the_place_of_a_registry(launch: Launcher, root: Path, tmp_path: Path) -> None:
    """The settings that the manual gives for a cluster without internet."""
    guide = (root / "docs" / "deployment.md").read_text()
    site = guide.partition("cat > /shared/site.config <<'END'\n")[2].partition("\nEND\n")[0]
    here = write_settings(tmp_path, root, "process.executor = 'local'", "apptainer.enabled = false", site)
    names = {**TRAIN_LABELS, "TILE": "process_io", "ENCODE": "process_gpu"}
    script = tmp_path / "asks.nf"
    processes = [ASKS.replace("NAME", name).replace("LABEL", label) for name, label in names.items()]
    script.write_text("".join([*processes, "workflow {\n", *(f"    {name}()\n" for name in names), "}\n"]))

    run = launch("-c", here, "-profile", "slurm,apptainer", "--max_cpus", "1", "--max_memory", "2.GB", script=script)

    assert run.code == 0, run.output
    used = {name: sent(tmp_path / "work", name)[0][2] for name in names}
    train = {"PREPARE_ENCODERS", "PREPARE", "EVALUATE", "EXPORT", "PLAN", "LINEAGE"}
    image = "/shared/images/histocast-{}-0.1.0.sif"
    assert used == {name: image.format("train" if name in train else "client") for name in names}


def test_jobs_of_aws_batch_take_the_role_that_is_given(launch: Launcher, root: Path, tmp_path: Path) -> None:
    role = "arn:aws:iam::123456789012:role/histocast-task"
    path = tmp_path / "here.config"
    path.write_text(f"params.job_role = '{role}'\nincludeConfig '{root}/nextflow.config'\n")
    done = launch.execute([launch.nextflow, "-C", path, "config", "-flat", "-profile", "awsbatch"])
    assert f"\naws.batch.jobRole = '{role}'\n" in done.stdout, done.stdout


STORE_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"),
    *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_REQUEST_PAYER", "HISTOCAST_TRITON_TOKEN"),
)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_container_is_handed_keys_by_name_and_the_folder_of_keys_as_the_manual_says(
    launch: Launcher, root: Path, tmp_path: Path, engine: str
) -> None:
    guide = (root / "docs" / "usage.md").read_text()
    documented = [line for line in guide.splitlines() if line.startswith(f"{engine}.runOptions = ")]
    assert all(f"`{name}" in guide for name in STORE_VARIABLES)
    image = "container = '/here/histocast.sif'"
    site = (f"process.{image}", f"process {{ withLabel: process_gpu {{ {image} }} }}")
    here = write_settings(tmp_path, root, *site, *documented)
    # An engine that starts nothing: what it would be told is what counts.
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / engine
    stand_in.write_text("#!/bin/sh\nexit 127\n")
    stand_in.chmod(0o755)
    sheet = write_samplesheet(tmp_path / "sheet.csv", {"A": "s3://archive/a.svs"})
    keys = dict.fromkeys(STORE_VARIABLES, "hunter2") | {"AWS_REGION": "eu-central-1"}

    run = launch(
        *("-c", here, "-profile", engine, "--input", sheet, "--bundle", "s3://archive/bundle"),
        *("--max_cpus", "1", "--max_memory", "2.GB"),
        env={**keys, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
    )

    assert run.code != 0
    script = next((tmp_path / "work").rglob(".command.run")).read_text()
    runs_files = engine in ("apptainer", "singularity")
    name_alone = f'${{{{{{0}}:+{engine.upper()}ENV_{{0}}="${{0}}"}}}}' if runs_files else '-e "{0}"'
    assert all(name_alone.format(name) in script for name in (*STORE_VARIABLES, "HISTOCAST_IMAGE_DIGEST"))
    assert "hunter2" not in script
    asked = 'file "$0"' if runs_files else f"{engine} '/here/histocast.sif'"
    assert f"/bin/image-digest' {asked}" in script
    command = next((tmp_path / "work").rglob(".command.sh")).read_text()
    for told in (
        "HISTOCAST_THREADS=1 ",
        "OMP_NUM_THREADS=1 ",
        'XDG_CACHE_HOME="$PWD/.cache" ',
        "HISTOCAST_IMAGE='/here/",
    ):
        assert told in command
    assert len(documented) == (engine != "podman")
    for line in documented:
        assert line.split(" = ")[1].strip("'") in script
        assert "AWS_SHARED_CREDENTIALS_FILE=/aws/credentials" in line
        assert "AWS_CONFIG_FILE=/aws/config" in line


def sent(work: Path, process: str) -> list[list[str]]:
    """What the tasks of a process say of themselves, attempt by attempt."""
    return sorted(
        shlex.split(line)[2:]
        for path in work.rglob(".command.sh")
        if re.search(rf"'{process}( \(\d+\))?'", path.with_name(".command.run").read_text())
        for line in path.read_text().splitlines()
        if line.startswith(": sent")
    )
