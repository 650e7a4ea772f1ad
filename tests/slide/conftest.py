"""Slides made for these tests, and a short way to open them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest

from faulty_proxy import bucket, proxy
from histocast.slide import Slide, open_slide
from histocast.storage import open_source
from made_slides import Pixels

__all__ = ["bucket", "proxy"]

OpenSlideAt = Callable[..., Slide]


@pytest.fixture
def open_at(tmp_path: Path) -> Iterator[OpenSlideAt]:
    """Opens a slide by path or URI, and closes it after the test."""
    with ExitStack() as stack:

        def opened(uri: Path | str, *, mpp: float | None = None, sample: str = "S1") -> Slide:
            source = stack.enter_context(open_source(str(uri)))
            return stack.enter_context(open_slide(source, sample=sample, mpp=mpp, scratch=tmp_path / "scratch"))

        yield opened


@pytest.fixture(scope="session")
def texture() -> Pixels:
    """Colours that differ everywhere, smooth enough for JPEG: uint8 [777, 1000, 3]."""
    noise = np.random.default_rng(7).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    return cv2.resize(noise, (1000, 777), interpolation=cv2.INTER_CUBIC)
