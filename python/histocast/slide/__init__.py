"""Open a slide, say what it is, read tiles of a physical size."""

from typing import TYPE_CHECKING

from histocast.slide.slide import Slide, SlideFacts, open_slide

if TYPE_CHECKING:
    from histocast.slide.batches import TileBatch

__all__ = ["Slide", "SlideFacts", "TileBatch", "open_slide"]


def __getattr__(name: str) -> type:
    # OpenCV takes a tenth of a second to load, and opening a slide does not need it.
    if name == "TileBatch":
        from histocast.slide.batches import TileBatch

        return TileBatch
    raise AttributeError(name)
