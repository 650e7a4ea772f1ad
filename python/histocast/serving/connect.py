"""Choose what runs the graphs, and load it only then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histocast.bundle import Bundle
from histocast.errors import ConfigError
from histocast.serving.predictor import Predictor


def open_predictor(
    folder: Path, bundle: Bundle, *, names: Sequence[str], threads: int, triton_url: str | None = None
) -> Predictor:
    """Open graphs of a bundle for inference; use as a context manager.

    Parameters
    ----------
    folder:
        The bundle's folder.
    bundle:
        What ``bundle.json`` in it says.
    names:
        Graphs that will be run: names of encoders, or ``fusion``.
    threads:
        Threads one call may use.
    triton_url:
        Servers to run them on; in process where it is absent.

    Raises
    ------
    MissingInputError
        A graph's file is absent.
    ConfigError
        A graph is unknown, cannot be loaded, or differs from the contract in the bundle; or a server is asked
        for, which this version cannot use.
    """
    if triton_url:
        raise ConfigError(
            "an inference server is given",
            expected="none: this version runs every graph in process",
            advice="leave out --triton_url, and unset HISTOCAST_TRITON_URL",
        )
    from histocast.serving.onnx import OnnxPredictor

    return OnnxPredictor(folder, bundle, names=names, threads=threads)


def verify_bundle(folder: Path) -> Bundle:
    """Read a bundle and hold everything it ships to what it states; see `histocast.serving.verify`."""
    from histocast.serving.verify import verify_bundle as verify

    return verify(folder)
