"""Memory is that of a few batches and blocks, however large the slide is."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from histocast.slide.tiff import TiffReader
from histocast.storage.array_memory import ArrayMemory
from made_slides import Pixels, Recipe, paint_arrays, write_slide

READ_ALL = """
import sys
from pathlib import Path
import numpy as np
from histocast.slide import open_slide
from histocast.storage import open_source
with open_source(sys.argv[1]) as source, open_slide(source, sample="S", mpp=None, scratch=Path(".")) as slide:
    side = slide.facts.width_px
    centres = np.stack(np.meshgrid(np.arange(101, side, 256), np.arange(61, side, 256)), axis=-1).reshape(-1, 2)
    tiles = slide.read_tiles(centres, tile_px=128, um_per_px=0.5, threads=2)
    assert sum(int(batch.readable.sum()) for batch in tiles) == len(centres)
    slide.thumbnail()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def test_a_nine_times_larger_slide_takes_no_more(texture: Pixels, root: Path, tmp_path: Path) -> None:
    def paint(level: int, top: int, left: int, height: int, width: int) -> Pixels:
        return np.take(
            np.take(texture, range(top, top + height), 0, mode="wrap"), range(left, left + width), 1, mode="wrap"
        )

    peaks_mb = []
    for side_px in (6_000, 18_000):
        recipe = Recipe(side_px, side_px, (240, 240), sizes=((side_px // 4, side_px // 4),), colour="ycbcr")
        path = write_slide(tmp_path / "slide.svs", recipe, paint)
        ended = subprocess.run(
            [sys.executable, "-c", READ_ALL, str(path)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(root / "python")},
        )
        peaks_mb.append(int(ended.stdout) / 1024)
    assert peaks_mb[1] < 1.2 * peaks_mb[0]


def test_memory_comes_back_only_when_no_view_is_left() -> None:
    memory = ArrayMemory((4, 5, 6, 3))
    first = memory.array()
    first[:] = 7
    view = first[1:2, :, 2].T
    del first
    gc.collect()
    memory.array()[:] = 9
    assert (view == 7).all()
    del view
    again = [memory.array() for _ in range(3)]
    for number, array in enumerate(again):
        array[:] = number
    assert [int(array.max()) for array in again] == [0, 1, 2]


@pytest.mark.parametrize("um_per_px", [0.25, 0.5])
def test_no_row_that_a_decoder_writes_begins_where_it_would_pass_by_the_caches(
    texture: Pixels, tmp_path: Path, open_at, monkeypatch: pytest.MonkeyPatch, um_per_px: float
) -> None:
    decode = TiffReader.decode
    starts = set()

    def watched(self: TiffReader, level: int, block: int, payload: bytes | None, into: Pixels) -> None:
        starts.add((into.ctypes.data % 16, into.strides[0] % 16))
        decode(self, level, block, payload, into)

    monkeypatch.setattr(TiffReader, "decode", watched)
    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777, (240, 240)), paint_arrays(texture))
    x, y = np.meshgrid(np.arange(40, 900, 64.0), np.arange(40, 700, 64.0))
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    for _ in open_at(path).read_tiles(centres, tile_px=64, um_per_px=um_per_px, batch_tiles=8, threads=2):
        pass

    assert starts == {(8, 0)}


def test_tiles_kept_by_the_caller_stay_as_they_were(texture: Pixels, tmp_path: Path, open_at) -> None:
    path = write_slide(tmp_path / "slide.svs", Recipe(1000, 777), paint_arrays(texture))
    centres = np.random.default_rng(0).uniform(0, 777, (200, 2))
    options = {"tile_px": 32, "um_per_px": 0.25, "batch_tiles": 8, "threads": 2}
    kept = {
        int(batch.index[0]): (batch.pixels[0], batch.pixels[0].copy())
        for batch in open_at(path).read_tiles(centres, **options)
    }
    assert len(kept) == 25
    for pixels, copy in kept.values():
        np.testing.assert_array_equal(pixels, copy)
