"""Versions of what computed a result, as records and artifacts carry them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

from histocast import __version__

# What can change a number between two runs of the same version of histocast; those absent are left out.
LIBRARIES = (
    "anndata",
    "imagecodecs",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "opencv-python-headless",
    "openslide-bin",
    "openslide-python",
    "pyarrow",
    "scipy",
    "tifffile",
    "tritonclient",
)

# What can change a trained model besides.
TRAINING_LIBRARIES = ("onnx", "onnxscript", "scikit-learn", "torch")

IMAGE = "image"


def software_versions(*others: str) -> dict[str, str]:
    """Versions of histocast, of Python and of the libraries (and ``others``) that are installed here, by name.

    Within a container ``image`` is what it was started from, as the workflow engine tells it (``HISTOCAST_IMAGE``).
    Read from the installed packages' records, so that none of them is imported for it.
    """
    found = {"histocast": __version__, "python": platform.python_version()}
    for name in (*LIBRARIES, *others):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if image := os.environ.get("HISTOCAST_IMAGE"):
        found[IMAGE] = image
    return found
