"""A slide in a bucket is the same slide, read in few requests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from faulty_proxy import BUCKET
from histocast.errors import DataError
from histocast.slide import read_plan
from made_slides import Pixels, Recipe, halved, paint_arrays, write_slide
from read_back import read_all


@pytest.fixture
def large(texture: Pixels, tmp_path: Path) -> Path:
    """4000 x 2331 px in 200 blocks of about 30 kB."""
    wide = np.tile(texture, (3, 4, 1))
    recipe = Recipe(4000, 2331, (240, 240), sizes=halved(4000, 2331, 4), quality=95)
    return write_slide(tmp_path / "large.svs", recipe, paint_arrays(wide, wide[2::4, 2::4]))


def test_same_facts_and_pixels(shared_data: Path, bucket, open_at) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    bucket.upload_file(str(path), BUCKET, "a/slide.svs")
    near, far = open_at(path), open_at(f"s3://{BUCKET}/a/slide.svs")
    assert near.facts == far.facts
    np.testing.assert_array_equal(near.thumbnail(500)[0], far.thumbnail(500)[0])
    centres = np.random.default_rng(0).uniform([0, 0], [2220, 2967], (50, 2))
    left, right = (read_all(slide, centres, tile_px=128, um_per_px=1.0)[0] for slide in (near, far))
    np.testing.assert_array_equal(left, right)


def test_a_few_tiles_are_a_few_requests_and_no_copy(large: Path, proxy, bucket, open_at, tmp_path: Path) -> None:
    bucket.upload_file(str(large), BUCKET, "large.svs")
    slide = open_at(f"s3://{BUCKET}/large.svs")
    header = len(proxy.requests)
    assert header <= 8
    centres = [(x, y) for x in range(300, 1500, 100) for y in range(300, 900, 100)]
    far, _, _ = read_all(slide, centres, tile_px=100, um_per_px=0.25)
    asked = [wanted for method, wanted in proxy.requests[header:] if method == "GET"]
    assert len(asked) <= 3, "one request per row of blocks"
    assert not list((tmp_path / "scratch").glob("*"))
    near, _, _ = read_all(open_at(large), centres, tile_px=100, um_per_px=0.25)
    np.testing.assert_array_equal(near, far)


def lengths_of(requests: list[tuple[str, str]]) -> list[int]:
    """Bytes of each range asked for."""
    ends = [asked.removeprefix("bytes=").split("-") for _, asked in requests]
    return [int(last) - int(first) + 1 for first, last in ends]


def test_a_slide_needed_whole_comes_in_few_requests_and_leaves_nothing_on_disk(
    large: Path, proxy, bucket, open_at, tmp_path: Path
) -> None:
    bucket.upload_file(str(large), BUCKET, "large.svs")
    centres = np.mgrid[0:4000:200, 0:2331:200].reshape(2, -1).T.astype(float)
    far = open_at(f"s3://{BUCKET}/large.svs")
    header = len(proxy.requests)
    tiles, _, _ = read_all(far, centres, tile_px=200, um_per_px=0.25)
    lengths = lengths_of(proxy.requests[header:])
    assert len(lengths) == 2, "a small one, so that decoding begins, and the rest"
    assert 0.5 < sum(lengths) / large.stat().st_size < 1
    # A copy on disk would hold the label, too.
    assert not (tmp_path / "scratch").exists()
    np.testing.assert_array_equal(tiles, read_all(open_at(large), centres, tile_px=200, um_per_px=0.25)[0])


def move_blocks(path: Path, *, from_row: int) -> None:
    """Let the lower rows of level 0 lie behind all else, as where a file was written twice."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        page, content = file.pages.first, bytearray(path.read_bytes())
        first = from_row * -(-page.imagewidth // page.tilewidth)
        offsets = list(page.dataoffsets)
        for block in range(first, len(offsets)):
            start, length = offsets[block], page.databytecounts[block]
            offsets[block] = len(content)
            content += content[start : start + length]
        page.tags["TileOffsets"].overwrite(offsets)
    with path.open("r+b") as file:
        file.seek(0, 2)
        file.write(content[file.tell() :])


@pytest.mark.parametrize("case", ["over half", "under half", "in two places"])
def test_all_is_read_where_over_half_is_needed(case: str, large: Path, proxy, bucket, open_at) -> None:
    """Rows at the top and at the bottom, with more between them than is read over else."""
    if case == "in two places":
        move_blocks(large, from_row=5)
    bucket.upload_file(str(large), BUCKET, "large.svs")
    edge = 500 if case == "under half" else 850
    rows = [*range(100, edge, 200), *range(2331 - edge, 2250, 200)]
    centres = [(x, y) for y in rows for x in range(100, 3950, 200)]
    far = open_at(f"s3://{BUCKET}/large.svs")
    header = len(proxy.requests)
    tiles, _, _ = read_all(far, centres, tile_px=200, um_per_px=0.25)
    brought, level_bytes = sum(lengths_of(proxy.requests[header:])), bytes_of_level_0(large)
    assert (brought > 0.5 * large.stat().st_size) == (case != "under half")
    # Where the label and the other levels lie between the rows, nothing between them is read.
    assert brought == level_bytes if case == "over half" else brought < 0.92 * level_bytes
    np.testing.assert_array_equal(tiles, read_all(open_at(large), centres, tile_px=200, um_per_px=0.25)[0])


@pytest.mark.parametrize(("most_bytes", "at_most"), [(300_000, 2.0), (3_000_000, 1.02)], ids=["pieces", "whole rows"])
def test_hardly_anything_is_brought_twice(
    most_bytes: int, at_most: float, large: Path, proxy, bucket, open_at, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of blocks is 450 kB: bands are as high as fits into one fetch, or come in pieces, without what is between."""
    monkeypatch.setattr(read_plan, "FIRST_REMOTE_FETCH_BYTES", most_bytes)
    monkeypatch.setattr(read_plan, "REMOTE_FETCH_BYTES", most_bytes)
    bucket.upload_file(str(large), BUCKET, "large.svs")
    centres = [(x, y) for y in range(100, 2250, 200) for x in range(100, 3950, 200)]
    far = open_at(f"s3://{BUCKET}/large.svs")
    header = len(proxy.requests)
    tiles, _, _ = read_all(far, centres, tile_px=200, um_per_px=0.25)
    assert 1 <= sum(lengths_of(proxy.requests[header:])) / bytes_of_level_0(large) <= at_most
    np.testing.assert_array_equal(tiles, read_all(open_at(large), centres, tile_px=200, um_per_px=0.25)[0])


def damage_blocks(path: Path, blocks: range) -> None:
    """Overwrite what is stored of some blocks of level 0."""
    with tifffile.TiffFile(path) as file:
        places = [(file.pages.first.dataoffsets[block], file.pages.first.databytecounts[block]) for block in blocks]
    with path.open("r+b") as stream:
        for start, length in places:
            stream.seek(start)
            stream.write(bytes(length))


@pytest.mark.parametrize("um_per_px", [0.25, 0.5], ids=["as stored", "shrunk"])
@pytest.mark.parametrize("carried_over_bytes", [0, 1_000_000, 1 << 30])
def test_what_bands_hand_on_are_the_same_pixels_and_the_same_damage(
    carried_over_bytes: int, um_per_px: float, large: Path, bucket, open_at, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Low bands, each of which ends within a row of blocks; a column of them is damaged."""
    monkeypatch.setattr(read_plan, "REMOTE_BAND_PX", 170)
    monkeypatch.setattr(read_plan, "FIRST_REMOTE_BAND_PX", 130)
    monkeypatch.setattr(read_plan, "REMOTE_CARRIED_OVER_BYTES", carried_over_bytes)
    damage_blocks(large, range(5, 170, 17))
    bucket.upload_file(str(large), BUCKET, "large.svs")
    centres = [(x, y) for y in range(-20, 2380, 120) for x in range(-20, 4050, 120)]
    options = {"tile_px": 120, "um_per_px": um_per_px, "batch_tiles": 50}
    near, readable, reasons = read_all(open_at(large), centres, **options)
    far, far_readable, far_reasons = read_all(open_at(f"s3://{BUCKET}/large.svs"), centres, **options)
    assert 0.05 < 1 - readable.mean() < 0.3
    np.testing.assert_array_equal(near, far)
    np.testing.assert_array_equal(readable, far_readable)
    assert reasons == far_reasons


def bytes_of_level_0(path: Path) -> int:
    with tifffile.TiffFile(path) as file:
        return sum(file.pages.first.databytecounts)


def test_a_format_only_openslide_reads_is_copied(texture: Pixels, bucket, open_at, tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, texture, photometric="rgb", tile=(128, 128), metadata=None, software="MedScan")
    bucket.upload_file(str(path), BUCKET, "slide.tif")
    slide = open_at(f"s3://{BUCKET}/slide.tif", mpp=0.5)
    assert slide.facts.reader == "openslide"
    tiles, _, _ = read_all(slide, [[500, 388.5]], tile_px=1000, um_per_px=0.5)
    np.testing.assert_array_equal(tiles[0][111:888], texture)


@pytest.mark.parametrize("where", ["store", "disk"])
def test_a_slide_of_several_files_is_not_taken_for_its_preview(
    where: str, texture: Pixels, bucket, open_at, tmp_path: Path
) -> None:
    """The index file of a MIRAX slide is a JPEG that shows the label: it must not pass as a plain image."""
    path = tmp_path / "slide.mrxs"
    path.write_bytes(cv2.imencode(".jpg", texture)[1].tobytes())
    bucket.upload_file(str(path), BUCKET, "slide.mrxs")
    with pytest.raises(DataError, match="copy the whole slide"):
        open_at(path if where == "disk" else f"s3://{BUCKET}/slide.mrxs", mpp=0.5)


@pytest.mark.parametrize("fate", ["503", "cut", "reset"])
def test_faults_change_no_pixel(fate: str, large: Path, proxy, bucket, open_at) -> None:
    bucket.upload_file(str(large), BUCKET, "large.svs")
    random = np.random.default_rng(4)
    unlucky = set(random.choice(400, 60, replace=False).tolist())
    proxy.fate = lambda number: fate if number in unlucky else "ok"
    centres = random.uniform([0, 0], [2000, 1200], (80, 2))
    far, readable, _ = read_all(open_at(f"s3://{BUCKET}/large.svs"), centres, tile_px=64, um_per_px=0.25)
    near, _, _ = read_all(open_at(large), centres, tile_px=64, um_per_px=0.25)
    assert readable.all()
    np.testing.assert_array_equal(near, far)


def test_replaced_while_it_is_read(large: Path, proxy, bucket, open_at) -> None:
    bucket.upload_file(str(large), BUCKET, "large.svs")
    slide = open_at(f"s3://{BUCKET}/large.svs")
    bucket.put_object(Bucket=BUCKET, Key="large.svs", Body=large.read_bytes()[::-1])
    with pytest.raises(DataError, match="overwritten"):
        read_all(slide, [[500, 500]], tile_px=64, um_per_px=0.25)
