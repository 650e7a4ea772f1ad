"""Every row of the samplesheet ends in the summary, with its outcome and nothing that names its file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from histocast.artifacts import SUMMARY, open_parquet
from histocast.errors import DataError
from histocast.records import (
    CheckRecord,
    Reservation,
    SampleRecord,
    SampleStatus,
    StageError,
    StatusRecord,
    Verdict,
    read_record,
)
from histocast.stages.write_summary import write_summary
from page_parser import Page

SECRET = "H24-10233"


def sample(name: str, **changes: object) -> SampleRecord:
    return SampleRecord(sample=name, slide=f"s3://archive/{name}/{SECRET}.svs", **changes)


def ok(name: str, stage: str, **facts: float | str) -> StatusRecord:
    return StatusRecord(sample=name, stage=stage, outcome="ok", facts=facts)


def failed(name: str, stage: str, message: str = "bad") -> StatusRecord:
    error = StageError(
        kind="DataError", exit_code=65, message=f"{message}\n  what to do: scan again", advice="scan again"
    )
    return StatusRecord(sample=name, stage=stage, outcome="failed", error=error)


def finished(name: str, tiles: int = 1204) -> list[StatusRecord]:
    return [
        ok(name, "tile", tiles=tiles, tissue_area_mm2=12.25, seconds=2.5),
        ok(name, "encode", tiles=tiles, unreadable=3, tiles_per_s=210.5, seconds=6.0),
        ok(name, "predict", spots=tiles, unreadable=3, genes=250, ood_flagged=12, mean_val_pcc=0.24, seconds=4.0),
        reported(name, "good"),
    ]


def reported(name: str, level: str, *kinds: str) -> StatusRecord:
    reservations = tuple(Reservation(kind=kind, text=f"The words of {kind}.") for kind in kinds)
    verdict = Verdict(level=level, headline=f"Headline of {name}", summary="Summary.", reservations=reservations)
    return ok(name, "report", seconds=1.0).model_copy(update={"verdict": verdict})


def run(tmp_path, samples: list[SampleRecord], statuses: list[StatusRecord]):
    check = CheckRecord(bundle_digest="sha256:" + "b" * 64, samples=tuple(samples))
    results = write_summary(check, statuses, tmp_path)
    return results, pl.read_parquet(tmp_path / "summary.parquet"), Page(tmp_path / "summary.html")


@pytest.fixture
def mixed(tmp_path):
    missing = StageError(kind="MissingInputError", exit_code=66, message=f"{SECRET}.svs: no such object")
    samples = [sample("A"), sample("B"), sample("C", error=missing), sample("D"), sample("E")]
    statuses = [
        *finished("A"),
        ok("B", "tile", tiles=900, tissue_area_mm2=9.0, seconds=2.0),
        failed("B", "encode", f"cannot decode s3://archive/B/{SECRET}.svs"),
        ok("D", "tile", tiles=10, tissue_area_mm2=0.1, seconds=2.0),
    ]
    return tmp_path, *run(tmp_path, samples, statuses)


def test_what_encoding_and_predicting_waited_for_is_told(tmp_path):
    said = {
        "A": {"encode": "the inference server", "predict": "writing"},
        "B": {"encode": "waiting for the store", "predict": "writing"},
        "C": {"encode": "the inference server", "predict": "reading and decoding"},
    }
    statuses = [
        ok(name, status.stage, bottleneck=said[name][status.stage]) if status.stage in said[name] else status
        for name in said
        for status in finished(name)
    ]
    run(tmp_path, [sample(name) for name in said], statuses)
    text = (tmp_path / "summary.html").read_text()
    assert (
        "Encoding spent most time on: the inference server (2 slides); waiting for the store (1 slide). "
        "Predicting spent most time on: writing (2 slides); reading and decoding (1 slide)."
    ) in text


def test_every_row_is_there_in_the_order_of_the_sheet(mixed):
    _, _, table, _ = mixed
    assert table["sample"].to_list() == ["A", "B", "C", "D", "E"]
    assert table["outcome"].to_list() == ["ok", "failed", "failed", "failed", "failed"]
    assert table["failed_stage"].to_list() == [None, "encode", "check", "encode", "tile"]
    assert table["error_kind"].to_list() == [None, "DataError", "MissingInputError", "DidNotRun", "DidNotRun"]


def test_a_stage_without_a_record_has_failed_and_says_so(mixed):
    _, results, table, page = mixed
    assert "its task failed each time it was tried" in table["message"][4]
    assert results[4].stages[-1].outcome == "failed"
    assert "its task failed each time it was tried" in page.text


def test_the_page_counts_and_shows_failures_first(mixed):
    *_, page = mixed
    assert page.text.index("1 of 5 samples predicted") < page.text.index("4 samples failed")
    assert page.text.index("Failed") < page.text.index("Finished")
    assert page.text.count("What to do: scan again") == 1
    assert "script" not in page.tags


def test_a_page_of_many_rows_stays_small_and_counts_them_all(tmp_path):
    names = [f"S{number}" for number in range(700)]
    statuses = [
        record
        for number, name in enumerate(names)
        for record in (
            [failed(name, "tile")] if number < 250 else [*finished(name)[:-1], reported(name, "reserved", "ink")]
        )
    ]
    _, table, page = run(tmp_path, [sample(name) for name in names], statuses)
    assert len(table) == 700
    assert "failed in tile: DataError 250 reservation: ink 450" in page.text
    assert page.text.count("What to do: scan again") == 100
    assert [link for link in page.links if link.startswith("S")] == [f"{n}/{n}.html" for n in names[250:350]] * 2
    for total in (250, 450):
        assert f"The first 100 of {total}; every row is in summary.parquet" in page.text
    assert (tmp_path / "summary.html").stat().st_size < 200_000


def test_a_sample_without_a_page_is_not_linked(tmp_path):
    without = [record.model_copy(update={"facts": {**record.facts, "page": "none"}}) for record in finished("B")]
    _, _, page = run(tmp_path, [sample("A"), sample("B")], [*finished("A"), *without])
    assert page.links == ["A/A.html", "summary.parquet"]


def test_the_page_of_the_cohort_is_linked_where_a_slide_was_predicted(tmp_path):
    check = CheckRecord(bundle_digest="sha256:" + "b" * 64, samples=(sample("A"),))
    for statuses, is_linked in ((finished("A"), True), ([failed("A", "tile")], False)):
        write_summary(check, statuses, tmp_path, has_cohort=True)
        assert ("cohort/cohort.html" in Page(tmp_path / "summary.html").links) is is_linked


def test_pages_of_finished_samples_are_linked_from_where_the_summary_lies(mixed):
    *_, page = mixed
    assert page.links == ["A/A.html", "summary.parquet"]


def test_figures_come_from_the_stages(mixed):
    _, _, table, page = mixed
    row = table.row(0, named=True)
    assert (row["tiles"], row["unreadable"], row["genes"], row["ood_flagged"]) == (1204, 3, 250, 12)
    assert (row["tissue_area_mm2"], row["tiles_per_s"], row["mean_val_pcc"]) == (12.25, 210.5, 0.24)
    assert [row[f"{stage}_s"] for stage in ("tile", "encode", "predict", "report")] == [2.5, 6.0, 4.0, 1.0]
    assert "predicted 1,204 12.2 3 1.0\u202f% 250 14" in page.text


def test_multiqc_shows_every_sample_with_what_is_known_of_it(mixed, tmp_path):
    folder = mixed[0]
    done = subprocess.run(
        [
            Path(sys.executable).with_name("multiqc"),
            folder,
            "--outdir",
            tmp_path / "multiqc",
            "--quiet",
            "--no-version-check",
        ],
        env={**os.environ, "MPLCONFIGDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (table,) = (tmp_path / "multiqc").rglob("multiqc_histocast*.txt")
    shown = pl.read_csv(table, separator="\t", infer_schema=False)
    assert sorted(shown["Sample"]) == ["A", "B", "C", "D", "E"]
    row = shown.row(by_predicate=pl.col("Sample") == "A", named=True)
    assert (row["outcome"], float(row["unusual_percent"])) == ("ok", pytest.approx(1.0, abs=0.01))
    failed_row = shown.row(by_predicate=pl.col("Sample") == "B", named=True)
    assert failed_row["outcome"] == "failed in encode"
    assert not failed_row["spots"]
    assert SECRET not in (tmp_path / "multiqc" / "multiqc_report.html").read_text()


def test_metadata_travel_to_the_status_and_the_table_and_never_into_a_path(tmp_path):
    samples = [sample("A", metadata={"site": "North", "age": "61"}), sample("B", metadata={"grade": "2"}), sample("C")]
    _, table, _ = run(tmp_path, samples, [status for name in "ABC" for status in finished(name)])
    assert table.select("^meta.*$").to_dict(as_series=False) == {
        "meta.site": ["North", None, None],
        "meta.age": ["61", None, None],
        "meta.grade": [None, "2", None],
    }
    assert read_record(tmp_path / "A" / "status.json", SampleStatus).metadata == {"site": "North", "age": "61"}
    assert not [path for path in tmp_path.rglob("*") if "North" in path.name]


def test_status_files_hold_every_stage_up_to_the_end(mixed):
    folder, results, *_ = mixed
    for result in results:
        assert read_record(folder / result.sample / "status.json", SampleStatus) == result
    assert [stage.stage for stage in results[0].stages] == ["check", "tile", "encode", "predict", "report"]
    assert [stage.stage for stage in results[1].stages] == ["check", "tile", "encode"]


def test_no_output_names_a_slide_by_its_file(mixed):
    folder, *_ = mixed
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".parquet":
            assert SECRET not in path.read_text(), path
    assert SECRET not in str(pl.read_parquet(folder / "summary.parquet").to_dicts())
    assert "the slide of B" in (folder / "B" / "status.json").read_text()


def test_of_two_records_of_one_stage_the_failed_one_counts(tmp_path):
    for statuses in ([*finished("A"), failed("A", "encode")], [failed("A", "encode"), *finished("A")]):
        results, *_ = run(tmp_path, [sample("A")], statuses)
        assert results[0].outcome == "failed"


def test_a_record_of_an_unknown_sample_is_refused(tmp_path):
    with pytest.raises(DataError, match="'Z'"):
        run(tmp_path, [sample("A")], finished("Z"))


def test_all_well(tmp_path):
    results, table, page = run(tmp_path, [sample("A"), sample("B b")], [*finished("A"), *finished("B b", tiles=0)])
    assert {result.outcome for result in results} == {"ok"}
    assert table["message"].null_count() == 2
    assert "2 of 2 samples predicted Every sample was predicted, without reservations." in page.text
    assert "B%20b/B%20b.html" in page.links


def test_the_verdict_of_each_sample_reaches_every_account_of_the_batch(tmp_path):
    statuses = [*finished("A"), *finished("B")[:-1], reported("B", "reserved", "ink", "out_of_focus")]
    statuses += [*finished("C", tiles=0)[:-1], reported("C", "empty", "no_tissue"), failed("D", "tile")]
    results, table, page = run(tmp_path, [sample(name) for name in "ABCD"], statuses)
    assert table["outcome"].to_list() == ["ok", "ok", "ok", "failed"], "a verdict does not change the outcome"
    assert table["verdict"].to_list() == ["good", "reserved", "empty", None]
    assert table["reservations"].to_list() == [[], ["ink", "out_of_focus"], ["no_tissue"], None]
    assert table["reservation_texts"].to_list()[1] == ["The words of ink.", "The words of out_of_focus."]
    for result in results:
        assert read_record(tmp_path / result.sample / "status.json", SampleStatus) == result
    assert [result.verdict and result.verdict.level for result in results] == ["good", "reserved", "empty", None]
    for said in (
        "2 of 4 samples predicted",
        "1 sample failed. 1 sample finished with nothing predicted. 1 sample predicted with reservations.",
        "B Headline of B The words of ink. The words of out_of_focus.",
        "C Headline of C The words of no_tissue.",
    ):
        assert said in page.text, said
    assert "Headline of A" not in page.text


def test_a_sheet_without_rows(tmp_path):
    _, table, page = run(tmp_path, [], [])
    assert table.height == 0
    assert "The samplesheet has no row" in page.text


def test_messages_are_escaped(tmp_path):
    *_, page = run(tmp_path, [sample("A")], [failed("A", "tile", "<script>alert(1)</script>")])
    assert "script" not in page.tags
    assert "<script>alert(1)" in page.text


def test_the_table_is_the_stated_artifact(mixed):
    file, provenance = open_parquet(mixed[0] / "summary.parquet", SUMMARY)
    assert file.schema_arrow.names == [column.name for column in SUMMARY.columns]
    assert provenance.inputs["bundle"].startswith("sha256:")
