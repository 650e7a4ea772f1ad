"""histocast: spatial gene expression predicted from H&E whole-slide images.

>>> import histocast
>>> histocast.predict_slide("slide.svs", bundle="bundle/", outdir="out/")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "predict_slide"]


def __getattr__(name: str) -> Any:
    """Import the stages when they are first used, so that ``histocast --help`` answers at once."""
    if name == "predict_slide":
        from histocast.stages.predict_slide import predict_slide

        return predict_slide
    raise AttributeError(f"module 'histocast' has no attribute {name!r}")
