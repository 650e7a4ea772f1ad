"""Parameters: one declaration, and a slip of the pen costs no task."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from histocast.parameters import Parameters, pipeline_config, pipeline_schema
from pipeline_runs import Launcher, write_samplesheet


def test_the_schema_and_the_defaults_are_those_of_the_model(root: Path) -> None:
    assert json.loads((root / "nextflow_schema.json").read_text()) == pipeline_schema()
    assert (root / "conf" / "parameters.config").read_text() == f"{pipeline_config()}\n"


def test_the_configuration_has_the_defaults_of_the_model(launch: Launcher, root: Path) -> None:
    flat = launch.execute([launch.nextflow, "config", root, "-flat"]).stdout
    configured = dict(re.findall(r"^params\.(\w+) = (.*)$", flat, flags=re.MULTILINE))

    def as_written(value: object) -> str:
        return f"'{value}'" if isinstance(value, str) else json.dumps(value)

    expected = {
        name: as_written(None if field.is_required() else field.default)
        for name, field in Parameters.model_fields.items()
    }
    assert re.fullmatch(r"'\d{4}(-\d\d){2}_\d\d(-\d\d){2}'", configured.pop("trace_report_suffix"))
    assert expected.pop("trace_report_suffix") == "null"
    assert configured == expected


def test_help_lists_every_parameter_and_runs_nothing(launch: Launcher) -> None:
    run = launch("--help")

    assert run.code == 0
    for name, field in Parameters.model_fields.items():
        assert f"--{name} " in run.output
        assert field.description in run.output
    assert "[fail | skip; default: fail]" in run.output
    assert not run.outdir.exists()


def test_every_wrong_parameter_is_told_at_once_with_what_was_meant(launch: Launcher) -> None:
    run = launch(
        *("--inptu", "x", "--max_unreadable", "2", "--on_slide_error", "maybe", "--triton-url", "x"),
        *("--max_cpus", "some", "--max_memory", "lots", "--zebra", "--bundle"),
        *("--queue", "here", "--genes", "gs://lab/panel.txt", "--recipe", "demo"),
        *("--report_genes", "https://host/genes?token=hunter2", "--triton_url", "grpc://me:hunter2@gpu:8001"),
    )

    assert run.code != 0
    for told in (
        "14 wrong parameters",
        "--inptu is unknown; did you mean --input?",
        "--zebra is unknown\n",
        "--input is missing",
        "--bundle stands without a value",
        "--max_unreadable is '2', expected a number, at least 0, at most 1",
        "--on_slide_error is 'maybe', expected fail or skip",
        "--max_cpus is 'some', expected a whole number, at least 1",
        "--max_memory is 'lots', expected a value such as 16.GB",
        "--queue has no effect with -profile standard: leave it out, or add the profile slurm or lsf or pbs or",
        "--genes is a gs:// address, expected a path or an s3:// address",
        "--recipe has no effect with --workflow predict: leave it out",
        "--triton_url holds a password or a key",
        "--report_genes holds a password or a key",
    ):
        assert told in run.output
    assert "hunter2" not in run.output
    # Nextflow 25.04 tells the pipeline nothing of the hyphen.
    assert re.search(r"--triton(-u|U)rl is unknown; did you mean --triton_url\?", run.output)
    assert "Submitted" not in run.output
    assert not list(run.outdir.rglob("params.json"))


# Each parameter that acts through profiles, with the sets of profiles under which it acts.
SCHEDULERS = ["slurm", "lsf", "pbs", "pbspro", "sge"]
ACTS_WITH = {
    "queue": [*SCHEDULERS, "awsbatch"],
    "gpu_queue": [f"{scheduler},gpu" for scheduler in (*SCHEDULERS, "awsbatch")],
    "on_demand_queue": ["awsbatch"],
    "gpu_on_demand_queue": ["awsbatch,gpu"],
    "cluster_options": SCHEDULERS,
    "penv": ["sge"],
    "job_role": ["awsbatch"],
    "registry": ["docker", "podman", "apptainer", "singularity", "awsbatch", "k8s"],
}
# A parameter, what else is given, and what would give it an effect where it has none.
SERVERS = {"triton_url": "grpc://a:8001"}
SETTINGS: list[tuple[str, dict[str, str], str | None]] = [
    ("tasks_per_server", {}, "give --triton_url"),
    ("tasks_per_server", {"serving": "task", "profile": "gpu"}, "give --triton_url"),
    ("tasks_per_server", SERVERS, None),
    ("precision", {}, None),
    ("precision", {"profile": "slurm"}, None),
    ("precision", {"profile": "k8s"}, "add the profile gpu, or give --serving task, or give --triton_url"),
    ("precision", {"profile": "docker"}, "add the profile gpu, or give --serving task, or give --triton_url"),
    ("precision", {"profile": "gpu"}, None),
    ("precision", {"serving": "task"}, None),
    ("precision", SERVERS, None),
    ("node_cache", {"bundle": "/bundles/breast"}, "give --bundle s3://, or give --serving task"),
    ("node_cache", {"bundle": "s3://lab/breast"}, None),
    ("node_cache", {"bundle": "/bundles/breast", "serving": "task"}, None),
    ("serving", {}, None),
    ("serving", SERVERS, "leave out --triton_url"),
]
CHOSEN = ["standard", *SCHEDULERS, "awsbatch", "k8s", "docker", "podman", "apptainer", "singularity"]
LIST_EFFECTS = """
include {{ known_parameters ; lack_of_effect ; unknown_store_in }} from '{root}/modules/parameters.nf'
workflow {{
    def known = known_parameters(file('{root}/nextflow_schema.json'))
    params.chosen.tokenize(':').each {{ profiles ->
        known.each {{ name, facts ->
            if (facts.used_with) {{
                def fault = lack_of_effect('x', facts, [workflow: 'predict'], profiles.tokenize(','))
                println("effect ${{name}} ${{profiles}} ${{fault}}")
            }}
        }}
    }}
    ['predict', 'train'].each {{ chosen ->
        known.each {{ name, facts ->
            if (lack_of_effect('x', facts, [workflow: chosen], [])?.contains('--workflow')) {{
                println("idle ${{chosen}} ${{name}}")
            }}
        }}
    }}
    new groovy.json.JsonSlurper().parse(file('settings.json')).eachWithIndex {{ setting, number ->
        def profiles = [setting.given.profile ?: 'standard']
        println("setting ${{number}} ${{lack_of_effect('x', known[setting.name], [workflow: 'predict'] + setting.given, profiles)}}")
    }}
    ['/data/a', 's3://b/a', 'gs://b/a', 'az://b/a', 'abfss://b/a', 'gs.csv'].each {{ uri ->
        println("store ${{uri}} ${{unknown_store_in(uri) != null}}")
    }}
}}
"""


def test_a_parameter_that_changes_nothing_is_refused_with_the_profile_that_would_use_it(
    launch: Launcher, root: Path, tmp_path: Path
) -> None:
    script = tmp_path / "effects.nf"
    script.write_text(LIST_EFFECTS.format(root=root))
    settings = [{"name": name, "given": given} for name, given, _ in SETTINGS]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    chosen = [*CHOSEN, *(f"{profile},gpu" for profile in CHOSEN)]

    run = launch("--chosen", ":".join(chosen), script=script)

    assert run.code == 0, run.output
    told = re.findall(r"^effect (\S+) (\S+) (.*)$", run.output, re.MULTILINE)
    acting: dict[str, set[str]] = {name: set() for name in ACTS_WITH}
    for name, profiles, fault in told:
        if fault == "null":
            acting[name].add(profiles)
        else:
            assert f"has no effect with -profile {profiles}: " in fault
    expected = {
        name: {profiles for profiles in chosen if any({*least.split(",")} <= {*profiles.split(",")} for least in acts)}
        for name, acts in ACTS_WITH.items()
    }
    assert acting == expected
    assert set(re.findall(r"^idle (\S+) (\S+)$", run.output, re.MULTILINE)) == {
        *(("train", name) for name in ("bundle", "on_slide_error", "max_unreadable", "serving", "triton_url")),
        *(
            ("train", name)
            for name in ("tasks_per_server", "precision", "node_cache", "report_genes", "allow_metadata")
        ),
        *(("train", name) for name in ("cohort", "signatures", "batch", "report", "formats")),
        *(("predict", name) for name in ("recipe", "methods", "gene_text", "unseen_genes", "encoders")),
        *(("predict", name) for name in ("encoder_weights", "checkpoints")),
    }
    found = re.findall(r"^setting \d+ (.*)$", run.output, re.MULTILINE)
    assert found == [f"has no effect here: leave it out, or {cure}" if cure else "null" for _, _, cure in SETTINGS]
    assert re.findall(r"^store (\S+) true$", run.output, re.MULTILINE) == ["gs://b/a", "az://b/a", "abfss://b/a"]


@pytest.mark.parametrize(
    ("amount", "known"),
    [
        ("16.GB", True),
        ("16 GB", True),
        ("1.5 TB", True),
        ("900MB", True),
        ("16G", False),
        ("GB", False),
        ("-1.GB", False),
    ],
)
def test_an_amount_of_memory_is_one_that_nextflow_reads(amount: str, known: bool) -> None:
    pattern = pipeline_schema()["$defs"]["resources"]["properties"]["max_memory"]["pattern"]
    assert (re.search(pattern, amount) is not None) == known


@pytest.mark.parametrize("missing", ["--input", "--bundle"])
def test_an_input_that_is_absent_is_named(launch: Launcher, tmp_path: Path, missing: str) -> None:
    there = write_samplesheet(tmp_path / "sheet.csv", {"A": "a.tiff"})
    given = {"--input": there, "--bundle": tmp_path, missing: tmp_path / "nowhere"}

    run = launch(*(part for pair in given.items() for part in pair))

    assert run.code != 0
    assert f"{tmp_path}/nowhere" in run.output
