"""Whatever is flipped or cut off: a slide ends well, with unreadable tiles, or as an expected error.

``HISTOCAST_FUZZ=2000`` tries as many variants of each file; the ordinary number keeps the suite short. Address
space is limited, so that a decoder that believes a damaged size fails here and not on a cluster.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from byte_damage import Stretch, headers, vary
from histocast.errors import DataError
from histocast.slide import open_slide
from histocast.storage import open_source, sampled_digest
from made_slides import Pixels, Recipe, halved, paint_arrays, write_slide

VARIANTS = int(os.environ.get("HISTOCAST_FUZZ", "40"))
MAX_S = 30
SPARE_BYTES = 2 << 30


@pytest.fixture(autouse=True)
def limited_memory() -> Iterator[None]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def visit(path: Path, scratch: Path) -> None:
    """Do what the pipeline does with a slide, on at most two thousand tiles."""
    with open_source(str(path)) as source:
        sampled_digest(source)
        with open_slide(source, sample="S1", mpp=0.5, scratch=scratch) as slide:
            slide.thumbnail(512)
            width, height = min(slide.facts.width_px, 10_000), min(slide.facts.height_px, 10_000)
            centres = np.mgrid[100:width:200, 100:height:200].reshape(2, -1).T[:2000].astype(float)
            for batch in slide.read_tiles(centres, tile_px=100, um_per_px=1.0, threads=2):
                assert set(batch.reasons) == set(batch.index[~batch.readable].tolist())


def check_variants(data: bytes, path: Path, *, fragile: list[Stretch]) -> None:
    for seed in range(VARIANTS):
        path.write_bytes(vary(data, np.random.default_rng(seed), fragile))
        started_s = time.monotonic()
        try:
            visit(path, path.parent)
        except DataError as error:
            assert "S1" in error.message  # noqa: PT017 - most variants raise nothing
        assert time.monotonic() - started_s < MAX_S, f"seed {seed}"


@pytest.mark.parametrize("kind", ["jpeg", "jpeg2000-rgb", "lzw", "strips"])
def test_made_slides(kind: str, texture: Pixels, tmp_path: Path) -> None:
    strips = kind == "strips"
    recipe = Recipe(
        1000,
        777,
        (0, 64) if strips else (256, 256),
        sizes=halved(1000, 777, 4),
        compression="jpeg" if strips else kind,
        layout="strips" if strips else "aperio",
    )
    path = write_slide(tmp_path / "slide.svs", recipe, paint_arrays(texture, texture[2::4, 2::4][:194, :250]))
    data = path.read_bytes()
    check_variants(data, path, fragile=headers(data))


def test_a_real_aperio_slide(shared_data: Path, tmp_path: Path) -> None:
    data = (shared_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    directories = [(1_275_500, 1_277_500), (1_474_000, 1_475_500), (1_937_000, 1_938_955)]
    check_variants(data, tmp_path / "slide.svs", fragile=directories)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_plain_images(suffix: str, texture: Pixels, tmp_path: Path) -> None:
    data = cv2.imencode(suffix, texture)[1].tobytes()
    check_variants(data, tmp_path / f"section{suffix}", fragile=[(0, 40), (0, 700)])
