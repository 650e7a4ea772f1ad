"""What is built, tried and released is named by commit and digest, and what a stranger proposes gets no privilege."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.name: path for path in sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))}
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
COMMIT = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")

# Every permission to write, by workflow and job. All other jobs only read.
MAY_WRITE = {
    ("release.yml", "images"): {"packages", "id-token"},
    ("release.yml", "publish"): {"contents", "id-token"},
}

Workflow = dict[str, Any]


def read(name: str) -> Workflow:
    workflow: Workflow = yaml.safe_load(WORKFLOWS[name].read_text())
    # YAML 1.1 reads the key `on` as true.
    workflow["on"] = workflow.pop(True)
    return workflow


def steps_of(workflow: Workflow) -> Iterator[dict[str, Any]]:
    for job in workflow["jobs"].values():
        yield from job.get("steps", [])


def test_the_workflows_are_those_that_are_described_here() -> None:
    assert set(WORKFLOWS) == {"ci.yml", "whole.yml", "release.yml"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_action_is_named_by_commit_and_says_which_version_that_is(name: str) -> None:
    lines = re.findall(r"uses: (.*)", WORKFLOWS[name].read_text())
    used = [step["uses"] for step in steps_of(read(name)) if "uses" in step]

    assert used
    assert [action for action in used if not COMMIT.fullmatch(action)] == []
    assert len(lines) == len(used)
    assert all(re.search(r" # v\d+\.\d+\.\d+$", line) for line in lines)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_image_that_a_job_runs_in_is_named_by_digest(name: str) -> None:
    for job in read(name)["jobs"].values():
        images = [job["container"]["image"]] if "container" in job else []
        images += [service["image"] for service in job.get("services", {}).values()]
        assert all(DIGEST.search(image) for image in images), images


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_job_may_write_only_what_it_publishes(name: str) -> None:
    workflow = read(name)

    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job_name, job in workflow["jobs"].items():
        given = job.get("permissions", {})
        assert set(given.values()) <= {"read", "write"}
        writes = {scope for scope, access in given.items() if access == "write"}
        assert writes == MAY_WRITE.get((name, job_name), set()), job_name
        # A person has to agree before anything leaves, if the repository's settings say so.
        assert bool(writes) == (job.get("environment") == "release"), job_name


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_checkout_leaves_its_token_and_no_text_of_others_becomes_a_command(name: str) -> None:
    for step in steps_of(read(name)):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
        assert not re.search(r"\$\{\{ *(github\.(event|head_ref|ref_name)|inputs)", step.get("run", "")), step


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_others_propose_runs_without_privileges_and_secrets(name: str) -> None:
    workflow, text = read(name), WORKFLOWS[name].read_text()

    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(workflow["on"])
    if "pull_request" not in workflow["on"]:
        return
    assert workflow["permissions"] == {"contents": "read"}
    for word in ("--privileged", "--cap-add", "docker.sock", "secrets.", "github.token", "write"):
        assert word not in "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")), word


def test_the_release_tries_signs_and_describes_what_it_pushes() -> None:
    jobs = read("release.yml")["jobs"]
    commands = [step.get("run", step.get("uses", "")) for step in jobs["images"]["steps"]]

    def place(part: str) -> int:
        return next(number for number, command in enumerate(commands) if part in command)

    assert "make pinned-images" in [step.get("run") for step in jobs["check"]["steps"]]
    assert jobs["images"]["needs"] == jobs["wheel"]["needs"] == "check"
    assert jobs["publish"]["needs"] == ["images", "wheel"]
    assert place("try-images") < place("docker push") < place("anchore/sbom-action") < place("cosign sign")
    assert (
        'cosign attest --yes --type cyclonedx --predicate "$IMAGE.cdx.json" "$PUSHED"' in commands[place("cosign sign")]
    )


# --- Images


def stages(text: str) -> dict[str, list[str]]:
    """Instructions of each stage of a Dockerfile, the one that names its base first."""
    found: dict[str, list[str]] = {}
    name = ""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    for line in filter(str.strip, lines):
        if line.startswith("FROM "):
            name = line.split(" AS ")[1]
        found.setdefault(name, []).append(line)
    return found


def test_every_image_stands_on_a_digest_or_on_another_stage() -> None:
    parts = stages((ROOT / "containers" / "Dockerfile").read_text())
    arguments = dict(line.removeprefix("ARG ").split("=", maxsplit=1) for line in parts.pop(""))

    for name, (first, *_) in parts.items():
        base = first.split()[1]
        if base in parts:
            continue
        argument = base.removeprefix("${").removesuffix("}")
        assert base == f"${{{argument}}}", f"stage {name} names {base} in place of an argument that can be replaced"
        assert DIGEST.search(arguments[argument]), f"{argument} has no digest"


def test_the_images_of_the_tasks_differ_only_in_what_is_installed() -> None:
    """So what the system tests find of `client` in a whole run is so of `train` too."""
    parts = stages((ROOT / "containers" / "Dockerfile").read_text())

    for name in ("client", "train"):
        assert parts[name] == [
            f"FROM base AS {name}",
            f"COPY --from=build-{name} /opt/histocast /opt/histocast",
        ]
    for name in ("base", "triton"):
        assert {"WORKDIR /tmp", "USER 65532"} <= set(parts[name])


def test_compose_names_the_images_of_others_by_digest() -> None:
    services = yaml.safe_load((ROOT / "containers" / "compose.yaml").read_text())["services"]
    images = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"]) for service in services.values()]

    assert [image for image in images if not image.startswith("localhost/") and not DIGEST.search(image)] == []


def test_the_manual_names_the_images_that_tasks_run_in() -> None:
    """Those of the table of AWS Batch, which says what to push, are those of the settings, and a release makes them all."""
    settings = "".join(path.read_text() for path in (ROOT / "conf").glob("*.config"))
    used = set(re.findall(r"\b(client-gpu|client|cohort|train|triton):\d", settings))
    table = (ROOT / "docs" / "deployment.md").read_text().partition("| run | images |")[2].partition("\n\n")[0]

    assert set(re.findall(r"`(client-gpu|client|cohort|train|triton)`", table)) == used
    assert set(read("release.yml")["jobs"]["images"]["strategy"]["matrix"]["image"]) == used
    # All that stand on a public base are built and started for each change, too.
    tried = read("ci.yml")["jobs"]["images"]
    assert set(tried["strategy"]["matrix"]["image"]) == used - {"triton"}
    assert "make images try-images ENGINE=docker IMAGES=${{ matrix.image }}" in [
        step.get("run") for step in tried["steps"]
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile and a Dockerfile of its own."""
    (tmp_path / "containers").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


def make(target: str, checkout: Path, *, docker: str = "exit 1") -> subprocess.CompletedProcess[str]:
    """Call a target, with a docker that answers what is given."""
    program = checkout / "bin" / "docker"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/bash\n{docker}\n")
    program.chmod(0o755)
    # Tests run under make, too, whose own call must not show here: a make within a make says which folder it enters.
    settings = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    settings["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    return subprocess.run(["make", target], cwd=checkout, env=settings, capture_output=True, text=True, check=False)


BASE, OTHER = "docker.io/library/python:3.11-slim", "nvcr.io/nvidia/tritonserver:25.10-py3"
SOME, NEW = (f"sha256:{letter * 64}" for letter in "ab")


def test_an_address_is_written_where_tools_look_for_it_and_a_release_needs_it(root: Path, tmp_path: Path) -> None:
    for name in ("Makefile", "nextflow.config", "CITATION.cff", "pyproject.toml"):
        shutil.copy(root / name, tmp_path / name)
    step = next(step for step in read("release.yml")["jobs"]["check"]["steps"] if "manifest" in step.get("name", ""))
    for owner in ("first", "second"):
        server = {"GITHUB_SERVER_URL": "https://git.example", "GITHUB_REPOSITORY": f"{owner}/histocast"}
        check = ["bash", "-c", step["run"]]
        environment = {**os.environ, **server}
        assert subprocess.run(check, cwd=tmp_path, env=environment, check=False, capture_output=True).returncode == 1
        address = f"https://git.example/{owner}/histocast"
        subprocess.run(["make", "address", f"ADDRESS={address}"], cwd=tmp_path, check=True, capture_output=True)
        subprocess.run(check, cwd=tmp_path, env=environment, check=True)
        assert yaml.safe_load((tmp_path / "CITATION.cff").read_text())["repository-code"] == address
        assert tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["urls"] == {"Repository": address}
    lines = [(root / name).read_text().count("\n") for name in ("CITATION.cff", "pyproject.toml")]
    assert [(tmp_path / name).read_text().count("\n") for name in ("CITATION.cff", "pyproject.toml")] == [
        lines[0] + 1, lines[1] + 3
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bases", "unpinned"),
    [
        ((f"{BASE}@{SOME}", f"{OTHER}@{SOME}"), []),
        ((f"{BASE}@{SOME}", OTHER), [OTHER]),
        ((BASE, OTHER), [BASE, OTHER]),
        ((f"{BASE}@{SOME[:-1]}", f"{OTHER}@{SOME}"), [f"{BASE}@{SOME[:-1]}"]),
    ],
)
def test_a_release_refuses_a_base_image_without_a_digest(
    checkout: Path, bases: tuple[str, str], unpinned: list[str]
) -> None:
    (checkout / "containers" / "Dockerfile").write_text("ARG BASE={}\nARG TRITON={}\n".format(*bases))

    done = make("pinned-images", checkout)

    assert (done.returncode != 0) == bool(unpinned)
    assert done.stdout.split() == unpinned
    assert ("make pin-images" in done.stderr) == bool(unpinned)


def test_base_images_are_pinned_by_what_their_registry_says(checkout: Path) -> None:
    dockerfile = checkout / "containers" / "Dockerfile"
    dockerfile.write_text(f"ARG BASE={BASE}@{SOME}\nARG TRITON={OTHER}\n\nFROM ${{BASE}} AS build\nARG RUNTIME=any\n")
    answers = f'[[ "$*" == "buildx imagetools inspect --format {{{{.Manifest.Digest}}}} "* ]] && echo {NEW}'

    assert make("pin-images", checkout, docker=answers).returncode == 0

    pinned = f"ARG BASE={BASE}@{NEW}\nARG TRITON={OTHER}@{NEW}\n\nFROM ${{BASE}} AS build\nARG RUNTIME=any\n"
    assert dockerfile.read_text() == pinned


@pytest.mark.parametrize("answer", ["exit 1", "echo unauthorized", "echo"])
def test_without_an_answer_nothing_is_pinned(checkout: Path, answer: str) -> None:
    dockerfile = checkout / "containers" / "Dockerfile"
    dockerfile.write_text(f"ARG BASE={BASE}\n")

    assert make("pin-images", checkout, docker=answer).returncode != 0
    assert dockerfile.read_text() == f"ARG BASE={BASE}\n"
