"""One bad slide never sinks the batch and never vanishes; resuming computes what changed and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import anndata
import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline_runs import Launcher, count_by_process, write_samplesheet

# Several whole runs of the pipeline, on a machine that may have other work to do.
pytestmark = pytest.mark.timeout(900)

STAGES = ("TILE", "ENCODE", "PREDICT", "REPORT")
RESULTS = ("h5ad", "parquet", "genes.parquet", "slide.parquet", "html", "geojson", "zarr.zip")


@pytest.fixture
def three_slides(tmp_path: Path, make_slide: Callable[..., Path]) -> Path:
    """A samplesheet of two good slides and a text file that claims to be one."""
    folder = tmp_path / "slides with 'odd' names"
    folder.mkdir()
    make_slide(folder / "first slide.tiff", seed=1)
    make_slide(folder / "second.tiff", seed=2)
    (folder / "third.svs").write_text("This is no slide.\n" * 100)
    return write_samplesheet(
        folder / "samplesheet.csv", {"S1": "first slide.tiff", "S2": "second.tiff", "S3": "third.svs"}
    )


def test_a_bad_slide_is_accounted_for_and_resuming_recomputes_only_what_changed(
    launch: Launcher, three_slides: Path, bundle: Path, make_slide: Callable[..., Path]
) -> None:
    given = ("--input", three_slides, "--bundle", bundle, "--cohort", "true", "--formats", "geojson,zarr")

    failed = launch(*given)

    assert failed.code != 0
    assert "1 slide failed; every other one is done" in failed.output
    assert "S3, tile:" in failed.output
    assert "--on_slide_error skip" in failed.output
    assert not failed.tasks("FAILED"), "a bad slide is a record, not a failed task"
    for sample in ("S1", "S2"):
        for suffix in RESULTS:
            assert (failed.outdir / sample / f"{sample}.{suffix}").stat().st_size > 0
    assert sorted(path.name for path in (failed.outdir / "S3").iterdir()) == ["status.json"]
    status = json.loads((failed.outdir / "S3" / "status.json").read_text())
    assert status["outcome"] == "failed"
    assert status["stages"][-1]["stage"] == "tile"
    assert status["stages"][-1]["error"]["exit_code"] == 65
    assert pq.read_table(failed.outdir / "summary.parquet")["sample"].to_pylist() == ["S1", "S2", "S3"]
    assert "S3" in (failed.outdir / "summary.html").read_text()
    assert_cohort_is_of_the_run(failed.outdir)
    assert_crate_tells_the_truth(failed.outdir)
    assert_manual_knows(failed.outdir, manual=(launch.root / "docs" / "output.md").read_text())
    assert_slides_are_named_where_the_manual_says(failed.outdir, manual=(launch.root / "docs" / "usage.md").read_text())

    done = [f"{stage} {sample}" for stage in STAGES for sample in ("S1", "S2")] + ["SUMMARISE", "COHORT", "TILE S3"]
    whole = damage(
        failed.outdir,
        "S1/S1.h5ad",
        "S1/S1.html",
        "S1/status.json",
        "summary.html",
        "summary.parquet",
        "cohort/cohort.h5ad",
    )
    (failed.outdir / "S2" / "S2.parquet").unlink()
    resumed = launch(*given, "--on_slide_error", "skip", "-resume")

    assert resumed.code == 0, resumed.output
    assert "1 slide failed" in resumed.output
    assert resumed.tasks("CACHED") == sorted(done)
    assert resumed.tasks("COMPLETED") == []
    assert {path: path.read_bytes() for path in whole} == whole
    assert (failed.outdir / "S2" / "S2.parquet").exists()

    make_slide(three_slides.parent / "second.tiff", seed=3)
    (three_slides.parent / "first slide.tiff").write_text("This is no slide.\n" * 100)
    changed = launch(*given, "--on_slide_error", "skip", "-resume")

    assert changed.code == 0, changed.output
    assert changed.tasks("COMPLETED") == sorted(
        [*(f"{stage} S2" for stage in STAGES), "SUMMARISE", "COHORT", "TILE S1"]
    )
    assert changed.tasks("CACHED") == ["TILE S3"]
    # What is left of the slide that was good is no result of this run.
    assert {path.name for path in (failed.outdir / "S1").iterdir()} == {
        "status.json", *(f"S1.{suffix}.stale" for suffix in RESULTS)
    }  # fmt: skip
    assert (failed.outdir / "S1" / "S1.h5ad.stale").read_bytes() == whole[failed.outdir / "S1" / "S1.h5ad"]
    assert "S1 failed: what an earlier run made of it is now S1/S1.h5ad.stale" in changed.output
    assert not (failed.outdir / "pipeline_info" / "run.lock").exists()


def assert_cohort_is_of_the_run(outdir: Path) -> None:
    """Every row of the samplesheet is a row of the cohort, and what was predicted is in its matrix."""
    slides = pq.read_table(outdir / "cohort" / "slides.parquet").to_pydict()
    assert slides["sample"] == ["S1", "S2", "S3"]
    assert slides["outcome"] == ["ok", "ok", "failed"]
    gathered = anndata.read_h5ad(outdir / "cohort" / "cohort.h5ad")
    assert list(gathered.obs_names) == ["S1", "S2"]
    for row, sample in enumerate(gathered.obs_names):
        made = anndata.read_h5ad(outdir / sample / f"{sample}.h5ad")
        np.testing.assert_allclose(gathered.layers["readable_mean"][row], np.nanmean(made.X, axis=0), rtol=1e-4)


def damage(outdir: Path, *names: str) -> dict[Path, bytes]:
    """Cut files off or change a byte of them, in turn; return what they were."""
    whole = {outdir / name: (outdir / name).read_bytes() for name in names}
    for number, (path, content) in enumerate(whole.items()):
        path.write_bytes(content[: len(content) // 2] if number % 2 == 0 else content[:-9] + b"#" + content[-8:])
    return whole


def assert_crate_tells_the_truth(outdir: Path) -> None:
    """Every file of ``provenance.json`` is there, with the bytes it says, and slides have no names."""
    text = (outdir / "pipeline_info" / "provenance.json").read_text()
    graph = {entity["@id"]: entity for entity in json.loads(text)["@graph"]}
    files = {name: entity for name, entity in graph.items() if entity["@type"] == "File"}
    results = {f"{sample}/{sample}.{suffix}" for sample in ("S1", "S2") for suffix in RESULTS}
    assert results == {name for name in files if name.endswith(RESULTS) and "/S" in name}
    for name, entity in files.items():
        content = (outdir / name).read_bytes()
        if name in results:
            assert entity["sha256"] == hashlib.sha256(content).hexdigest()
    made = anndata.read_h5ad(outdir / "S1" / "S1.h5ad").uns["histocast"]
    assert graph["#slide/S1"]["identifier"] == made["inputs"]["slide"]
    assert graph["#bundle"]["identifier"] == made["inputs"]["bundle"]
    versions = {entity["name"]: entity["softwareVersion"] for entity in graph.values() if "softwareVersion" in entity}
    assert versions == made["software"]
    assert versions["numpy"] == np.__version__
    assert graph["#run/S3"]["actionStatus"] == {"@id": "http://schema.org/FailedActionStatus"}
    assert not any(name in text for name in ("first slide", "second.tiff", "third.svs"))


def assert_manual_knows(outdir: Path, *, manual: str) -> None:
    """Every file, key and column of a sample, and every fact of its stages, stands in ``docs/output.md``."""
    made = anndata.read_h5ad(outdir / "S1" / "S1.h5ad")
    status = json.loads((outdir / "S1" / "status.json").read_text())
    facts = {name for stage in status["stages"] for name in stage["facts"]}
    terms = {
        *made.obs,
        *made.var,
        *made.uns["histocast"],
        *made.uns["histocast"]["inputs"],
        *facts,
        *status["stages"][0],
    }
    terms |= {re.sub(r"_\d{4}-[\d_-]+", "_*", path.name) for path in (outdir / "pipeline_info").iterdir()}
    terms |= {"summary.html", "summary.parquet"}
    terms |= {*made.layers, *made.obsm}
    unknown = {term for term in terms if f"`{term}`" not in manual and f"['{term}']" not in manual}
    assert unknown == set()


def assert_slides_are_named_where_the_manual_says(outdir: Path, *, manual: str) -> None:
    """Names of slides' files can be those of patients: whoever shares results must know which files hold them."""
    names = (b"first slide", b"second.tiff", b"third.svs")
    found = {
        re.sub(r"_\d{4}-[\d_-]+", "_*", str(path.relative_to(outdir)))
        for path in outdir.rglob("*")
        if path.is_file() and any(name in path.read_bytes() for name in names)
    }
    table = manual.partition("Paths of slides are\nwritten to:\n")[2].partition("\n\nSo share")[0]
    assert found == {"pipeline_info/samples.json", "pipeline_info/report_*.html"}
    assert all(f"| `{name}` | " in table for name in found)


def test_an_overwritten_object_runs_again_and_predictions_from_s3_are_those_from_disk(
    launch: Launcher, tmp_path: Path, bundle: Path, make_slide: Callable[..., Path], s3_endpoint: str
) -> None:
    s3 = boto3.client("s3", endpoint_url=s3_endpoint)
    s3.create_bucket(Bucket="archive")
    for name, seed in (("a", 1), ("b", 2)):
        s3.upload_file(str(make_slide(tmp_path / f"{name}.tiff", seed=seed)), "archive", f"{name}'s.tiff")
    for path in bundle.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), "archive", f"bundles/demo/{path.relative_to(bundle)}")
    sheet = write_samplesheet(
        tmp_path / "sheet.csv", {"A": "s3://archive/a's.tiff", "B": "s3://archive/b's.tiff", "L": "a.tiff"}
    )
    s3.upload_file(str(make_slide(tmp_path / "other.tiff", seed=4)), "archive", "other.tiff")
    s3.upload_file(str(bundle.parent / "demo-genes" / "genes.parquet"), "archive", "asked.parquet")
    given = ("--input", sheet, "--bundle", "s3://archive/bundles/demo", "--genes", "s3://archive/asked.parquet")

    first = launch(*given)

    assert first.code == 0, first.output
    remote, local = (anndata.read_h5ad(first.outdir / sample / f"{sample}.h5ad") for sample in ("A", "L"))
    np.testing.assert_array_equal(remote.X, local.X)
    # Genes that the bundle has never heard of are predicted by their descriptions, and marked.
    assert remote.var.loc["ENSG00000186847", ["gene_symbol", "evidence"]].tolist() == ["KRT14", "similar_text"]
    assert np.isfinite(remote[:, "ENSG00000186847"].X).all()
    np.testing.assert_array_equal(remote.obsm["spatial"], local.obsm["spatial"])
    assert "s3://" not in (first.outdir / "summary.html").read_text()

    s3.copy({"Bucket": "archive", "Key": "other.tiff"}, "archive", "b's.tiff")
    second = launch(*given, "-resume")

    assert second.code == 0, second.output
    assert second.tasks("COMPLETED") == sorted([*(f"{stage} B" for stage in STAGES), "SUMMARISE"])
    assert count_by_process(second.tasks("CACHED")) == dict.fromkeys(STAGES, 2)


def test_every_fault_of_a_samplesheet_is_told_at_once_and_before_any_slide_is_opened(
    launch: Launcher, tmp_path: Path, bundle: Path
) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("sample,slide,mpp\nA,absent.tiff,0.5\nA,absent.tiff,nought\nB,s3:/typo,\n")

    run = launch("--input", sheet, "--bundle", bundle)

    assert run.code != 0
    for fault in ("sheet.csv, line 2", "sheet.csv, line 3", "sheet.csv, line 4", "'nought'", "no such file"):
        assert fault in run.output
    assert {row["process"] for row in run.trace()} == {"PREDICT_SLIDES:CHECK"}


# Runs before the command line, and dies as from a fault in native code when it gets one sample's tiles. Another sample's
# first task fails once in a way that histocast does not know.
CRASHES = """#!/usr/bin/env bash
if [ "$1" = encode ] && grep -q '"sample": *"S2"' slide.json; then
    kill -SEGV $$
fi
if [ "$1" = tile ] && [ "$4" = S1 ]; then
    mkdir "{folder}/failed" 2> /dev/null && exit 70
fi
exec "{histocast}" "$@"
"""


def test_a_slide_whose_task_crashes_every_time_costs_that_slide_alone(
    launch: Launcher, tmp_path: Path, bundle: Path, make_slide: Callable[..., Path], root: Path
) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        make_slide(tmp_path / f"{name}.tiff", seed=seed)
    sheet = write_samplesheet(tmp_path / "sheet.csv", {"S1": "one.tiff", "S2": "two.tiff"})
    crashing = tmp_path / "crashing" / "histocast"
    crashing.parent.mkdir()
    crashing.write_text(
        CRASHES.replace("{histocast}", str(root / "bin" / "histocast")).replace("{folder}", str(tmp_path))
    )
    crashing.chmod(0o755)
    here = tmp_path / "here.config"
    here.write_text(f"process.beforeScript = \"export PATH='{crashing.parent}':'{root}/.venv/bin':\\\"\\$PATH\\\"\"\n")
    given = ("--input", sheet, "--bundle", bundle, "-c", here)

    before = os.umask(0o077)
    try:
        run = launch(*given)
    finally:
        os.umask(before)

    assert run.code != 0
    # As the manual says of the umask.
    written = [tmp_path / ".nextflow.log", *(tmp_path / "work").rglob("*"), *run.outdir.rglob("*")]
    assert [path for path in written if not path.is_symlink() and path.stat().st_mode & 0o077] == []
    assert run.tasks("FAILED") == ["ENCODE S2"] * 4 + ["TILE S1"]
    assert "1 slide failed; every other one is done" in run.output
    assert "S2, encode: its task failed each time it was tried" in run.output
    assert (run.outdir / "S1" / "S1.h5ad").stat().st_size > 0
    status = json.loads((run.outdir / "S2" / "status.json").read_text())
    assert (status["outcome"], status["stages"][-1]["stage"]) == ("failed", "encode")
    assert "trace_*.txt" in status["stages"][-1]["error"]["advice"]
    rows = pq.read_table(run.outdir / "summary.parquet", columns=["sample", "outcome"]).to_pylist()
    assert [(row["sample"], row["outcome"]) for row in rows] == [("S1", "ok"), ("S2", "failed")]

    crashing.unlink()
    resumed = launch(*given, "-resume")

    assert resumed.code == 0, resumed.output
    assert resumed.tasks("COMPLETED") == ["ENCODE S2", "PREDICT S2", "REPORT S2", "SUMMARISE"]
