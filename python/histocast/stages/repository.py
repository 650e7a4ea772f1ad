"""The verb `repository`: a model repository for inference servers from bundles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histocast.inference.triton.repository_options import RepositoryOptions
from histocast.stages.stage import BundleUri, Stage


class Repository(RepositoryOptions, Stage):
    """Write the graphs of bundles as models for Triton."""

    bundle: tuple[BundleUri, ...]
    """Folder or s3:// prefix of a bundle; may be repeated."""
    outdir: Path
    """The model repository; models of other bundles in it stay."""

    def run(self) -> list[str]:
        """Add the bundles' graphs to the repository; return the models' names."""
        from histocast.inference.triton.model_repository import write_repository
        from histocast.inference.verify import verify_bundle
        from histocast.resources import scratch_folder
        from histocast.stages.environment import fetch_bundle

        names = []
        for uri in self.bundle:
            with scratch_folder(self.outdir) as scratch:
                folder, _ = fetch_bundle(uri, scratch)
                names += write_repository(folder, verify_bundle(folder), self.outdir, options=self)
        return names

    def lines(self, result: Sequence[str]) -> Sequence[str]:
        """The models' names."""
        return result
