"""Run the graphs of a bundle: in process, or on a server.

onnxruntime is loaded when a predictor is opened, not when this package is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histocast.bundle import Bundle
    from histocast.inference.predictor import Predictor


def open_predictor(
    folder: Path,
    bundle: Bundle,
    *,
    names: Sequence[str],
    threads: int,
    triton_url: str | None = None,
    own_server: Path | None = None,
) -> Predictor:
    """Open graphs of a bundle for inference; use as a context manager.

    ``folder``: the bundle's folder.
    ``bundle``: what ``bundle.json`` in it says.
    ``names``: graphs that will be run: names of encoders, or ``fusion``.
    ``threads``: threads one call may use.
    ``triton_url``: servers to run them on; in process where it is absent.
    ``own_server``: scratch folder for a server of this task's own, which is started for it and stopped with it.
    Raises `MissingInputError`: a graph's file is absent; `ConfigError`: a graph is unknown, cannot be loaded, or
    differs from the contract in the bundle; or a server serves other graphs, or refuses us; `ServingUnavailable` or
    `DeadlineExceeded`: no server answered.
    """
    if triton_url:
        from histocast.inference.triton.settings import TritonSettings
        from histocast.inference.triton.triton_predictor import TritonPredictor

        return TritonPredictor(bundle, names=names, url=triton_url, settings=TritonSettings.from_environment())
    if own_server:
        from histocast.inference.triton.task_server import open_task_predictor

        return open_task_predictor(folder, bundle, names=names, threads=threads, scratch=own_server)
    from histocast.inference.onnx_predictor import OnnxPredictor
    from histocast.inference.predictor import asked_precision

    return OnnxPredictor(folder, bundle, names=names, threads=threads, precision=asked_precision())


def verify_bundle(folder: Path) -> Bundle:
    """Read a bundle and hold everything it ships to what it states; see `histocast.inference.verify`."""
    from histocast.inference.verify import verify_bundle as verify

    return verify(folder)


def verify_servers(bundle: Bundle, *, triton_url: str) -> None:
    """Hold inference servers to a bundle; see `histocast.inference.triton.triton_predictor.verify_servers`."""
    from histocast.inference.triton.settings import TritonSettings
    from histocast.inference.triton.triton_predictor import verify_servers as verify

    verify(bundle, url=triton_url, settings=TritonSettings.from_environment())
