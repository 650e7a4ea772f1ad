"""The verb `repository`: a model repository for inference servers from a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocast.resources import scratch_folder
from histocast.stages.environment import fetch_bundle

if TYPE_CHECKING:
    from histocast.inference.triton.model_repository import RepositoryOptions


def write_model_repository(bundle: str, *, outdir: Path, options: RepositoryOptions) -> list[str]:
    """Add a bundle's graphs to a model repository for inference servers; return the models' names."""
    from histocast.inference.triton.model_repository import write_repository
    from histocast.inference.verify import verify_bundle

    with scratch_folder(outdir) as scratch:
        folder, _ = fetch_bundle(bundle, scratch)
        return write_repository(folder, verify_bundle(folder), outdir, options=options)
