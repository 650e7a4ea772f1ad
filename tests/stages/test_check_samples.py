"""CHECK knows what is there before a slide is opened, whether on disk or in a store."""

from __future__ import annotations

import http.server
import threading
import time
from pathlib import Path

import boto3
import numpy as np
import pytest

from described_bundle import gene_texts, write_described_bundle, write_descriptions
from histocast.bundle import bundle_digest
from histocast.errors import ConfigError, DataError, MissingInputError, StorageUnavailable
from histocast.stages.check import Check
from histocast.stages.check_samples import check_samples
from histocast.storage import s3
from sample_bundle import write_bundle
from several_files import write_mirax


@pytest.fixture
def bundle(tmp_path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def sheet(tmp_path):
    def write(*rows: str) -> Path:
        path = tmp_path / "sheet.csv"
        path.write_text("\n".join(["sample,slide,mpp,spots", *rows]) + "\n")
        return path

    return write


@pytest.fixture
def bucket(s3_endpoint):
    client = boto3.client("s3")
    client.create_bucket(Bucket="slides")
    yield client
    client.close()


@pytest.mark.parametrize("within_slide", [False, True])
def test_a_bundle_that_cannot_compare_slides_is_refused_before_the_first_one_where_a_cohort_is_wanted(
    tmp_path, sheet, within_slide
):
    (tmp_path / "a.svs").write_bytes(b"x")
    write_bundle(tmp_path / "bundle", standardise_within_slide=within_slide)
    asked = {"input": sheet("S1,a.svs,0.5,"), "bundle": tmp_path / "bundle", "outdir": tmp_path / "out"}
    Check(**asked).run()
    wanted = Check(**asked, cohort=True)
    if not within_slide:
        assert wanted.run().samples[0].sample == "S1"
        return
    with pytest.raises(ConfigError, match=r"bundle tiny 1\.2\.0: a bundle that sees each slide relative to itself"):
        wanted.run()


def test_local_rows_get_version_and_size(tmp_path, bundle, sheet):
    (tmp_path / "a.svs").write_bytes(b"x" * 1234)
    (tmp_path / "spots.csv").write_text("x,y\n1,2\n")
    record = check_samples(sheet("S1,a.svs,0.5,spots.csv", "S2,a.svs,,"), bundle_folder=bundle)
    first, second = record.samples
    assert (first.sample, first.slide, first.mpp) == ("S1", str(tmp_path / "a.svs"), 0.5)
    assert first.spots == str(tmp_path / "spots.csv")
    assert first.size_bytes == second.size_bytes == 1234
    assert first.version == second.version
    assert first.spots_version is not None
    assert second.spots_version is None
    assert record.bundle_digest == bundle_digest(bundle)
    assert record.genes_digest is None


def test_missing_slides_and_wrong_cells_are_told_together(tmp_path, bundle, sheet):
    (tmp_path / "a.svs").touch()
    (tmp_path / "folder").mkdir()
    path = sheet("S1,a.svs,,gone.tsv", "S2,b.svs,,", "S3,folder,,", "S4,a.svs,0,")
    with pytest.raises(DataError) as caught:
        check_samples(path, bundle_folder=bundle)
    message = caught.value.message
    assert "4 errors found" in message
    assert "line 2, column 'spots': spots of sample S1: no such file" in message
    assert "line 3, column 'slide': slide of sample S2: no such file" in message
    assert "a relative path begins at the samplesheet's folder" in message
    assert "line 4, column 'slide': slide of sample S3: a folder" in message
    assert "line 5, column 'mpp'" in message


def test_companions_are_recorded_and_slides_that_lack_them_are_refused(tmp_path, bundle, sheet):
    slide = write_mirax(tmp_path / "a.mrxs", np.zeros((256, 256, 3), np.uint8))
    (tmp_path / "link.mrxs").symlink_to(slide)
    record = check_samples(sheet("S1,link.mrxs,,"), bundle_folder=bundle).samples[0]
    assert record.files == (str(slide), str(tmp_path / "a"))
    (tmp_path / "a" / "new.dat").touch()
    assert check_samples(sheet("S1,link.mrxs,,"), bundle_folder=bundle).samples[0].companions_version not in (
        None,
        record.companions_version,
    )
    (tmp_path / "b.mrxs").write_bytes(b"x")
    with pytest.raises(DataError, match="line 2, column 'slide': slide of sample S1: a MIRAX index file without"):
        check_samples(sheet("S1,b.mrxs,,"), bundle_folder=bundle)


@pytest.mark.parametrize("suffix", [".mrxs", ".VMS", ".vmu", ".dcm", ".afi", ".vsi"])
def test_slides_of_several_files_in_a_store_are_refused_before_it_is_asked(bundle, sheet, suffix):
    path = sheet(f"S1,s3://nowhere/a{suffix},,")
    with pytest.raises(DataError, match="line 2, column 'slide': slide of sample S1: ") as caught:
        check_samples(path, bundle_folder=bundle)
    assert "pyramidal TIFF" in caught.value.message
    record = check_samples(path, bundle_folder=bundle, on_slide_error="skip").samples[0]
    assert record.error.kind == "DataError"


def test_skip_writes_missing_slides_down_and_keeps_the_others(tmp_path, bundle, sheet):
    (tmp_path / "a.svs").touch()
    record = check_samples(sheet("S1,a.svs,,", "S2,b.svs,,"), bundle_folder=bundle, on_slide_error="skip")
    first, second = record.samples
    assert first.error is None
    assert second.error is not None
    assert (second.error.kind, second.error.exit_code) == ("MissingInputError", 66)
    assert "sample S2" in second.error.message
    assert "b.svs" not in second.error.message
    assert second.version is None
    with pytest.raises(DataError, match="duplicate sample"):
        check_samples(sheet("S1,a.svs,,", "S1,b.svs,,"), bundle_folder=bundle, on_slide_error="skip")


def test_objects_of_a_store(bundle, sheet, bucket):
    bucket.put_object(Bucket="slides", Key="a.svs", Body=b"12345")
    bucket.put_object(Bucket="slides", Key="deep/spots.csv", Body=b"x,y\n1,2\n")
    path = sheet("S1,s3://slides/a.svs,,s3://slides/deep/spots.csv")
    before = check_samples(path, bundle_folder=bundle).samples[0]
    assert before.size_bytes == 5
    assert before.version == bucket.head_object(Bucket="slides", Key="a.svs")["ETag"].strip('"')
    bucket.put_object(Bucket="slides", Key="a.svs", Body=b"54321")
    after = check_samples(path, bundle_folder=bundle).samples[0]
    assert after.version != before.version
    assert after.spots_version == before.spots_version


def test_missing_objects_buckets_and_keys(bundle, sheet, bucket):
    path = sheet("S1,s3://slides/none.svs,,", "S2,s3://nowhere/a.svs,,", "S3,s3://slides,,")
    with pytest.raises(DataError) as caught:
        check_samples(path, bundle_folder=bundle)
    message = caught.value.message
    assert "3 errors found" in message
    assert "line 2, column 'slide': slide of sample S1: no such" in message
    assert "line 3, column 'slide': slide of sample S2: no such" in message
    assert "s3://bucket/key" in message


def test_a_samplesheet_in_a_store_resolves_paths_beside_it(bundle, bucket):
    bucket.put_object(Bucket="slides", Key="batch/a.svs", Body=b"12345")
    bucket.put_object(Bucket="slides", Key="batch/sheet.csv", Body=b"sample,slide\nS1,a.svs\n")
    record = check_samples("s3://slides/batch/sheet.csv", bundle_folder=bundle)
    assert record.samples[0].slide == "s3://slides/batch/a.svs"


class Store(http.server.BaseHTTPRequestHandler):
    """A store that answers after a delay, with what its class says, and counts how many wait."""

    protocol_version = "HTTP/1.1"
    status = 206
    delay_s = 0.0
    counting = threading.Lock()
    waiting = most_at_once = 0

    def do_GET(self) -> None:
        self._count(1)
        time.sleep(self.delay_s)
        self._count(-1)
        self.send_response(self.status)
        self.send_header("Content-Length", "1")
        self.send_header("Content-Range", "bytes 0-0/7")
        self.send_header("ETag", '"abc"')
        self.end_headers()
        self.wfile.write(b"x")

    def _count(self, change: int) -> None:
        with self.counting:
            type(self).waiting += change
            type(self).most_at_once = max(self.waiting, self.most_at_once)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def store(s3_endpoint, monkeypatch):
    """Start a store that answers with a status after a delay."""
    servers = []

    def start(status: int, delay_s: float = 0.0) -> type[Store]:
        handler = type("Handler", (Store,), {"status": status, "delay_s": delay_s})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        return handler

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_forbidden_slide_is_a_fault_or_is_skipped(tmp_path, bundle, sheet, store):
    store(403)
    (tmp_path / "b.svs").touch()
    path = sheet("S1,s3://private/a.svs,,", "S2,b.svs,,")
    with pytest.raises(DataError, match="forbidden"):
        check_samples(path, bundle_folder=bundle)
    record = check_samples(path, bundle_folder=bundle, on_slide_error="skip")
    assert record.samples[0].error.kind == "MissingInputError"


def test_where_no_slide_can_be_read_none_is_blamed(bundle, sheet):
    path = sheet("S1,gone/a.svs,,", "S2,gone/b.svs,,")
    with pytest.raises(MissingInputError, match="none of 2 slides can be read") as caught:
        check_samples(path, bundle_folder=bundle, on_slide_error="skip")
    assert "mounted" in caught.value.message
    assert "gone" not in caught.value.message


@pytest.mark.parametrize("on_slide_error", ["fail", "skip"])
def test_a_store_that_is_down_is_no_fault_of_the_sheet(bundle, sheet, store, monkeypatch, on_slide_error):
    monkeypatch.setattr(s3, "BACKOFF_S", 0.001)
    store(503)
    with pytest.raises(StorageUnavailable) as caught:
        check_samples(sheet("S1,s3://slides/a.svs,,"), bundle_folder=bundle, on_slide_error=on_slide_error)
    assert caught.value.exit_code == 75


def test_stores_are_asked_at_once(bundle, sheet, store):
    """Many objects, each of which is answered late, are asked for side by side."""
    handler = store(206, delay_s=0.05)
    path = sheet(*(f"S{number},s3://slides/{number}.svs,," for number in range(200)))
    record = check_samples(path, bundle_folder=bundle)
    assert len(record.samples) == 200
    assert {sample.version for sample in record.samples} == {"abc"}
    assert handler.most_at_once > 8


def test_a_damaged_bundle_is_refused(tmp_path, bundle, sheet):
    (tmp_path / "a.svs").touch()
    graph = bundle / "fusion.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(ConfigError, match="sha256"):
        check_samples(sheet("S1,a.svs,,"), bundle_folder=bundle)


def test_the_panel_is_held_to_the_bundle(tmp_path, bundle, sheet):
    (tmp_path / "a.svs").touch()
    panel = tmp_path / "panel.txt"
    panel.write_text("GENE7\nGENE3\n")
    record = check_samples(sheet("S1,a.svs,,"), bundle_folder=bundle, genes=panel)
    assert record.genes_digest.startswith("sha256:")
    panel.write_text("GENE7\nGENES3\n")
    with pytest.raises(DataError, match="line 2: unknown gene 'GENES3'"):
        check_samples(sheet("S1,a.svs,,"), bundle_folder=bundle, genes=panel)


def test_the_panel_may_name_a_gene_otherwise_than_the_bundle(tmp_path, root, sheet):
    (tmp_path / "a.svs").touch()
    panel = tmp_path / "panel.txt"
    panel.write_text("HER2\nKRT8\n")
    bundle = root / "assets" / "demo-bundle"
    assert check_samples(sheet("S1,a.svs,,"), bundle_folder=bundle, genes=panel, report_genes="HER2").genes_digest
    panel.write_text("HER2\nERBB2\n")
    with pytest.raises(DataError, match="'ERBB2' is already on line 1"):
        check_samples(sheet("S1,a.svs,,"), bundle_folder=bundle, genes=panel)


def test_nothing_there(tmp_path, bundle, sheet):
    (tmp_path / "a.svs").touch()
    with pytest.raises(MissingInputError):
        check_samples(tmp_path / "none.csv", bundle_folder=bundle)
    with pytest.raises(MissingInputError):
        check_samples(sheet("S1,a.svs,,"), bundle_folder=tmp_path / "none")


def test_genes_of_the_pages_are_held_to_what_is_predicted(tmp_path, bundle, sheet):
    (tmp_path / "a.svs").touch()
    panel = tmp_path / "panel.txt"
    panel.write_text("GENE0\nGENE2\n")
    rows = sheet("S1,a.svs,,")
    check_samples(rows, bundle_folder=bundle, report_genes="GENE1, GENE2")
    check_samples(rows, bundle_folder=bundle, genes=panel, report_genes="GENE2")
    with pytest.raises(DataError, match=r"(?s)--report_genes.*unknown gene 'GENE1'"):
        check_samples(rows, bundle_folder=bundle, genes=panel, report_genes="GENE1,GENE2")


def test_genes_that_the_model_cannot_take_are_refused_before_any_slide_is_opened(tmp_path, bundle, sheet):
    (tmp_path / "a.svs").write_bytes(b"x")
    rows = sheet("S1,a.svs,0.5,")
    genes = {"ENSG00000000001": "GENE1", "ENSG00000000901": "ZZZ1"}
    described = write_descriptions(tmp_path / "genes.parquet", genes, gene_texts(2))
    with pytest.raises(ConfigError, match="1 genes outside the panel: ZZZ1"):
        check_samples(rows, bundle_folder=bundle, genes=described)
    write_described_bundle(tmp_path / "dkan")
    record = check_samples(rows, bundle_folder=tmp_path / "dkan", genes=described)
    assert record.genes_digest is not None
    write_descriptions(described, genes, gene_texts(2), encoder="biobert/lasttoken/raw/512", revision="abc")
    with pytest.raises(ConfigError, match=r"(?s)biobert/lasttoken/raw/512 of revision abc.*minilm/mean/normalised/256"):
        check_samples(rows, bundle_folder=tmp_path / "dkan", genes=described)
