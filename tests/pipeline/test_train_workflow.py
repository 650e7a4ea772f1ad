"""From slides with counts to a bundle that predicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from histocast.bundle import sha256_of_file
from histocast.inference import verify_bundle
from known_encoders import write_exported_encoder
from pipeline_runs import Launcher, Run, arrows_of, count_by_process, drawn_arrows, write_samplesheet
from several_files import write_mirax
from stained_sections import GENES, GEOMETRY, paint_stained, write_ridge_recipe, write_training_sheet

# Several whole runs of the pipeline, on a machine that may have other work to do.
pytestmark = pytest.mark.timeout(900)

SECTIONS = 2


@pytest.fixture
def training_sheet(tmp_path: Path) -> Path:
    """Small sections of as many patients, with spots and counts."""
    return write_training_sheet(tmp_path, sections=SECTIONS)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe for ridge on the morphology encoder."""
    return write_ridge_recipe(tmp_path / "tiny.json")


def test_a_bundle_is_trained_judged_and_exported_and_predicts(
    launch: Launcher, training_sheet: Path, recipe: Path, tmp_path: Path
) -> None:
    """One section's slide is of several files, one of which goes wrong after the training."""
    mirax = write_mirax(tmp_path / "T1.mrxs", paint_stained(seed=1, side_px=1500)[:1280, :1280])
    training_sheet.write_text(training_sheet.read_text().replace("T1.tiff", mirax.name))
    given = ("--workflow", "train", "--input", training_sheet, "--recipe", recipe)

    trained = launch(*given)

    assert trained.code == 0, trained.output
    assert count_by_process(trained.tasks("COMPLETED")) == {
        "PLAN": 1,
        "PREPARE_ENCODERS": 1,
        "PREPARE": SECTIONS,
        "TRAIN": SECTIONS + 1,  # every fold under the one protocol of the recipe, and the model of all sections
        "EVALUATE": 1,
        "EXPORT": 1,
    }
    bundle = verify_bundle(trained.outdir / "ridge" / "bundle")
    assert bundle.gene_count == len(GENES)
    assert bundle.metrics
    assert "leave one patient out (2 patients)" in (trained.outdir / "evaluation" / "evaluation.md").read_text()
    assert "is useless" not in trained.output
    graph = {entity["@id"]: entity for entity in json.loads(provenance_of(trained).read_text())["@graph"]}
    digests = {name: entity["sha256"] for name, entity in graph.items() if "sha256" in entity}
    assert digests == {name: sha256_of_file(trained.outdir / name) for name in digests}
    assert {"ridge/bundle/bundle.json", "evaluation/evaluation.json"} <= set(digests)
    assert {f"#counts/T{number}" for number in range(SECTIONS)} <= set(graph)
    assert graph["#recipe"]["identifier"] == f"sha256:{sha256_of_file(recipe)}"

    sheet = write_samplesheet(tmp_path / "sheet.csv", {"A": "T0.tiff"})
    predicted = launch("--input", sheet, "--bundle", trained.outdir / "ridge" / "bundle")

    assert predicted.code == 0, predicted.output
    assert (predicted.outdir / "A" / "A.h5ad").exists()

    staged = [sorted(path.name for path in folder.iterdir()) for folder in (tmp_path / "work").rglob("slide")]
    assert ["T1", "T1.mrxs"] in staged
    (tmp_path / "T1" / "Data0000.dat").write_bytes(b"")

    resumed = launch(*given, "-resume")

    assert resumed.code != 0
    assert resumed.tasks("FAILED") == ["PREPARE T1"]
    assert "slide of sample T1" in resumed.output


def provenance_of(run: Run) -> Path:
    return run.outdir / "pipeline_info" / "provenance.json"


def test_encoders_with_weights_are_taken_along_and_one_is_trained(
    launch: Launcher, training_sheet: Path, tmp_path: Path
) -> None:
    """An exported encoder gives the neighbourhood's features; the target's is trained from weights that are given."""
    write_exported_encoder(tmp_path / "exported" / "uni", tile_px=112)
    torch.save(torchvision_resnet18(), tmp_path / "weights.pth")
    recipe = tmp_path / "trained.json"
    content = {
        "name": "trained",
        "geometry": GEOMETRY,
        "panel": GENES,
        "protocols": ["strict"],
        "features": ["uni.embedding"],
        "exported": {"uni": "a/place/that/no/task/sees"},
        "method": "stnet",
        "options": {
            "training": {"epochs": 1, "steps_per_region": 1, "spots_per_step": 4},
            "encoder": {"name": "resnet18", "trained_blocks": 1},
        },
    }
    recipe.write_text(json.dumps(content))

    run = launch(
        *("--workflow", "train", "--input", training_sheet, "--recipe", recipe),
        *("--encoders", tmp_path / "exported" / "uni", "--encoder_weights", tmp_path / "weights.pth"),
    )

    assert run.code == 0, run.output
    bundle = verify_bundle(run.outdir / "stnet" / "bundle")
    assert [encoder.file for encoder in bundle.encoders] == ["encoders/uni.onnx", "encoders/trained.onnx"]
    assert bundle.metrics
    digest = sha256_of_file(tmp_path / "weights.pth")
    trained = [json.loads(path.read_text()) for path in (tmp_path / "work").rglob("train.json")]
    assert {record["choices"]["encoder"]["weights_sha256"] for record in trained} == {digest}
    assert str(tmp_path) not in json.dumps(trained)


# Variants become no bundle.
THREE = ("dkan", "domainst:no-distillation", "alignst:nuclei")


@pytest.fixture
def three_methods(tmp_path: Path) -> Path:
    """A recipe of small networks."""
    trunk, brief = {"trunk": {"dim": 8}}, {"epochs": 2, "members": 2}
    content = {
        "name": "three",
        "geometry": GEOMETRY,
        "panel": GENES,
        "protocols": ["strict"],
        "method": "dkan",
        "options": {"model": trunk, "training": brief},
        "options_of": {
            "domainst": {"model": trunk, "training": brief},
            "alignst": {"model": {"dim": 8}, "training": brief},
        },
    }
    path = tmp_path / "three.json"
    path.write_text(json.dumps(content))
    return path


def write_gene_text(path: Path) -> Path:
    values = np.random.default_rng(0).normal(size=(len(GENES), 6)).astype(np.float32)
    columns = {
        "gene_id": pa.array(GENES),
        "gene_symbol": pa.array(GENES),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 6),
    }
    pq.write_table(pa.table(columns), path)
    return path


def test_the_three_methods_are_trained_judged_with_their_texts_and_exported(
    launch: Launcher, training_sheet: Path, three_methods: Path, tmp_path: Path
) -> None:
    (tmp_path / "unseen.txt").write_text(f"{GENES[-1]}\n")
    run = launch(
        *("--workflow", "train", "--input", training_sheet, "--recipe", three_methods),
        *("--methods", ",".join(THREE), "--gene_text", write_gene_text(tmp_path / "genes.parquet")),
        *("--unseen_genes", tmp_path / "unseen.txt"),
    )

    assert run.code == 0, run.output
    # Two folds each, and of the method one of all sections for its bundle.
    assert count_by_process(run.tasks("COMPLETED"))["TRAIN"] == 3 + 2 + 2
    assert verify_bundle(run.outdir / "dkan" / "bundle").gene_count == len(GENES)
    records = {path.parent.name: json.loads(path.read_text()) for path in run.outdir.glob("training/*/train.json")}
    assert records["alignst-nuclei-strict-P1"]["recipe"]["nuclei"] == "nuclei.map"
    assert all(GENES[-1] not in record["recipe"]["panel"] for record in records.values())
    assert all((run.outdir / "training" / name / "metrics.csv").is_file() for name in records)
    table = (run.outdir / "evaluation" / "evaluation.md").read_text()
    assert all(f"| **{method}** |" in table for method in THREE)
    assert all(f"| {method}, own text |" in table for method in ("dkan", "alignst:nuclei"))


def torchvision_resnet18() -> dict[str, torch.Tensor]:
    """Random tensors under the names of a published ResNet18, head and all."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 512)}
    norms = {"bn1": 64}
    inward = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            place = f"layer{layer}.{block}"
            shapes |= {f"{place}.conv1.weight": (width, inward, 3, 3), f"{place}.conv2.weight": (width, width, 3, 3)}
            norms |= {f"{place}.bn1": width, f"{place}.bn2": width}
            if inward != width:
                shapes[f"{place}.downsample.0.weight"] = (width, inward, 1, 1)
                norms[f"{place}.downsample.1"] = width
            inward = width
    random = torch.Generator().manual_seed(0)
    found = {name: torch.randn(shape, generator=random) / 30 for name, shape in shapes.items()}
    for name, width in norms.items():
        found |= {f"{name}.{kind}": torch.ones(width) for kind in ("weight", "running_var")}
        found |= {f"{name}.{kind}": torch.zeros(width) for kind in ("bias", "running_mean")}
    return found


def test_each_method_gets_its_bundle(launch: Launcher, training_sheet: Path) -> None:
    sheet = training_sheet.read_text().replace("T1.tiff", "s3://archive/T1.tiff")
    training_sheet.write_text(sheet)

    diagram = training_sheet.with_name("diagram.mmd")
    given = ("--workflow", "train", "--input", training_sheet, "--recipe", "her2st", "--methods", "a, b")
    run = launch("-stub", *given, "-with-dag", diagram)

    assert run.code == 0, run.output
    assert arrows_of(diagram) == drawn_arrows(launch.root, "train")
    tasks = count_by_process(run.tasks("COMPLETED"))
    assert tasks == {"PLAN": 1, "PREPARE_ENCODERS": 1, "PREPARE": SECTIONS, "TRAIN": 4, "EVALUATE": 1, "EXPORT": 2}
    assert {path.parent.parent.name for path in run.outdir.glob("*/bundle/bundle.json")} == {"a", "b"}
    told = {path.relative_to(run.outdir / "training").as_posix() for path in run.outdir.glob("training/*/*")}
    files = ("train.json", "metrics.csv", "metrics.json")
    assert told == {f"{method}-strict-{fold}/{file}" for method in "ab" for fold in ("P1", "all") for file in files}
    assert json.loads(provenance_of(run).read_text())["parameters"]["methods"] == "a, b"
    assert "is useless" not in run.output


def test_nothing_is_encoded_for_a_plan_that_cannot_work(launch: Launcher, training_sheet: Path, recipe: Path) -> None:
    run = launch("--workflow", "train", "--input", training_sheet, "--recipe", recipe, "--methods", "dkan:no-text")

    assert run.code != 0
    assert "did you mean dkan:no-gene-text?" in run.output
    assert {row["process"] for row in run.trace()} == {"TRAIN_MODELS:PLAN"}
