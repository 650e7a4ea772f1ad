"""Bad input ends with a clear error, the right exit code and nothing half written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

USAGE, DATA, MISSING, OUTPUT, CONFIG = 64, 65, 66, 73, 78


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A plain picture with a pink disc, large enough for a few tiles; it states no resolution."""
    rows, columns = np.mgrid[:1024, :1024]
    disc = (rows - 512) ** 2 + (columns - 512) ** 2 < 400**2
    pixels = np.where(disc[..., None], np.uint8([200, 120, 170]), np.uint8([244, 243, 245]))
    noise = np.random.default_rng(0).integers(-12, 12, pixels.shape)
    path = tmp_path / "slide.png"
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def tile(histocast, demo_bundle: Path, tmp_path: Path):
    """Run ``histocast tile`` on a slide."""

    def run(slide: object, *options: object, outdir: Path = tmp_path / "out", **kwargs):
        arguments = ("tile", "--sample", "S1", "--slide", slide, "--bundle", demo_bundle, "--outdir", outdir)
        return histocast(*arguments, *options, **kwargs)

    return run


def assert_fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The exit code is right, the message holds every word, and no traceback is shown."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_good_input_passes(tile, slide: Path, tmp_path: Path) -> None:
    result = tile(slide, "--mpp", 0.5)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")} == {
        "slide.json", "tiles.parquet", "thumbnail.png", "tissue.png", "tile.status.json",
    }  # fmt: skip


def test_truncated_svs(tile, shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(whole[: len(whole) // 2])
    assert_fails(tile(path), DATA, "S1", "what to do")


def test_zero_byte_file(tile, tmp_path: Path) -> None:
    path = tmp_path / "empty.svs"
    path.touch()
    assert_fails(tile(path), DATA, "S1", "empty")


def test_text_named_svs(tile, tmp_path: Path) -> None:
    path = tmp_path / "text.svs"
    path.write_text("this is no slide\n" * 100)
    assert_fails(tile(path), DATA, "S1", "what to do")


def test_folder_as_slide(tile, tmp_path: Path) -> None:
    assert_fails(tile(tmp_path), DATA, "folder")


def test_missing_file(tile, tmp_path: Path) -> None:
    assert_fails(tile(tmp_path / "absent.svs"), MISSING, "what to do")


def test_file_that_may_not_be_read(tile, slide: Path) -> None:
    slide.chmod(0o000)
    assert_fails(tile(slide, "--mpp", 0.5, unprivileged=True), MISSING, "permission")


def test_slide_without_resolution(tile, slide: Path) -> None:
    assert_fails(tile(slide), DATA, "S1", "mpp", "samplesheet")


@pytest.mark.parametrize("mpp", [0, -0.5, 25])
def test_implausible_resolution(tile, slide: Path, mpp: float) -> None:
    assert_fails(tile(slide, "--mpp", mpp), DATA, "um/px", "mpp")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("x,y\n500,500\n5000,500\n", ("outside", "line 3")),
        ("x,y\n500,500\n500,500\n", ("duplicate", "line 3")),
        ("x,y\n500,abc\n", ("abc", "line 2")),
    ],
)
def test_bad_spots(tile, slide: Path, tmp_path: Path, table: str, words: tuple[str, ...]) -> None:
    spots = tmp_path / "spots.csv"
    spots.write_text(table)
    assert_fails(tile(slide, "--mpp", 0.5, "--spots", spots), DATA, *words)


def test_output_folder_not_writable(tile, slide: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert_fails(tile(slide, "--mpp", 0.5, outdir=tmp_path / "file" / "out"), OUTPUT, "what to do")


def test_full_disk_leaves_no_partial_file(tile, slide: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], check=True)
    try:
        assert_fails(tile(slide, "--mpp", 0.5, outdir=disk / "out"), OUTPUT, "space", "what to do")
        assert not list(disk.rglob("*partial*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_bundle_with_one_byte_flipped(histocast, demo_bundle: Path, slide: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(demo_bundle, tmp_path / "bundle")
    fusion = bundle / "fusion.onnx"
    damaged = bytearray(fusion.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    fusion.write_bytes(damaged)
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(f"sample,slide,mpp\nS1,{slide},0.5\n")
    result = histocast("check", "--input", sheet, "--bundle", bundle, "--outdir", tmp_path / "out")
    assert_fails(result, CONFIG, "fusion.onnx", "sha256")


def test_panel_with_unknown_gene(histocast, demo_bundle: Path, slide: Path, tmp_path: Path) -> None:
    sheet, panel = tmp_path / "sheet.csv", tmp_path / "panel.txt"
    sheet.write_text(f"sample,slide,mpp\nS1,{slide},0.5\n")
    panel.write_text("ERBB2\nERBB22\n")
    result = histocast(
        "check", "--input", sheet, "--bundle", demo_bundle, "--genes", panel, "--outdir", tmp_path / "out"
    )
    assert_fails(result, DATA, "ERBB22", "ERBB2", "line 2")


def test_bundle_folder_without_bundle(histocast, slide: Path, tmp_path: Path) -> None:
    result = histocast("tile", "--sample", "S1", "--slide", slide, "--bundle", tmp_path, "--outdir", tmp_path)
    assert_fails(result, MISSING, "bundle.json")


@pytest.mark.parametrize("arguments", [("tile", "--bogus"), ("tlie",), ("tile",), ("encode", "--threads", "0")])
def test_wrong_usage(histocast, arguments: tuple[str, ...]) -> None:
    assert_fails(histocast(*arguments), USAGE)


def test_tiny_slide_and_corner_cases_are_no_crash(tile, tmp_path: Path) -> None:
    path = tmp_path / "one_pixel.tif"
    tifffile.imwrite(path, np.full((1, 1, 3), 255, np.uint8), photometric="rgb")
    result = tile(path, "--mpp", 0.5)
    assert result.returncode == 0, result.stderr
    assert '"tile_count": 0' in (tmp_path / "out" / "slide.json").read_text()
