"""Versions of what computed a result, as records and artifacts carry them."""

from __future__ import annotations

import json
import os
import platform
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from histocast import __version__

# What can change a number between two runs of the same version of histocast; those absent are left out.
LIBRARIES = (
    "anndata", "imagecodecs", "numpy", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless", "openslide-bin",
    "openslide-python", "pyarrow", "scipy", "tifffile", "tritonclient",
)  # fmt: skip

# What can change a trained model besides.
TRAINING_LIBRARIES = ("onnx", "onnxscript", "scikit-learn", "torch")

IMAGE = "image"
IMAGE_DIGEST = "image_digest"

ECS_PATIENCE_S = 2


def software_versions(*others: str) -> dict[str, str]:
    """Versions of histocast, of Python and of the libraries (and ``others``) that are installed here, by name.

    Within a container ``image`` is what it was started from, as the workflow engine tells it (``HISTOCAST_IMAGE``), and
    ``image_digest`` which one that was, where that name does not say it and somebody tells.
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
        if "@" not in image and (digest := os.environ.get("HISTOCAST_IMAGE_DIGEST") or _digest_from_ecs()):
            found[IMAGE_DIGEST] = digest
    return found


def _digest_from_ecs() -> str | None:
    """Return the ID of this container's image from its agent on AWS, where jobs of AWS Batch run, too.

    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4.html
    """
    # Slow to import, and for AWS alone.
    from http.client import HTTPConnection, HTTPException

    address = urlsplit(os.environ.get("ECS_CONTAINER_METADATA_URI_V4", ""))
    if not address.netloc:
        return None
    try:
        with closing(HTTPConnection(address.netloc, timeout=ECS_PATIENCE_S)) as agent:
            agent.request("GET", address.path)
            return str(json.load(agent.getresponse())["ImageID"])
    except (OSError, HTTPException, ValueError, KeyError):
        # A result is worth the same without it, and says that it lacks it by lacking it.
        return None
