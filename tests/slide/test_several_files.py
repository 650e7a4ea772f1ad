"""A slide of several files is read whole, by whichever of its files and through whichever link it is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import boto3
import numpy as np
import pytest

from histocast.errors import DataError
from histocast.slide.companions import UNREAD, companions_version, slide_digest, slide_files
from histocast.storage import open_source
from made_slides import Pixels
from read_back import read_all
from several_files import DICOM_TILE_PX, dicom_instance, write_dicom_series, write_mirax, write_vms

SIDE_PX = 512


@pytest.fixture(scope="session")
def square(texture: Pixels) -> Pixels:
    """A part of the texture whose sides are whole tiles."""
    return np.ascontiguousarray(texture[:SIDE_PX, :SIDE_PX])


def mirax(folder: Path, pixels: Pixels) -> Path:
    return write_mirax(folder / "case 1.mrxs", pixels)


def vms(folder: Path, pixels: Pixels) -> Path:
    return write_vms(folder / "case 1.vms", pixels)


def first_instance(folder: Path, pixels: Pixels) -> Path:
    return write_dicom_series(folder, [pixels, pixels[::4, ::4]])[0]


def last_instance(folder: Path, pixels: Pixels) -> Path:
    return write_dicom_series(folder, [pixels, pixels[::4, ::4]])[1]


def instance_without_suffix(folder: Path, pixels: Pixels) -> Path:
    for path in write_dicom_series(folder, [pixels, pixels[::4, ::4]]):
        named = path.rename(path.with_name(f"1.2.840.{path.stem[-1]}"))
    return named


FORMATS = [mirax, vms, first_instance, last_instance, instance_without_suffix]
Write = Callable[[Path, Pixels], Path]


@pytest.mark.parametrize("write", FORMATS)
def test_every_way_to_it_gives_the_same_pixels_and_digest(
    write: Write, square: Pixels, tmp_path: Path, open_at: Callable
) -> None:
    archive, links, task = tmp_path / "archive", tmp_path / "links", tmp_path / "task"
    for folder in (archive, links, task):
        folder.mkdir()
    slide = write(archive, square)
    write_dicom_series(archive, [square[:256]], series="1.2.4")
    write_mirax(archive / "other.mrxs", square)
    link = links / f"another name{slide.suffix}"
    link.symlink_to(slide)
    files = slide_files(slide, name="S1")
    assert not any("1.2.4" in file.name or "other" in file.name for file in files)
    # As a workflow engine stages it: each file by a link, in a folder of the task.
    for file in files:
        (task / file.name).symlink_to(file)
    digests = set()
    for path in (slide, link, task / slide.name):
        opened = open_at(path)
        tiles, readable, _ = read_all(opened, [[256, 256]], tile_px=SIDE_PX, um_per_px=0.5)
        assert readable.all()
        assert np.abs(tiles[0].astype(int) - square).mean() < 2
        with open_source(str(path)) as source:
            digests.add(slide_digest(source))
    assert len(digests) == 1


@pytest.mark.parametrize("write", FORMATS)
def test_a_changed_companion_is_another_version_and_another_digest(
    write: Write, square: Pixels, tmp_path: Path
) -> None:
    slide = write(tmp_path, square)
    files = slide_files(slide, name="S1")
    with open_source(str(slide)) as source:
        before = companions_version(files), slide_digest(source)
        companion = max((file for file in tmp_path.rglob("*") if file.is_file() and file != slide), key=os.path.getsize)
        companion.write_bytes(companion.read_bytes() + b"\0")
        after = companions_version(slide_files(slide, name="S1")), slide_digest(source)
    assert not set(before) & set(after)


def test_a_slide_of_one_file_keeps_its_digest_and_searches_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a.svs", "a.tiff", "a"):
        path = tmp_path / "one" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 500)
        assert slide_files(path, name="S1") == (path,)
    assert companions_version((path,)) is None


@pytest.mark.parametrize("write", [mirax, vms])
def test_without_its_companions_it_is_refused_by_the_samples_name(
    write: Write, square: Pixels, tmp_path: Path, open_at: Callable
) -> None:
    slide = write(tmp_path, square)
    alone = tmp_path / "alone" / slide.name
    alone.parent.mkdir()
    slide.rename(alone)
    with pytest.raises(DataError, match=r"sample S7: a (slide of several files|MIRAX index file)") as caught:
        open_at(alone, sample="S7")
    assert "case 1" not in caught.value.message


@pytest.mark.parametrize("suffix", UNREAD)
def test_formats_of_several_files_that_are_not_read_are_refused(suffix: str, tmp_path: Path, open_at: Callable) -> None:
    path = tmp_path / f"slide{suffix}"
    path.write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(DataError, match="expected: an H&E slide"):
        open_at(path)


def test_a_dicom_object_of_a_store_is_refused_whatever_its_name(
    square: Pixels, tmp_path: Path, open_at: Callable, s3_endpoint: str
) -> None:
    store = boto3.client("s3", endpoint_url=s3_endpoint)
    store.create_bucket(Bucket="slides")
    store.upload_file(str(instance_without_suffix(tmp_path, square)), "slides", "1.2.840.0")
    with pytest.raises(DataError, match="a slide of several files in a store"):
        open_at("s3://slides/1.2.840.0")


def test_pipes_and_links_that_lead_nowhere_beside_a_series_are_passed_over(square: Pixels, tmp_path: Path) -> None:
    slide = first_instance(tmp_path, square)
    os.mkfifo(tmp_path / "0.pipe")
    (tmp_path / "1.loop").symlink_to(tmp_path / "1.loop")
    assert len(slide_files(slide, name="S1")) == 2


@pytest.mark.parametrize("undefined", [False, True], ids=["lengths are stated", "lengths are open"])
@pytest.mark.parametrize("missing", [0, 1, 4])
def test_frames_that_lie_anywhere_are_read_where_all_say_where(
    missing: int, undefined: bool, square: Pixels, tmp_path: Path, open_at: Callable
) -> None:
    """OpenSlide would end the process where none does, and show glass where some do not."""
    frames = (SIDE_PX // DICOM_TILE_PX) ** 2
    full, sparse = write_dicom_series(tmp_path / "full", [square])[0], tmp_path / "sparse.dcm"
    given = {"series": "1.2.3", "number": 1, "um_per_px": 0.5}
    sparse.write_bytes(dicom_instance(square, **given, positions=frames - missing, undefined=undefined))

    if missing:
        with pytest.raises(DataError, match=f"of {frames} frames, of which {frames - missing} say where they lie"):
            open_at(sparse)
        return
    both = [read_all(open_at(path), [[256, 256]], tile_px=SIDE_PX, um_per_px=0.5)[0] for path in (full, sparse)]
    np.testing.assert_array_equal(*both)


def test_what_openslide_says_of_a_slide_is_said_without_names(
    square: Pixels, tmp_path: Path, open_at: Callable
) -> None:
    series = "1.2.840.113619.2.5"
    paths = write_dicom_series(tmp_path / "DOE JANE", [square, square[::4, ::4]], series=series)
    again = paths[0].with_name("DOE JANE 2.dcm")
    again.write_bytes(paths[0].read_bytes().replace(f"{series}.1".encode(), f"{series}.7".encode()))

    with pytest.raises(DataError, match="unexpected image") as caught:
        open_at(paths[0])

    assert series not in caught.value.message
    assert "DOE" not in caught.value.message
