"""A training run is an RO-Crate that names every section, every choice and every bundle by its digest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from histocast.artifacts import write_json
from histocast.bundle import read_bundle, sha256_of_file
from histocast.errors import DataError
from histocast.evaluation.summary import Evaluation
from histocast.records import RunRecord, read_record
from histocast.release.export_bundle import export_bundle
from histocast.sections.section import SectionRecord
from histocast.stages.describe_training import write_lineage
from histocast.training.read_recipe import read_recipe
from histocast.training.train_fold import train
from made_sections import made_recipe

RUN = RunRecord(
    pipeline="histocast",
    pipeline_version="0.1.0",
    nextflow_version="24.10.0",
    run_name="calm_curie",
    session_id="7d6b",
    started="2026-03-01T11:00:00Z",
    profile="standard",
    parameters={"workflow": "train", "genes": None},
)
SAMPLES = ("A1", "A2", "B1", "B2")


@pytest.fixture(scope="module")
def run_folder(
    made_set: Path, made_folds: tuple[Path, Evaluation], encoders: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What the stages of a run left: a bundle, the evaluation, and the records of all parts."""
    folder = tmp_path_factory.mktemp("run")
    train(made_set, recipe=made_recipe(), outdir=folder / "parts" / "ridge-strict-all")
    export_bundle(folder / "parts" / "ridge-strict-all", encoders=encoders, outdir=folder / "ridge" / "bundle")
    (folder / "parts" / "ridge-strict-all" / "bundle.json").unlink()
    for name in ("evaluation.json", "sections.parquet"):
        copy(made_folds[0] / name, folder / "evaluation" / name)
    for sample in SAMPLES:
        copy(made_set / sample / "section.json", folder / "parts" / sample / "section.json")
    copy(folder / "ridge" / "bundle" / "bundle.json", folder / "parts" / "1" / "bundle.json")
    write_json(folder / "run.json", RUN)
    (folder / "panel.txt").write_text("GENE1\nGENE2\n")
    (folder / "unseen.txt").write_text("GENE2\n")
    return folder


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


@pytest.fixture(scope="module")
def graph(run_folder: Path) -> dict[str, dict[str, Any]]:
    write_lineage(
        run_folder / "run.json",
        parts=run_folder / "parts",
        evaluation=run_folder / "evaluation",
        recipe=read_recipe("her2st", panel=run_folder / "panel.txt", unseen_genes=run_folder / "unseen.txt"),
        outdir=run_folder / "pipeline_info",
    )
    crate = json.loads((run_folder / "pipeline_info" / "provenance.json").read_text())
    by_id = {entity["@id"]: entity for entity in crate["@graph"]}
    assert len(by_id) == len(crate["@graph"]), "an entity stands twice"
    return by_id


def named_in(value: Any) -> set[str]:
    """What an entity's value refers to."""
    parts = value if isinstance(value, list) else [value]
    return {part["@id"] for part in parts if isinstance(part, dict)}


def test_every_reference_leads_somewhere_and_every_digest_is_that_of_its_file(
    graph: dict[str, dict[str, Any]], run_folder: Path
) -> None:
    mentioned = {target for entity in graph.values() for value in entity.values() for target in named_in(value)}
    assert {target for target in mentioned - set(graph) if not target.startswith("http")} == set()
    with_digest = {name: entity["sha256"] for name, entity in graph.items() if "sha256" in entity}
    assert with_digest == {name: sha256_of_file(run_folder / name) for name in with_digest}
    assert set(with_digest) == {
        *("evaluation/evaluation.json", "evaluation/sections.parquet", "ridge/bundle/bundle.json"),
        *("ridge/bundle/fusion.onnx", "ridge/bundle/genes.parquet", "ridge/bundle/encoders/morphology.onnx"),
    }


def test_a_bundle_says_what_it_was_trained_on_and_by_what(
    graph: dict[str, dict[str, Any]], made_set: Path, run_folder: Path
) -> None:
    made = graph["#run/ridge/bundle"]
    assert "ridge/bundle/bundle.json" in named_in(made["result"])
    assert named_in(made["object"]) == {
        *(f"#{kind}/{sample}" for kind in ("slide", "counts") for sample in SAMPLES),
        *("#recipe", "#genes", "#unseen_genes"),
    }
    section = read_record(made_set / "A1" / "section.json", SectionRecord)
    assert graph["#slide/A1"]["identifier"] == section.digests["slide"]
    assert graph["#counts/A1"]["identifier"] == section.digests["counts"]
    for key, file in (("genes", "panel.txt"), ("unseen_genes", "unseen.txt")):
        assert graph[f"#{key}"]["identifier"] == f"sha256:{sha256_of_file(run_folder / file)}"
    assert "identifier" not in graph["#recipe"], "a shipped recipe has no file of its own"
    software = {graph[name]["name"] for name in named_in(graph["#pipeline"]["softwareRequirements"])}
    assert {"histocast", "python", "numpy", "torch"} <= software


def test_the_run_took_everything_and_made_every_file(graph: dict[str, dict[str, Any]]) -> None:
    run = graph["#run"]
    assert run["actionStatus"] == {"@id": "http://schema.org/CompletedActionStatus"}
    assert {"#recipe", "#genes", "#parameter/workflow", "#counts/B2"} <= named_in(run["object"])
    assert named_in(run["result"]) == {name for name, entity in graph.items() if entity["@type"] == "File"}
    assert graph["pipeline_info/plan.json"]["@type"] == "File"
    assert named_in(graph["./"]["mentions"]) == {"#run", "#run/ridge/bundle"}


def test_a_bundle_of_sections_that_are_not_there_is_refused(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder / "parts", tmp_path / "parts")
    (tmp_path / "parts" / "B1" / "section.json").unlink()
    assert read_bundle(tmp_path / "parts" / "1").training_data["samples"] == list(SAMPLES)

    with pytest.raises(DataError, match="B1"):
        write_lineage(
            run_folder / "run.json",
            parts=tmp_path / "parts",
            evaluation=run_folder / "evaluation",
            recipe=made_recipe(),
            outdir=tmp_path,
        )
