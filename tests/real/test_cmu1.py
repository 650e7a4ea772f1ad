"""A real scanned slide, CMU-1-Small-Region.svs, from disk and from S3."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import boto3
import h5py
import numpy as np
import pytest

import histocast

# What the scanner wrote into the file about who scanned what and when; none of it may be in any output.
PRIVATE = ("b414003d", "CPAPERIOCS", "12/29/09", "09:59:15", "CMU-1", "ScanScope", "Aperio Image Library", "1004486")

FILES = ("S1.h5ad", "S1.parquet", "S1.html", "slide.json", "tiles.parquet", "features.parquet", "thumbnail.png")


@pytest.fixture(scope="module")
def slide(shared_data: Path) -> Path:
    return shared_data / "slides" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def from_disk(slide: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outdir = tmp_path_factory.mktemp("disk")
    histocast.predict_slide(slide, bundle=root / "assets" / "demo-bundle", outdir=outdir, sample="S1")
    return outdir


def every_string(path: Path) -> Iterator[str]:
    """Every byte of a file, and whatever an HDF5 file holds compressed, as text."""
    yield path.read_bytes().decode("latin-1")
    if path.suffix == ".h5ad":
        with h5py.File(path) as file:
            texts: list[str] = []
            file.visititems(
                lambda name, item: texts.extend(
                    [name, str(dict(item.attrs)), str(item[()]) if isinstance(item, h5py.Dataset) else ""]
                )
            )
            yield from texts


def test_all_stages_finish(from_disk: Path) -> None:
    assert all((from_disk / name).stat().st_size > 0 for name in FILES)


def test_spots_are_predicted_on_the_tissue(from_disk: Path) -> None:
    import anndata

    table = anndata.read_h5ad(from_disk / "S1.h5ad")
    assert 30 <= table.n_obs <= 120  # 1.1 x 1.5 mm, mostly tissue, tiles of 112 um
    assert np.isfinite(table.X).all()
    x, y = table.obsm["spatial"].T
    assert 0 < x.min() < x.max() < 2220
    assert 0 < y.min() < y.max() < 2967


def test_nothing_private_is_in_any_output(from_disk: Path) -> None:
    found = {
        (path.name, word)
        for path in from_disk.rglob("*")
        if path.is_file()
        for text in every_string(path)
        for word in PRIVATE
        if word in text
    }
    assert not found


def test_the_search_would_find_it(slide: Path) -> None:
    text = slide.read_bytes().decode("latin-1")
    assert all(word in text for word in PRIVATE)


def test_s3_gives_the_same_predictions(
    from_disk: Path, slide: Path, root: Path, tmp_path: Path, s3_endpoint: str
) -> None:
    import anndata

    client = boto3.client("s3")
    client.create_bucket(Bucket="archive")
    client.upload_file(str(slide), "archive", "slides/one.svs")
    histocast.predict_slide(
        "s3://archive/slides/one.svs", bundle=root / "assets" / "demo-bundle", outdir=tmp_path, sample="S1"
    )
    disk, s3 = (anndata.read_h5ad(folder / "S1.h5ad") for folder in (from_disk, tmp_path))
    for layer in (None, "sd", "lower", "upper"):
        first, second = (table.X if layer is None else table.layers[layer] for table in (disk, s3))
        assert zlib.crc32(np.ascontiguousarray(first)) == zlib.crc32(np.ascontiguousarray(second))
    assert disk.obs.equals(s3.obs)
    assert disk.uns["histocast"]["inputs"] == s3.uns["histocast"]["inputs"]


def test_a_bundle_on_s3_gives_the_same_predictions(
    from_disk: Path, slide: Path, root: Path, tmp_path: Path, s3_endpoint: str
) -> None:
    import anndata

    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    bundle = root / "assets" / "demo-bundle"
    for path in bundle.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "models", f"demo/{path.relative_to(bundle)}")
    histocast.predict_slide(slide, bundle="s3://models/demo", outdir=tmp_path, sample="S1")
    disk, s3 = (anndata.read_h5ad(folder / "S1.h5ad") for folder in (from_disk, tmp_path))
    np.testing.assert_array_equal(disk.X, s3.X)
