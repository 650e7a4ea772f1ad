"""Tiles lie where they say, carry what the masks show, and an empty slide is a result."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from histocast.artifacts import TILES, read_table
from histocast.bundle import TileGeometry
from histocast.errors import DataError
from histocast.records import SlideRecord, read_record
from histocast.slide import open_slide
from histocast.storage import open_source, sampled_digest
from histocast.tiles.grid import Grid
from histocast.tiles.quality import QualityMeter
from histocast.tiles.tile_slide import tile_slide
from histocast.tissue import TissueMap

GEOMETRY = TileGeometry(tile_px=112, um_per_px=1.0, pitch_um=112.0)
MPP = 0.8


def paint_slide(path: Path, *, width_px: int = 3001, height_px: int = 2203, tissue: bool = True) -> np.ndarray:
    """Write a PNG with an H&E-like block, a blue stroke and glass; return where the block is."""
    random = np.random.default_rng(2)
    block = np.zeros((height_px, width_px), bool)
    if tissue:
        block[500:1700, 600:2000] = True
    grain = cv2.GaussianBlur(random.normal(size=(height_px, width_px)).astype(np.float32), (0, 0), 8)
    nuclei = np.clip(0.35 + 0.2 * grain / grain.std(), 0, 1)
    absorbance = block[..., None] * nuclei[..., None] * np.array([0.6, 0.9, 0.3], np.float32)
    if tissue:
        absorbance[300:1900, 2300:2900] += np.array([0.93, 0.63, 0.15], np.float32)
    pixels = np.clip(242 * 10**-absorbance, 0, 255).astype(np.uint8)
    cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return block


@pytest.fixture
def tile(tmp_path):
    """Tile an image file and return its record and its table."""

    def run(path: Path, *, spots: Path | None = None, geometry: TileGeometry = GEOMETRY, mpp: float = MPP, **options):
        out = tmp_path / "out"
        with open_source(str(path)) as source:
            digest = sampled_digest(source)
            with open_slide(source, sample="S1", mpp=mpp, scratch=tmp_path) as slide:
                record = tile_slide(
                    slide,
                    sample="S1",
                    geometry=geometry,
                    spots=spots,
                    slide_digest=digest,
                    bundle_digest="sha256:b",
                    outdir=out,
                    **options,
                )
        table, provenance = read_table(out / "tiles.parquet", TILES)
        assert read_record(out / "slide.json", SlideRecord) == record
        assert provenance.inputs["slide"] == digest
        return record, table.to_pandas(), provenance

    return run


def test_grid_on_tissue(tile, tmp_path):
    block = paint_slide(tmp_path / "slide.png")
    record, tiles, provenance = tile(tmp_path / "slide.png")
    pitch_px = GEOMETRY.pitch_um / MPP
    columns = Grid(3001, 2203, pitch_px).columns
    assert record.layout == "grid"
    assert (record.width_px, record.height_px, record.um_per_px) == (3001, 2203, MPP)
    assert record.um_per_px_source == "samplesheet"
    assert np.allclose(tiles.x_level0_px, (tiles.array_col + 0.5) * pitch_px)
    assert np.allclose(tiles.y_level0_px, (tiles.array_row + 0.5) * pitch_px)
    assert (tiles.tile_id == tiles.array_row * columns + tiles.array_col).all()
    assert tiles.tile_id.is_monotonic_increasing
    assert tiles.spot.isna().all()
    half = pitch_px / 2
    truth = [
        block[max(0, round(y - half)) : round(y + half), max(0, round(x - half)) : round(x + half)].sum() / pitch_px**2
        for x, y in zip(tiles.x_level0_px, tiles.y_level0_px, strict=True)
    ]
    assert np.abs(tiles.tissue_fraction - truth).max() < 0.09  # 10 um, over which the mask is averaged
    assert (tiles.tissue_fraction > 0).all()
    assert (tiles.in_tissue == (tiles.tissue_fraction >= 0.5)).all()
    assert record.tile_count == tiles.in_tissue.sum() == len(tiles[tiles.tissue_fraction >= 0.5])
    assert record.tissue_area_mm2 == pytest.approx(block.sum() * (MPP / 1000) ** 2, rel=0.02)
    # The stroke, and 40 um around it.
    assert record.pen_fraction == pytest.approx(1700 * 700 / (3001 * 2203), rel=0.03)
    assert provenance.parameters["min_tissue"] == 0.5
    assert provenance.parameters["pitch_um"] == 112.0


def test_pictures_match_the_masks_and_the_thumbnail(tile, tmp_path):
    paint_slide(tmp_path / "slide.png")
    record, _, _ = tile(tmp_path / "slide.png")
    thumbnail = Image.open(tmp_path / "out" / "thumbnail.png")
    tissue = Image.open(tmp_path / "out" / "tissue.png")
    assert thumbnail.mode == "RGB"
    assert tissue.mode == "P"
    assert thumbnail.size == tissue.size
    assert max(thumbnail.size) <= 2048
    values = np.asarray(tissue)
    assert set(np.unique(values)) == {0, 1, 2}
    scale = MPP / record.thumbnail_um_per_px
    assert values[round(1000 * scale), round(1200 * scale)] == 1
    assert values[round(1000 * scale), round(2600 * scale)] == 2
    assert values[round(100 * scale), round(100 * scale)] == 0
    assert not thumbnail.info


def test_an_empty_slide_is_a_complete_result(tile, tmp_path):
    paint_slide(tmp_path / "slide.png", tissue=False)
    record, tiles, _ = tile(tmp_path / "slide.png")
    assert record.tile_count == 0
    assert record.tissue_area_mm2 == 0
    assert len(tiles) == 0
    assert not np.asarray(Image.open(tmp_path / "out" / "tissue.png")).any()


def test_a_slide_smaller_than_half_a_tile_has_no_tiles(tile, tmp_path):
    Image.new("RGB", (30, 40), (180, 120, 170)).save(tmp_path / "slide.png")
    record, tiles, _ = tile(tmp_path / "slide.png")
    assert (record.tile_count, len(tiles)) == (0, 0)


@pytest.mark.parametrize("min_tissue", [0.05, 0.5, 0.95])
def test_min_tissue_decides_on_a_grid(tile, tmp_path, min_tissue):
    paint_slide(tmp_path / "slide.png")
    _, tiles, _ = tile(tmp_path / "slide.png", min_tissue=min_tissue)
    assert (tiles.in_tissue == (tiles.tissue_fraction >= min_tissue)).all()


def test_measured_spots_keep_their_rows_and_their_say(tile, tmp_path):
    paint_slide(tmp_path / "slide.png")
    spots = tmp_path / "spots.tsv"
    spots.write_text(
        "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n"
        "5\t4\t0\t0\t1250\t1000\t1\n4\t4\t0\t0\t1000\t1000\t0\n1\t1\t0\t0\t250\t250\t1\n4\t5\t0\t0\t1000\t1250\t1\n"
        "10\t4\t0\t0\t2600\t1000\t1\n"
    )
    record, tiles, provenance = tile(tmp_path / "slide.png", spots=spots)
    assert record.layout == "spots"
    assert record.pitch_um == pytest.approx(250 * MPP)
    assert tiles.spot.tolist() == ["5x4", "4x4", "1x1", "4x5", "10x4"]
    assert tiles.tile_id.tolist() == [2, 1, 0, 4, 3]
    assert tiles.in_tissue.tolist() == [True, False, True, True, True]
    assert tiles.tissue_fraction.tolist() == pytest.approx([1, 1, 0, 1, 0], abs=0.01)
    assert tiles.pen_fraction.tolist() == pytest.approx([0, 0, 0, 0, 1], abs=0.01)
    assert record.tile_count == 4
    assert provenance.inputs["spots"].startswith("sha256:")
    assert "min_tissue" not in provenance.parameters


def test_spots_that_do_not_fit_the_slide_are_refused_before_anything_is_written(tile, tmp_path):
    paint_slide(tmp_path / "slide.png")
    spots = tmp_path / "spots.csv"
    spots.write_text("x,y\n10,10\n99999,10\n")
    with pytest.raises(DataError, match="line 3: spot 'spot1' at \\(99999, 10\\) lies outside"):
        tile(tmp_path / "slide.png", spots=spots)
    spots.write_text("x,y\n1,1\n2,1\n3,1\n")
    with pytest.raises(DataError, match="um apart"):
        tile(tmp_path / "slide.png", spots=spots)
    assert not (tmp_path / "out").exists()


def tissue_map(tissue: np.ndarray, *, blur: np.ndarray) -> TissueMap:
    none = np.zeros_like(tissue)
    return TissueMap(tissue, none, blur, unreadable=none, presumed=none, stain_absorbance=None, colourless=False)


def test_fractions_are_exact_between_thumbnail_pixels():
    """A tile of 10.3 thumbnail pixels at any offset meets a half plane in exactly its share."""
    tissue = np.zeros((200, 300), bool)
    tissue[:, 150:] = True
    found = tissue_map(tissue, blur=np.where(tissue, np.float32(0.25), np.float32(0)))
    downsample, extent = 13.7, 13.7 * 10.3
    meter = QualityMeter(found, downsample=downsample, extent_level0_px=extent)
    offsets = np.linspace(-extent, extent, 41)
    centres = np.stack([150 * downsample + offsets, np.full(41, 100 * downsample)], axis=1)
    quality = meter.measure(centres)
    assert np.allclose(quality.tissue_fraction, np.clip(0.5 + offsets / extent, 0, 1), atol=1e-5)
    assert np.allclose(quality.blur[quality.tissue_fraction > 0], 0.25, atol=1e-5)
    assert (quality.pen_fraction == 0).all()


@pytest.mark.parametrize("shift", [0, 1])
def test_what_lies_beyond_the_slide_is_not_tissue(shift):
    tissue = np.ones((100, 100), bool)
    found = tissue_map(tissue, blur=np.zeros((100, 100), np.float32))
    meter = QualityMeter(found, downsample=4.0, extent_level0_px=80.0)
    corners = np.array([[0.0, 0.0], [400, 0], [0, 400], [400, 400], [0, 200], [200, 400], [-500, 200]])
    assert meter.measure(corners).tissue_fraction.tolist() == pytest.approx([0.25] * 4 + [0.5] * 2 + [0])


@pytest.mark.parametrize(
    ("width_px", "height_px", "pitch"), [(1000, 700, 100.0), (1049, 751, 100.0), (1051, 749, 100.0), (977, 613, 33.37)]
)
def test_the_grid_holds_every_cell_whose_centre_lies_on_the_slide(width_px, height_px, pitch):
    grid = Grid(width_px, height_px, pitch)
    centres = np.concatenate([part.centres_level0_px for part in grid.parts()])
    ids = np.concatenate([part.tile_id for part in grid.parts()])
    assert ids.tolist() == list(range(grid.rows * grid.columns))
    assert (centres >= pitch / 2 - 1e-9).all()
    assert centres[:, 0].max() < width_px <= centres[:, 0].max() + pitch
    assert centres[:, 1].max() < height_px <= centres[:, 1].max() + pitch


def test_a_fine_grid_comes_in_bounded_parts():
    sizes = [len(part.tile_id) for part in Grid(100_000, 80_000, 100.0).parts()]
    assert sum(sizes) == 800_000
    assert max(sizes) <= 65_536


def test_real_slide(tile, shared_data, tmp_path):
    geometry = TileGeometry(tile_px=224, um_per_px=0.5, pitch_um=112.0)
    record, _, _ = tile(shared_data / "slides" / "CMU-1-Small-Region.svs", geometry=geometry, mpp=None)
    assert record.um_per_px == pytest.approx(0.499)
    assert record.um_per_px_source == "file"
    assert 40 <= record.tile_count <= 60
    assert 0.6 < record.tissue_area_mm2 < 0.72
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    for private in (b"ScanScope", b"SS1302", b"CMU-1", b"User = ", b"Date = "):
        assert private not in written
