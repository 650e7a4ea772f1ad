"""A machine that fails beneath a reader or a decoder damages no tile and spoils no slide."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import openslide
import pytest

from histocast.errors import DataError, HistocastError, OutOfMemory, StorageUnavailable
from histocast.foreign_errors import known_error
from histocast.slide import slide as slide_module
from histocast.slide.companions import slide_files
from made_slides import Pixels, Recipe, paint_arrays, write_slide
from read_back import read_all

TIFF, OPENSLIDE = "histocast.slide.tiff", "histocast.slide.openslide"
NO_MEMORY = MemoryError("Unable to allocate 3.00 MiB")

FAULTS: dict[str, tuple[str, str, Exception, type[HistocastError]]] = {
    "no memory for pixels": (TIFF, "histocast.slide.jpeg.simplejpeg.decode_jpeg", NO_MEMORY, OutOfMemory),
    "libjpeg finds no memory": (
        *(TIFF, "histocast.slide.jpeg.simplejpeg.decode_jpeg"),
        *(ValueError("Insufficient memory (case 4)"), OutOfMemory),
    ),
    "zlib finds no memory": (
        *(TIFF, "histocast.slide.blocks._decode_part"),
        *(RuntimeError("zlib uncompress returned Z_MEM_ERROR"), OutOfMemory),
    ),
    "no memory for directories": (TIFF, "tifffile.TiffFile.__init__", NO_MEMORY, OutOfMemory),
    "OpenSlide finds no memory": (
        *(OPENSLIDE, f"{OPENSLIDE}.OpenSlideReader._read"),
        *(openslide.OpenSlideError("Cannot allocate memory"), OutOfMemory),
    ),
    "a disk fails under OpenSlide": (
        *(OPENSLIDE, f"{OPENSLIDE}.OpenSlideReader._read"),
        *(openslide.OpenSlideError("Couldn't read: Input/output error"), StorageUnavailable),
    ),
    "a disk fails as OpenSlide opens": (
        *(OPENSLIDE, "openslide.OpenSlide.__init__"),
        *(openslide.OpenSlideError("Couldn't open: Stale file handle"), StorageUnavailable),
    ),
}
"""Reader, function that fails, what it raises, and what that means."""


@pytest.fixture
def slide_path(texture: Pixels, tmp_path: Path) -> Path:
    return write_slide(tmp_path / "slide.svs", Recipe(1000, 777, (240, 240)), paint_arrays(texture))


@pytest.mark.parametrize("fault", FAULTS)
def test_is_told_as_the_machines(fault: str, slide_path: Path, monkeypatch: pytest.MonkeyPatch, open_at) -> None:
    reader, function, error, expected = FAULTS[fault]
    monkeypatch.setattr(slide_module, "READERS", (reader,))

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(function, fail)
    with pytest.raises(Exception, match=r".") as caught:
        read_all(open_at(slide_path), [(300.0, 300.0)], tile_px=40, um_per_px=0.25)
    assert type(known_error(caught.value)) is expected


def test_a_list_longer_than_the_file_is_damage(slide_path: Path, monkeypatch: pytest.MonkeyPatch, open_at) -> None:
    monkeypatch.setattr("tifffile.TiffFile.__init__", lambda *_, **__: np.empty(1 << 50))
    with pytest.raises(DataError, match="a list longer than the file"):
        open_at(slide_path)


@pytest.mark.parametrize("name", ["a.vms", "b.dcm"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_companions_that_a_failing_disk_hides_are_not_absent(
    name: str, number: int, tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(128) + b"DICM")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        slide_files(path, name="slide of sample S1")
