"""A file that is no slide ends as an error that names the sample and says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from histocast.errors import DataError, HistocastError, MissingInputError
from made_slides import Pixels, Recipe, paint_arrays, write_slide

SECRET_NAME = "H19-04711 DOE JANE.svs"


def cut_within_directories(path: Path, texture: Pixels) -> None:
    write_slide(path, Recipe(1000, 777), paint_arrays(texture))
    path.write_bytes(path.read_bytes()[:100])


def cut_within_pixels(path: Path, texture: Pixels) -> None:
    write_slide(path, Recipe(1000, 777), paint_arrays(texture))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3])


def directory(path: Path, texture: Pixels) -> None:
    path.mkdir()


def half_a_jpeg(path: Path, texture: Pixels) -> None:
    data = cv2.imencode(".jpg", texture)[1].tobytes()
    path.write_bytes(data[: len(data) // 2])


def sixteen_bits(path: Path, texture: Pixels) -> None:
    path.write_bytes(cv2.imencode(".png", texture.astype(np.uint16) * 257)[1].tobytes())


def with_tag(code: int, value: int) -> Callable[[Path, Pixels], None]:
    """A writer of a TIFF of which one number of the directory is another."""

    def write(path: Path, texture: Pixels) -> None:
        tifffile.imwrite(path, texture[:256, :256], photometric="rgb", tile=(128, 128), metadata=None)
        with tifffile.TiffFile(path) as file:
            at = file.pages[0].tags[code].valueoffset
        data = bytearray(path.read_bytes())
        data[at : at + 2] = value.to_bytes(2, "little")
        path.write_bytes(data)

    return write


BAD: dict[str, tuple[Callable[[Path, Pixels], object], type[HistocastError], str]] = {
    "SVS cut within its directories": (cut_within_directories, DataError, "copy it again"),
    "SVS cut within its pixels": (cut_within_pixels, DataError, "copy the slide again"),
    "zero bytes": (lambda path, _: path.write_bytes(b""), DataError, "empty"),
    "text": (lambda path, _: path.write_text("sample,slide\n" * 100), DataError, "no reader"),
    "four bytes of TIFF": (lambda path, _: path.write_bytes(b"II*\0"), DataError, "no reader"),
    "TIFF magic and noise": (
        lambda path, _: path.write_bytes(b"II*\0" + np.random.default_rng(1).bytes(5000)),
        DataError,
        "no reader",
    ),
    "LERC": (with_tag(259, 34887), DataError, "LERC (34887)"),
    "a compression that nobody has": (with_tag(259, 4242), DataError, "an image in the compression 4242"),
    "no columns": (with_tag(256, 0), DataError, "0 x 256 px"),
    "tiles of no rows": (with_tag(323, 0), DataError, "blocks of 128 x 0 px"),
    "directory": (directory, DataError, "a folder"),
    "absent": (lambda *_: None, MissingInputError, "no such file"),
    "half a JPEG": (half_a_jpeg, DataError, "Premature end"),
    "PNG of 16 bits": (sixteen_bits, DataError, "8-bit"),
    "PNG header only": (lambda path, _: path.write_bytes(b"\x89PNG\r\n\x1a\n"), DataError, "no reader"),
}


@pytest.mark.parametrize("name", BAD)
def test_says_what_is_wrong_and_names_the_sample_alone(name: str, texture: Pixels, tmp_path: Path, open_at) -> None:
    make, kind, words = BAD[name]
    path = tmp_path / SECRET_NAME
    make(path, texture)
    with pytest.raises(kind) as caught:
        open_at(path, sample="S7", mpp=0.5).thumbnail()
    assert words in caught.value.message
    assert "sample S7" in caught.value.message
    assert "DOE" not in caught.value.message
    assert caught.value.exit_code == (66 if kind is MissingInputError else 65)


def test_a_real_slide_cut_in_half(shared_data: Path, tmp_path: Path, open_at) -> None:
    path = tmp_path / SECRET_NAME
    data = (shared_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="copy it again"):
        open_at(path)


OPEN_AS_NOBODY = """
import os, sys
from pathlib import Path
from histocast.errors import HistocastError
from histocast.slide import open_slide
from histocast.storage import open_source
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
try:
    open_slide(open_source(sys.argv[1]), sample="S7", mpp=None, scratch=Path("."))
except HistocastError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_without_permission(root: Path, texture: Pixels, tmp_path: Path) -> None:
    """Tests often run as root, who may read anything: the process becomes nobody before it opens the slide."""
    path = write_slide(tmp_path / SECRET_NAME, Recipe(1000, 777), paint_arrays(texture))
    path.chmod(0)
    ended = subprocess.run(
        [sys.executable, "-c", OPEN_AS_NOBODY, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root / "python")},
    )
    assert ended.returncode == 66, ended.stderr
    assert "permission denied" in ended.stdout
    assert "grant read permission" in ended.stdout
    assert "DOE" not in ended.stdout


def test_an_image_too_large_to_decode_whole(tmp_path: Path, open_at) -> None:
    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (30_000).to_bytes(2, "big") * 2
    path = tmp_path / "huge.jpg"
    path.write_bytes(jpeg)
    with pytest.raises(DataError, match="tiled pyramid"):
        open_at(path, mpp=0.5)


def test_an_overwritten_file_is_refused(texture: Pixels, tmp_path: Path) -> None:
    from histocast.slide import open_slide
    from histocast.storage import open_source

    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777), paint_arrays(texture))
    version = open_source(str(path)).stat().version
    write_slide(path, Recipe(1000, 776), paint_arrays(texture[:776]))
    with pytest.raises(DataError, match="overwritten"):
        open_slide(open_source(str(path), version=version), sample="S1", mpp=None, scratch=tmp_path)
