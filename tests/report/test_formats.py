"""What other programs open: tiles for QuPath, and the AnnData file as Zarr, hold what the AnnData file holds."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from pathlib import Path

import anndata
import cv2
import numpy as np
import pytest
import zarr

from histocast.artifacts import write_folder_atomically, write_json
from histocast.bundle import bundle_digest
from histocast.errors import ConfigError, OutputError, UsageError
from histocast.expression.zarr_file import write_zarr
from histocast.report.pictures import TISSUE, read_tissue
from histocast.stages import report
from histocast.stages.check import Check
from histocast.stages.predict_slide import PredictSlide
from histocast.stages.report import Report, read_formats
from predicted_sample import predict, write_report
from sample_bundle import SlideFiles, write_bundle, write_slide_files

TILE_PX = 224


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SlideFiles, anndata.AnnData]:
    folder = tmp_path_factory.mktemp("formats")
    write_bundle(folder / "bundle")
    files = write_slide_files(folder, bundle_digest(folder / "bundle"), columns=30, rows=24, unreadable=(375, 376))
    predict(files, folder / "bundle", folder)
    write_report(files, folder, geojson=folder / "S1.geojson", report_genes="GENE3,GENE5")
    return folder, files, anndata.read_h5ad(folder / "S1.h5ad")


def features(folder: Path, kind: str) -> list[dict]:
    found = json.loads((folder / "S1.geojson").read_text(), parse_constant=pytest.fail)
    assert found["type"] == "FeatureCollection"
    return [each for each in found["features"] if each["properties"]["objectType"] == kind]


def test_tiles_lie_where_they_were_read_and_measure_what_was_predicted(made):
    folder, _, data = made
    tiles = features(folder, "detection")
    rings = np.array([tile["geometry"]["coordinates"][0] for tile in tiles])
    assert rings.shape == (data.n_obs, 5, 2)
    assert (rings[:, 0] == rings[:, -1]).all()
    np.testing.assert_allclose(rings.min(axis=1), data.obsm["spatial"] - TILE_PX / 2)
    np.testing.assert_allclose(rings.max(axis=1), data.obsm["spatial"] + TILE_PX / 2)
    assert [tile["properties"]["name"] for tile in tiles] == [f"tile{tile}" for tile in data.obs["tile_id"]]
    genes = data.to_df().set_axis(data.var["gene_symbol"], axis=1)
    for symbol in ("GENE3", "GENE5"):
        measured = [tile["properties"]["measurements"].get(symbol, np.nan) for tile in tiles]
        np.testing.assert_allclose(measured, genes[symbol], rtol=1e-5)
    unreadable = (data.obs["status"] != "ok").to_numpy()
    assert unreadable.sum() == 2
    assert [tile["properties"]["measurements"] == {} for tile in tiles] == list(unreadable)


def test_the_outline_of_the_tissue_is_that_of_its_mask(made):
    folder, files, _ = made
    mask = read_tissue(files.tissue, sample="S1") == TISSUE
    to_thumbnail = files.record.um_per_px / files.record.thumbnail_um_per_px
    drawn = np.zeros(mask.shape, np.uint8)
    for piece in features(folder, "annotation"):
        assert piece["properties"]["name"] == "Tissue"
        rings = [np.array(ring) * to_thumbnail - 0.5 for ring in piece["geometry"]["coordinates"]]
        cv2.fillPoly(drawn, [np.rint(ring).astype(np.int32) for ring in rings], 1)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.95


def test_zarr_holds_what_the_anndata_file_holds(made, tmp_path):
    folder, _, data = made
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        write_zarr(tmp_path / f"{number}.zarr.zip", folder / "S1.h5ad", scratch=tmp_path / str(number))
    assert (tmp_path / "1.zarr.zip").read_bytes() == (tmp_path / "2.zarr.zip").read_bytes()
    with zarr.storage.ZipStore(tmp_path / "1.zarr.zip", mode="r") as store:
        found = anndata.read_zarr(store)
    np.testing.assert_array_equal(found.X, data.X)
    assert set(found.layers) == set(data.layers)
    for name in data.layers:
        np.testing.assert_array_equal(found.layers[name], data.layers[name])
    assert found.obs.equals(data.obs)
    assert found.var.equals(data.var)
    np.testing.assert_array_equal(found.obsm["spatial"], data.obsm["spatial"])
    assert found.uns["histocast"]["inputs"] == data.uns["histocast"]["inputs"]


def test_the_stage_writes_what_is_asked_for_and_states_a_verdict_without_a_page(made, tmp_path):
    folder, files, _ = made
    write_json(tmp_path / "slide.json", files.record)
    given = {"tiles": files.tiles, "thumbnail": files.thumbnail, "tissue": files.tissue}
    facts = Report(
        **given,
        slide_record=tmp_path / "slide.json",
        expression=folder / "S1.h5ad",
        no_page=True,
        formats="h5ad,geojson,zarr",
        outdir=tmp_path / "S1",
    ).run()
    assert {path.name for path in (tmp_path / "S1").iterdir()} == {"S1.geojson", "S1.zarr.zip", "report.status.json"}
    assert facts["page"] == "none"
    for kind in ("geojson", "zarr.zip"):
        content = (tmp_path / "S1" / f"S1.{kind}").read_bytes()
        assert facts[f"{kind}_sha256"] == hashlib.sha256(content).hexdigest()
    status = json.loads((tmp_path / "S1" / "report.status.json").read_text())
    assert status["verdict"]["level"] in ("good", "reserved")


@pytest.mark.parametrize(
    ("text", "expected"), [(None, set()), ("zarr", {"zarr"}), ("h5ad, geojson", {"h5ad", "geojson"})]
)
def test_formats_are_read(text, expected):
    assert read_formats(text) == expected


def test_an_unknown_format_is_refused():
    with pytest.raises(UsageError, match="unknown: loom"):
        read_formats("zarr,loom")


@pytest.mark.parametrize(
    "stage",
    [
        Check(input="absent.csv", bundle="absent", formats="h5ad,spatialdata"),
        PredictSlide(slide="absent.tiff", bundle="absent", formats="h5ad,spatialdata"),
    ],
    ids=lambda stage: type(stage).__name__,
)
def test_a_format_whose_library_is_absent_is_refused_before_any_work(stage, monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"spatialdata is not installed") as caught:
        stage.run()
    assert "pip install 'histocast[spatialdata]'" in caught.value.advice


class TestFolder:
    """A format that is a folder appears whole or not at all."""

    def write(self, path: Path, name: str, *, fails: bool = False) -> None:
        with write_folder_atomically(path) as folder:
            (folder / "part").mkdir(parents=True)
            (folder / "part" / name).write_text(name)
            if fails:
                raise OSError(errno.ENOSPC, "No space left on device", str(folder / "part" / name))

    def test_it_takes_the_place_of_an_older_one(self, tmp_path):
        for name in ("old", "new"):
            self.write(tmp_path / "S1.zarr", name)
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [
            "S1.zarr/part/new"
        ]

    def test_a_full_disk_leaves_the_older_one(self, tmp_path):
        self.write(tmp_path / "S1.zarr", "old")
        with pytest.raises(OutputError, match="No space left"):
            self.write(tmp_path / "S1.zarr", "new", fails=True)
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [
            "S1.zarr/part/old"
        ]

    def test_what_a_killed_process_of_this_number_left_is_no_part_of_it(self, tmp_path):
        with write_folder_atomically(tmp_path / "S1.zarr") as folder:
            pass_by = folder
            folder.mkdir()
        shutil.rmtree(tmp_path / "S1.zarr")
        pass_by.mkdir()
        (pass_by / "left").write_text("half")
        self.write(tmp_path / "S1.zarr", "new")
        assert [path.name for path in (tmp_path / "S1.zarr").iterdir()] == ["part"]
