"""histocast: spatial gene expression predicted from H&E whole-slide images.

>>> import histocast
>>> histocast.predict_slide("slide.svs", bundle="bundle/", outdir="out/")  # doctest: +SKIP

``dir(histocast)`` lists the public names: one slide from start to finish, the stages that do it step by step, and what
they read. Each is imported when it is first used, so that ``histocast --help`` answers at once.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histocast.bundle import read_bundle
    from histocast.stages.check import Check
    from histocast.stages.cohort import Cohort
    from histocast.stages.encode import Encode
    from histocast.stages.evaluate import Evaluate
    from histocast.stages.export import Export
    from histocast.stages.plan import Plan
    from histocast.stages.predict import Predict
    from histocast.stages.predict_slide import PredictSlide, open_slide, predict_slide
    from histocast.stages.prepare import Prepare
    from histocast.stages.report import Report
    from histocast.stages.summarise import Summarise
    from histocast.stages.tile import Tile
    from histocast.stages.train import Train

__version__ = "0.1.0"

__all__ = [
    "Check", "Cohort", "Encode", "Evaluate", "Export", "Plan", "Predict", "PredictSlide", "Prepare", "Report",
    "Summarise", "Tile", "Train", "__version__", "open_slide", "predict_slide", "read_bundle",
]  # fmt: skip

_MODULES = {"open_slide": "stages.predict_slide", "predict_slide": "stages.predict_slide", "read_bundle": "bundle"}
"""Where functions are; a stage is in the file of its name."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'histocast' has no attribute {name!r}")
    file = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return getattr(import_module(f"histocast.{_MODULES.get(name, f'stages.{file}')}"), name)


def __dir__() -> list[str]:
    return __all__
