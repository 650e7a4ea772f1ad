"""The stages as functions: what the command line calls, and what a notebook can call.

Each function reads the artifacts of the stage before it and writes its own into ``outdir``. `predict_slide`
runs them all for one slide; `prepare` makes sections of a training set.
"""

from histocast.api.predict import (
    Facts,
    check,
    encode,
    predict,
    predict_slide,
    tile,
    write_model_repository,
)
from histocast.api.prepare import prepare
from histocast.api.surroundings import SlideLocation
from histocast.processors import available_threads

__all__ = [
    "Facts",
    "SlideLocation",
    "available_threads",
    "check",
    "encode",
    "predict",
    "predict_slide",
    "prepare",
    "tile",
    "write_model_repository",
]
