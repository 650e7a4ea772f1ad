"""histocast: spatial gene expression predicted from H&E whole-slide images.

>>> import histocast
>>> histocast.predict_slide("slide.svs", bundle="bundle/", outdir="out/")  # doctest: +SKIP

``dir(histocast)`` lists the public names: one slide from start to finish, the stages that do it step by step, and what
they read. Each is imported when it is first used, so that ``histocast --help`` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histocast.bundle import read_bundle
    from histocast.stages.check import check
    from histocast.stages.encode import encode
    from histocast.stages.environment import SlideLocation
    from histocast.stages.predict import predict
    from histocast.stages.predict_slide import open_slide, predict_slide
    from histocast.stages.tile import tile

__version__ = "0.1.0"

__all__ = [
    "SlideLocation",
    "__version__",
    "check",
    "encode",
    "open_slide",
    "predict",
    "predict_slide",
    "read_bundle",
    "tile",
]

_MODULES = {
    "SlideLocation": "histocast.stages.environment",
    "check": "histocast.stages.check",
    "encode": "histocast.stages.encode",
    "open_slide": "histocast.stages.predict_slide",
    "predict": "histocast.stages.predict",
    "predict_slide": "histocast.stages.predict_slide",
    "read_bundle": "histocast.bundle",
    "tile": "histocast.stages.tile",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'histocast' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
