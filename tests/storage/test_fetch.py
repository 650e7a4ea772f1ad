"""Small files and bundles come into folders whole, once, and under the name of their content."""

from __future__ import annotations

from pathlib import Path

import pytest

from faulty_proxy import BUCKET
from histocast.bundle import verify_files
from histocast.errors import ConfigError, DataError, MissingInputError, UsageError
from histocast.storage import fetch_bundle, fetch_file, open_source
from sample_bundle import write_bundle

PREFIX = f"s3://{BUCKET}/bundles/v1"


@pytest.fixture
def uploaded(bucket, tmp_path: Path) -> Path:
    """A bundle's folder, which also lies in the bucket."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    write_bundle(folder)
    upload(bucket, folder)
    return folder


def upload(client, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), BUCKET, f"bundles/v1/{path.relative_to(folder)}")


def test_a_local_file_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "spots.tsv"
    path.write_text("x\ty\n")
    assert fetch_file(str(path), tmp_path / "elsewhere") == path
    with pytest.raises(MissingInputError):
        fetch_file(str(tmp_path / "absent.tsv"), tmp_path)
    with pytest.raises(DataError, match="a folder"):
        fetch_file(str(tmp_path), tmp_path)


def test_an_object_keeps_its_name(bucket, tmp_path: Path) -> None:
    bucket.put_object(Bucket=BUCKET, Key="tables/C6_selection.tsv", Body=b"x\ty\n")
    path = fetch_file(f"s3://{BUCKET}/tables/C6_selection.tsv", tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "C6_selection.tsv"
    assert path.read_bytes() == b"x\ty\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_bundle_comes_whole_and_once(uploaded: Path, proxy, tmp_path: Path) -> None:
    folder = fetch_bundle(PREFIX + "/", tmp_path / "cache")
    from histocast.bundle import read_bundle

    verify_files(folder, read_bundle(folder))
    before = len(proxy.requests)
    assert fetch_bundle(PREFIX, tmp_path / "cache") == folder
    assert len(proxy.requests) - before == 2, "only bundle.json is asked for again"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_few_files_of_a_bundle(uploaded: Path, tmp_path: Path) -> None:
    folder = fetch_bundle(PREFIX, tmp_path / "cache", files=("bundle.json",))
    assert [path.name for path in folder.iterdir()] == ["bundle.json"]
    folder = fetch_bundle(PREFIX, tmp_path / "cache", files=("genes.parquet",))
    assert sorted(path.name for path in folder.iterdir()) == ["bundle.json", "genes.parquet"]


def test_a_damaged_bundle_does_not_reach_the_cache(uploaded: Path, bucket, tmp_path: Path) -> None:
    data = bytearray((uploaded / "fusion.onnx").read_bytes())
    data[100] ^= 1
    bucket.put_object(Bucket=BUCKET, Key="bundles/v1/fusion.onnx", Body=bytes(data))
    with pytest.raises(ConfigError, match="damaged or exchanged"):
        fetch_bundle(PREFIX, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("fusion.onnx"))
    bucket.delete_object(Bucket=BUCKET, Key="bundles/v1/fusion.onnx")
    with pytest.raises(MissingInputError, match=r"fusion\.onnx"):
        fetch_bundle(PREFIX, tmp_path / "cache")


def test_what_is_no_bundle(bucket, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="check --bundle"):
        fetch_bundle(str(tmp_path), tmp_path / "cache")
    with pytest.raises(MissingInputError, match=r"bundle\.json"):
        fetch_bundle(f"s3://{BUCKET}/nothing", tmp_path / "cache")
    bucket.put_object(Bucket=BUCKET, Key="odd/bundle.json", Body=b"{}")
    with pytest.raises(ConfigError):
        fetch_bundle(f"s3://{BUCKET}/odd", tmp_path / "cache")


@pytest.mark.parametrize("scheme", ["gs", "az", "abfss", "https"])
def test_the_address_of_another_store_is_refused_by_name(tmp_path: Path, scheme: str) -> None:
    uri = f"{scheme}://lab/PATIENT_7"
    for use in (lambda: open_source(uri, name="slide of sample S1"), lambda: fetch_bundle(uri, tmp_path)):
        with pytest.raises(UsageError, match=f"a {scheme}:// address") as raised:
            use()
        assert "s3://bucket/key" in str(raised.value)
        assert "PATIENT" not in str(raised.value)
