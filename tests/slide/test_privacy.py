"""What can name a patient stays in the file: label, macro, and every metadata field not on the list."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from histocast.slide import open_slide
from histocast.storage import Range
from histocast.storage.local import LocalSource
from made_slides import PATIENT, Pixels, Recipe, halved, paint_arrays, write_slide
from read_back import read_all


class WatchedSource(LocalSource):
    """A local file that notes which of its bytes were read."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.seen = np.zeros(Path(uri).stat().st_size, bool)

    def read(self, start: int, length: int) -> bytes:
        self.seen[start : start + length] = True
        return super().read(start, length)

    def read_ranges(
        self,
        ranges: Mapping[int, Range],
        *,
        max_gap_bytes: int | None = None,  # noqa: ARG002
    ) -> Mapping[int, bytes]:
        return {key: self.read(start, length) for key, (start, length) in ranges.items()}

    def local_copy(self, scratch: Path) -> Path:  # noqa: ARG002
        raise AssertionError("the whole file was asked for")


def forbidden_bytes(path: Path) -> np.ndarray:
    """Where the pixels of every page that is not a level of the pyramid lie."""
    forbidden = np.zeros(path.stat().st_size, bool)
    with tifffile.TiffFile(path) as file:
        for page in file.pages:
            if not page.is_tiled:
                for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                    forbidden[offset : offset + count] = True
    return forbidden


def visit_everything(source: WatchedSource, scratch: Path) -> str:
    with open_slide(source, sample="S1", mpp=None, scratch=scratch) as slide:
        slide.thumbnail(300)
        width, height = slide.facts.width_px, slide.facts.height_px
        for zoom in (1, 4, 16):
            centres = np.array([(x, y) for x in range(0, width, 50 * zoom) for y in range(0, height, 50 * zoom)])
            read_all(slide, centres, tile_px=64, um_per_px=slide.facts.um_per_px * zoom)
        return repr(dataclasses.asdict(slide.facts))


def test_label_macro_and_thumbnail_images_are_never_read(texture: Pixels, tmp_path: Path) -> None:
    recipe = Recipe(1000, 777, sizes=halved(1000, 777, 4))
    path = write_slide(tmp_path / "slide.svs", recipe, paint_arrays(texture, texture[::4, ::4][:194, :250]))
    forbidden = forbidden_bytes(path)
    assert forbidden.sum() == 3 * 64 * 64 * 3
    with WatchedSource(str(path)) as source:
        facts = visit_everything(source, tmp_path)
        assert source.seen.any()
        assert not (source.seen & forbidden).any()
    assert PATIENT not in facts
    assert "DOE" not in facts


def test_on_a_real_aperio_slide(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    with WatchedSource(str(path)) as source:
        facts = visit_everything(source, tmp_path)
        assert not (source.seen & forbidden_bytes(path)).any()
    for secret in ("b414003d", "CPAPERIOCS", "12/29/09", "09:59:15", "CMU-1", "1004486"):
        assert secret not in facts


def test_openslide_is_never_asked_for_associated_images(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histocast.slide import slide as slide_module

    def refuse(*_: object) -> None:
        raise AssertionError("an associated image was asked for")

    for name in ("read_associated_image", "get_associated_image_dimensions", "read_associated_image_icc_profile"):
        monkeypatch.setattr(openslide.lowlevel, name, refuse)
    monkeypatch.setattr(slide_module, "READERS", ("histocast.slide.openslide",))
    source = LocalSource(str(shared_data / "slides" / "CMU-1-Small-Region.svs"))
    with source, open_slide(source, sample="S1", mpp=None, scratch=tmp_path) as slide:
        assert slide.facts.reader == "openslide"
        slide.thumbnail(300)
        read_all(slide, [(500, 500)], tile_px=64, um_per_px=0.5)
        text = repr(slide.facts)
    for secret in ("b414003d", "CPAPERIOCS", "12/29/09", "CMU-1"):
        assert secret not in text
