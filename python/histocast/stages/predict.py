"""PREDICT: the features of one slide through the fusion graph, into AnnData and Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histocast.stages.environment import FUSION, fetch_bundle, opened_predictor, refuse_other_bundle
from histocast.stages.slide_stage import RecordedSlideStage
from histocast.stages.stage import BundleUri, SelectedGenes, Threads, Thumbnail, Tiles

if TYPE_CHECKING:
    from histocast.records import Facts

KINDS = ("h5ad", "parquet", "genes.parquet", "slide.parquet")
"""Endings of a sample's files."""


class Predict(RecordedSlideStage):
    """Predict expression from features.

    Writes <sample>.h5ad, .parquet, .genes.parquet and .slide.parquet.
    """

    stage_name = "predict"
    tiles: Tiles
    features: Path
    """features.parquet of 'encode'."""
    thumbnail: Thumbnail
    bundle: BundleUri
    genes: SelectedGenes = None
    threads: Threads = None

    def work(self) -> Facts:
        """Write what `histocast.expression.predict_expression` makes of the features."""
        from histocast.bundle import sha256_of_file
        from histocast.expression.predict_expression import predict_expression
        from histocast.progress import Clock
        from histocast.resources import available_threads, scratch_folder
        from histocast.storage import fetch_file

        clock = Clock()
        with clock.spent("store"):
            folder, bundle = fetch_bundle(self.bundle, self.outdir)
        refuse_other_bundle(self.record, folder)
        threads = self.threads or available_threads()
        with (
            scratch_folder(self.outdir) as scratch,
            opened_predictor(
                folder, bundle, names=(FUSION,), threads=threads, scratch=scratch, clock=clock
            ) as predictor,
        ):
            with clock.spent("store"):
                genes = fetch_file(self.genes, scratch) if self.genes else None
            facts = predict_expression(
                record=self.record,
                tiles=self.tiles,
                features=self.features,
                thumbnail=self.thumbnail,
                bundle_folder=folder,
                bundle=bundle,
                predictor=predictor,
                genes=genes,
                scratch=scratch,
                outdir=self.outdir,
                clock=clock,
            )
        files = {kind: self.outdir / f"{self.record.sample}.{kind}" for kind in KINDS}
        return {**facts, **{f"{kind}_sha256": sha256_of_file(path) for kind, path in files.items()}}
