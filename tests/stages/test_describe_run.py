"""A run is an RO-Crate that names every input by its digest, hides secrets and knows no slide's file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from histocast.records import (
    BatchStatus,
    CheckRecord,
    RunRecord,
    SampleRecord,
    SampleStatus,
    StageError,
    StatusRecord,
)
from histocast.ro_crate import container_image, redact, software
from histocast.stages.describe_run import describe_run

ACCESSION = "H24-10233"
ENDED = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RUN = RunRecord(
    pipeline="histocast",
    pipeline_version="0.1.0",
    revision="a" * 40,
    nextflow_version="24.10.0",
    run_name="calm_curie",
    session_id="7d6b",
    started="2026-03-01T11:00:00Z",
    profile="docker,gpu",
    container_engine="docker",
    parameters={
        "max_unreadable": 0.05,
        "triton_url": "grpc://me:hunter2@gpu:8001",
        "genes": None,
        "trace_report_suffix": "1",
    },
)
CHECK = CheckRecord(
    bundle_digest="sha256:" + "b" * 64,
    bundle_name="breast",
    bundle_version="1.2",
    genes_digest="sha256:" + "e" * 64,
    samples=tuple(
        SampleRecord(sample=name, slide=f"s3://archive/{ACCESSION}-{name}.svs", size_bytes=1000) for name in ("A", "B")
    ),
)


def stage(sample: str, name: Any, **facts: str | int) -> StatusRecord:
    software = {"numpy": "2.1", "onnxruntime": f"1.2{name[0]}", "image": f"ghcr.io/lab/client:1@sha256:{'c' * 64}"}
    return StatusRecord(sample=sample, stage=name, outcome="ok", facts=facts, software=software)


@pytest.fixture
def graph() -> dict[str, dict[str, Any]]:
    """Entities by ``@id`` of a run of one good sample and one that could not be opened."""
    good = (
        stage("A", "tile", slide_digest="sampled-sha256:aa"),
        stage("A", "predict", h5ad_sha256="11", parquet_sha256="22"),
        stage("A", "report", html_sha256="33"),
    )
    error = StageError(kind="DataError", exit_code=65, message="no reader can open it")
    bad = StatusRecord(sample="B", stage="tile", outcome="failed", error=error)
    batch = BatchStatus(
        samples=(
            SampleStatus(sample="A", outcome="ok", stages=good),
            SampleStatus(sample="B", outcome="failed", stages=(bad,)),
        )
    )
    crate = json.loads(describe_run(RUN, check=CHECK, batch=batch, ended=ENDED).model_dump_json())
    assert crate["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    by_id = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(by_id) == len(crate["@graph"]), "an entity stands twice"
    return by_id


def references_in(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for part in value for found in references_in(part)]
    return [value["@id"]] if isinstance(value, dict) else []


def test_it_is_a_crate_of_the_process_run_profile_whose_references_all_lead_somewhere(graph) -> None:
    descriptor, root = graph["ro-crate-metadata.json"], graph["./"]
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert {"name", "description", "datePublished", "license", "hasPart"} <= set(root)
    assert root["conformsTo"] == {"@id": "https://w3id.org/ro/wfrun/process/0.5"}
    mentioned = {target for entity in graph.values() for key in entity for target in references_in(entity[key])}
    outside = {target for target in mentioned - set(graph) if not target.startswith(("http://", "https://"))}
    assert outside == set()
    files = {name for name, entity in graph.items() if entity["@type"] == "File"}
    assert set(references_in(root["hasPart"])) == files


def test_the_run_says_what_ran_on_what_and_what_came_out(graph) -> None:
    run = graph["#run"]
    assert run["@type"] == "CreateAction"
    assert run["instrument"] == {"@id": "#pipeline"}
    assert (run["startTime"], run["endTime"]) == ("2026-03-01T11:00:00Z", "2026-03-01T12:00:00+00:00")
    assert graph["#pipeline"]["identifier"] == "a" * 40
    assert graph["#nextflow"]["version"] == "24.10.0"
    assert graph["#bundle"]["identifier"] == "sha256:" + "b" * 64
    assert graph["#genes"]["identifier"] == "sha256:" + "e" * 64
    assert graph["#slide/A"]["identifier"] == "sampled-sha256:aa"
    assert graph["A/A.h5ad"]["sha256"] == "11"
    assert graph["#parameter/max_unreadable"]["value"] == 0.05
    assert "#parameter/genes" not in graph
    assert {"#slide/A", "#slide/B", "#bundle", "#genes", "#parameter/max_unreadable"} <= set(
        references_in(run["object"])
    )
    assert [graph[image]["sha256"] for image in references_in(run["containerImage"])] == ["c" * 64]
    libraries = references_in(graph["#pipeline"]["softwareRequirements"])
    assert libraries == [
        *("#software/numpy-2.1", "#software/onnxruntime-1.2p"),
        *("#software/onnxruntime-1.2r", "#software/onnxruntime-1.2t"),
    ], "every version that any stage met"


def test_a_sample_that_failed_says_so_and_fails_the_run_unless_it_may_be_skipped(graph) -> None:
    assert graph["#run/A"]["actionStatus"] == {"@id": "http://schema.org/CompletedActionStatus"}
    assert graph["#run/B"]["actionStatus"] == {"@id": "http://schema.org/FailedActionStatus"}
    assert graph["#run/B"]["error"] == "tile: no reader can open it"
    assert references_in(graph["#run/B"]["result"]) == ["B/status.json"]
    assert graph["#run"]["actionStatus"] == {"@id": "http://schema.org/FailedActionStatus"}
    assert graph["#run"]["error"] == "1 of 2 samples failed: B"
    skipping = RUN.model_copy(update={"parameters": {"on_slide_error": "skip"}})
    error = StageError(kind="DataError", exit_code=65, message="bad")
    bad = StatusRecord(sample="B", stage="tile", outcome="failed", error=error)
    batch = BatchStatus(samples=(SampleStatus(sample="B", outcome="failed", stages=(bad,)),))
    crate = describe_run(skipping, check=CHECK, batch=batch, ended=ENDED).root
    run = next(entity for entity in crate["@graph"] if entity["@id"] == "#run")
    assert run["actionStatus"] == {"@id": "http://schema.org/CompletedActionStatus"}


def test_neither_a_secret_nor_the_name_of_a_slides_file_is_in_it(graph) -> None:
    text = json.dumps(graph)
    assert "hunter2" not in text
    assert ACCESSION not in text
    assert graph["#parameter/triton_url"]["value"] == "grpc://REDACTED@gpu:8001"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("grpc://a:8001,b:8001", "grpc://a:8001,b:8001"),
        ("s3://bucket/slides/key=1/panel.txt", "s3://bucket/slides/key=1/panel.txt"),
        ("https://host/x?token=abc&part=2", "https://host/x?token=REDACTED&part=2"),
        ("https://host/x?part=2&X-Amz-Credential=A/B", "https://host/x?part=2&X-Amz-Credential=REDACTED"),
        ("grpcs://u:p@a:1,grpcs://u:q@b:1", "grpcs://REDACTED@a:1,grpcs://REDACTED@b:1"),
    ],
)
def test_what_is_hidden_and_what_is_not(given: str, kept: str) -> None:
    assert redact(given) == kept


@pytest.mark.parametrize(
    ("image", "registry", "name", "tag", "sha256"),
    [
        ("histocast/client:0.1.0", None, "histocast/client", "0.1.0", None),
        ("localhost/histocast/client:0.1.0", "localhost", "histocast/client", "0.1.0", None),
        ("host:5000/client@sha256:ab", "host:5000", "client", None, "ab"),
        ("ghcr.io/lab/client:1@sha256:ab", "ghcr.io", "lab/client", "1", "ab"),
        ("client", None, "client", None, None),
    ],
)
def test_an_image_is_told_by_its_parts(image: str, registry, name: str, tag, sha256) -> None:
    entity = container_image(image)
    assert (entity.get("registry"), entity["name"], entity.get("tag"), entity.get("sha256")) == (
        *(registry, name, tag, sha256),
    )


def test_a_tag_that_meant_two_images_during_a_run_is_two_images() -> None:
    met = [
        {"numpy": "2.1", "image": "lab.org/client:1", "image_digest": "sha256:ab"},
        {"numpy": "2.1", "image": "lab.org/client:1", "image_digest": "sha256:cd"},
        {"numpy": "2.1", "image": "lab.org/client:1"},
        {"numpy": "2.1", "image": "/images/client.sif", "image_digest": "sampled-sha256:ef"},
        {"numpy": "2.1"},
    ]
    images, libraries = software(met)

    assert [library["name"] for library in libraries] == ["numpy"]
    assert len({image["@id"] for image in images}) == 4
    told = [(image["name"], image.get("tag"), image.get("identifier"), image.get("sha256")) for image in images]
    assert told == [
        ("/images/client.sif", None, "sampled-sha256:ef", None),
        ("client", "1", None, None),
        ("client", "1", "sha256:ab", "ab"),
        ("client", "1", "sha256:cd", "cd"),
    ]
    kinds = [image["additionalType"]["@id"].partition("#")[2] for image in images]
    assert kinds == ["SIFImage", "DockerImage", "DockerImage", "DockerImage"]
