"""Damaged data flags the tiles it touches, with the reason; it is never white tissue and never a crash."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from histocast.errors import DataError
from histocast.slide import slide as slide_module
from made_slides import Pixels, Recipe, paint_arrays, write_slide
from read_back import read_all

BLOCK = 7  # row 1, column 2 of 5 columns


@dataclass(frozen=True)
class Place:
    """One stored block of a file."""

    path: Path
    offset: int
    count: int
    block: int = BLOCK

    def overwrite(self, data: bytes, *, at: int = 0) -> None:
        with self.path.open("r+b") as stream:
            stream.seek(self.offset + at)
            stream.write(data)

    def set_count(self, count: int) -> None:
        with tifffile.TiffFile(self.path) as file:
            tag = file.pages.first.tags["TileByteCounts"]
            code = {3: "<H", 4: "<I", 16: "<Q"}[int(tag.dtype)]
        with self.path.open("r+b") as stream:
            stream.seek(tag.valueoffset + self.block * struct.calcsize(code))
            stream.write(struct.pack(code, count))

    def frame(self) -> int:
        return self.path.read_bytes()[self.offset : self.offset + 4096].index(b"\xff\xc0")


DAMAGES: dict[str, tuple[str, Callable[[Place], None]]] = {
    "empty": ("empty", lambda place: place.set_count(0)),
    "zeroed": ("no JPEG", lambda place: place.overwrite(bytes(place.count))),
    "random": ("no JPEG", lambda place: place.overwrite(np.random.default_rng(0).bytes(place.count))),
    "cut short": ("Premature end", lambda place: place.set_count(place.count // 2)),
    "only a header": ("within its header", lambda place: place.set_count(4)),
    "of a giant": ("61680 x 61680", lambda place: place.overwrite(b"\xf0" * 4, at=place.frame() + 5)),
    "of a dwarf": ("1 x 1", lambda place: place.overwrite(b"\0\1\0\1", at=place.frame() + 5)),
    "claiming gigabytes": ("states a block of", lambda place: place.set_count(2**31)),
    "lossless": ("unknown kind", lambda place: place.overwrite(b"\xff\xc3", at=place.frame())),
}


@pytest.fixture
def slide_path(texture: Pixels, tmp_path: Path) -> Path:
    return write_slide(tmp_path / "slide.svs", Recipe(1000, 777, (240, 240)), paint_arrays(texture))


def place_of(path: Path, block: int = BLOCK) -> Place:
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        return Place(path, page.dataoffsets[block], page.databytecounts[block], block)


@pytest.mark.parametrize("name", DAMAGES)
def test_only_the_tiles_it_touches_are_flagged(name: str, slide_path: Path, open_at) -> None:
    reason, damage = DAMAGES[name]
    centres = [(x, y) for y in range(20, 777, 40) for x in range(20, 1000, 40)]
    before, _, _ = read_all(open_at(slide_path), centres, tile_px=40, um_per_px=0.25)
    damage(place_of(slide_path))
    after, readable, reasons = read_all(open_at(slide_path), centres, tile_px=40, um_per_px=0.25)
    touched = np.array([480 - 20 < x < 720 + 20 and 240 - 20 < y < 480 + 20 for x, y in centres])
    np.testing.assert_array_equal(readable, ~touched)
    assert set(reasons) == set(np.flatnonzero(touched).tolist())
    assert all(reason in text for text in reasons.values())
    np.testing.assert_array_equal(after[~touched], before[~touched])
    assert not after[touched].any(), "an unreadable tile must not look like glass"


def test_a_file_cut_off_after_its_directories(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = write_slide(tmp_path / "slide.tif", Recipe(1000, 777, (240, 240), layout="generic"), paint_arrays(texture))
    place = place_of(path)
    with path.open("r+b") as stream:
        stream.truncate(place.offset + place.count // 2)
    with tifffile.TiffFile(path) as file:
        assert file.pages.first.dataoffsets[0] > file.pages.first.offset, "the directory lies before the data"
    _, readable, reasons = read_all(open_at(path), [(120, 120), (600, 360), (900, 700)], tile_px=40, um_per_px=0.25)
    assert readable.tolist() == [True, False, False]
    assert "the file ends within the block" in reasons[1]


def test_the_overview_is_grey_where_it_could_not_be_read_and_invents_nothing(slide_path: Path, open_at) -> None:
    whole = open_at(slide_path).overview(500)
    DAMAGES["zeroed"][1](place_of(slide_path))
    holed = open_at(slide_path).overview(500)
    assert not whole.unreadable.any()
    assert holed.unreadable[130:230, 250:350].all()
    assert (holed.pixels[holed.unreadable] == 128).all()
    np.testing.assert_array_equal(holed.pixels[~holed.unreadable], whole.pixels[~holed.unreadable])


def test_a_slide_without_a_readable_half_is_refused(slide_path: Path, open_at) -> None:
    for block in range(19):
        place_of(slide_path, block).set_count(0)
    with pytest.raises(DataError, match="cannot be decoded"):
        open_at(slide_path).thumbnail(500)
    place_of(slide_path, 19).set_count(0)
    with pytest.raises(DataError, match="stores none of its pixels"):
        open_at(slide_path).thumbnail(500)


@pytest.mark.parametrize(
    ("field", "value"),
    [(8, b"\x40\0\0\0"), (24, b"\0\0\0\1\0\0\0\1"), (40, b"\xff"), (38, b"\0\0\0\0"), (10, b"\xff\xff")],
    ids=["width of a billion", "tiles of one pixel", "components", "no components", "width"],
)
def test_a_damaged_jpeg2000_header_is_judged_before_decoding(
    texture: Pixels, tmp_path: Path, open_at, field: int, value: bytes
) -> None:
    recipe = Recipe(1000, 777, (240, 240), compression="jpeg2000-rgb")
    path = write_slide(tmp_path / "slide.svs", recipe, paint_arrays(texture))
    place_of(path).overwrite(value, at=field)
    _, readable, reasons = read_all(open_at(path), [(120, 120), (600, 360)], tile_px=40, um_per_px=0.25)
    assert readable.tolist() == [True, False]
    assert 1 in reasons


def test_a_tiny_jpeg2000_precinct_is_refused() -> None:
    import imagecodecs

    from histocast.slide.jpeg2000 import read_codestream
    from histocast.slide.reader import UnreadableBlock

    data = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64, 3), np.uint8), codecformat="j2k", reversible=True))
    assert read_codestream(bytes(data)).width_px == 64
    start = data.index(b"\xff\x52")
    layers = start + 6
    for position, value in ((layers, b"\xff\xff"), (start + 9, b"\x20"), (start + 10, b"\x0f")):
        damaged = bytearray(data)
        damaged[position : position + len(value)] = value
        with pytest.raises(UnreadableBlock):
            read_codestream(bytes(damaged))


def test_openslide_flags_just_the_damaged_region(texture: Pixels, tmp_path: Path, monkeypatch, open_at) -> None:
    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777, (240, 240), quality=90), paint_arrays(texture))
    DAMAGES["zeroed"][1](place_of(path))
    monkeypatch.setattr(slide_module, "READERS", ("histocast.slide.openslide",))
    centres = [(x, y) for y in range(60, 777, 120) for x in range(60, 1000, 120)]
    slide = open_at(path)
    assert slide.facts.reader == "openslide"
    _, readable, reasons = read_all(slide, centres, tile_px=40, um_per_px=0.25)
    assert not readable[[c for c, (x, y) in enumerate(centres) if 480 < x < 720 and 240 < y < 480]].any()
    assert readable[[c for c, (x, y) in enumerate(centres) if x < 440 or y > 500]].all()
    assert set(reasons.values()) == {"OpenSlide cannot decode the region"}


def forget(path: Path, blocks: list[int], *, offsets_too: bool = True) -> None:
    """Write 0 as the length of blocks, and as their offset, which is how a block that was never stored is listed."""
    with tifffile.TiffFile(path) as file:
        tags = [file.pages.first.tags["TileByteCounts"], file.pages.first.tags["TileOffsets"]]
        places = [(tag.valueoffset, {3: "<H", 4: "<I", 16: "<Q"}[int(tag.dtype)]) for tag in tags]
    with path.open("r+b") as stream:
        for start, code in places[: 1 + offsets_too]:
            for block in blocks:
                stream.seek(start + block * struct.calcsize(code))
                stream.write(struct.pack(code, 0))


@pytest.mark.parametrize(
    ("reader", "compression"),
    [
        # OpenSlide is asked for no uncompressed TIFF; libtiff guesses the lengths there where the first is 0.
        *(("tiff", compression) for compression in ("jpeg", "none", "deflate", "lzw", "zstd", "jpeg2000-rgb")),
        *(("openslide", compression) for compression in ("jpeg", "deflate", "jpeg2000-rgb")),
    ],
)
def test_glass_that_was_never_stored_is_white(
    reader: str, compression: str, texture: Pixels, tmp_path: Path, monkeypatch, open_at
) -> None:
    monkeypatch.setattr(slide_module, "READERS", (f"histocast.slide.{reader}",))
    recipe = Recipe(1000, 777, (240, 240), compression=compression, layout="aperio")
    path = write_slide(tmp_path / "slide.svs", recipe, paint_arrays(texture))
    centres = [(x, y) for y in range(60, 777, 120) for x in range(60, 1000, 120)]
    dense, _, _ = read_all(open_at(path), centres, tile_px=60, um_per_px=0.25)
    left_out = [0, 1, 2, 3, 5, 6, BLOCK, 10, 19]
    forget(path, left_out)
    sparse, readable, reasons = read_all(open_at(path), centres, tile_px=60, um_per_px=0.25)
    assert readable.all(), reasons
    glass = np.array([(y // 240) * 5 + x // 240 in left_out for x, y in centres])
    assert (sparse[glass] == 255).all()
    np.testing.assert_array_equal(sparse[~glass], dense[~glass])
    # Of no length, and with an offset: that is a block which was lost.
    path = write_slide(tmp_path / "lost.svs", recipe, paint_arrays(texture))
    forget(path, [BLOCK], offsets_too=False)
    _, readable, _ = read_all(open_at(path), centres, tile_px=60, um_per_px=0.25)
    np.testing.assert_array_equal(readable, [(y // 240) * 5 + x // 240 != BLOCK for x, y in centres])


def test_what_openslide_refuses_of_flipped_bits_is_unreadable_here(slide_path: Path, open_at) -> None:
    """A decoder goes on after most flips, with grey or displaced pixels, and only warns."""
    random = np.random.default_rng(11)
    whole = slide_path.read_bytes()
    place = place_of(slide_path)
    centre = [[600, 360]]
    refused = 0
    for _ in range(40):
        data = bytearray(whole)
        # Behind the header of the block, within its scan.
        data[place.offset + int(random.integers(60, place.count - 2))] ^= 1 << int(random.integers(8))
        slide_path.write_bytes(data)
        with openslide.OpenSlide(slide_path) as oracle:
            try:
                expected = np.asarray(oracle.read_region((580, 340), 0, (40, 40)))[..., :3]
            except openslide.OpenSlideError:
                expected = None
        tiles, readable, _ = read_all(open_at(slide_path), centre, tile_px=40, um_per_px=0.25)
        # Here data that is left over after the last pixel counts as well: OpenSlide does not look for it.
        refused += not readable[0]
        assert not readable[0] or expected is not None
        if readable[0]:
            np.testing.assert_array_equal(tiles[0], expected)
    assert 5 <= refused < 40


@pytest.mark.parametrize("padding", [b"\0" * 3, b"\xff" * 40, b"\0" * 5000, b"\xff\xd8 of another image"])
def test_bytes_after_the_end_of_a_jpeg_are_no_damage(padding: bytes, texture: Pixels, tmp_path: Path, open_at) -> None:
    recipe = Recipe(1000, 777, (240, 240), layout="generic")
    path = write_slide(tmp_path / "slide.tif", recipe, paint_arrays(texture))
    before, _, _ = read_all(open_at(path), [[600, 360]], tile_px=40, um_per_px=0.25)
    place = place_of(path)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        tag = file.pages.first.tags["TileOffsets"]
        code = {4: "<I", 16: "<Q"}[int(tag.dtype)]
    path.write_bytes(data + data[place.offset : place.offset + place.count] + padding)
    with path.open("r+b") as stream:
        stream.seek(tag.valueoffset + BLOCK * struct.calcsize(code))
        stream.write(struct.pack(code, len(data)))
    place.set_count(place.count + len(padding))
    after, readable, reasons = read_all(open_at(path), [[600, 360]], tile_px=40, um_per_px=0.25)
    assert readable.all(), reasons
    np.testing.assert_array_equal(after, before)
    photograph = cv2.imencode(".jpg", texture)[1].tobytes()
    (tmp_path / "section.jpg").write_bytes(photograph + padding)
    tiles, _, _ = read_all(open_at(tmp_path / "section.jpg", mpp=0.5), [[500, 388.5]], tile_px=700, um_per_px=0.5)
    expected = cv2.imdecode(np.frombuffer(photograph, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(tiles[0], expected[39:739, 150:850])
