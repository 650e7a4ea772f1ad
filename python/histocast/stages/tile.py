"""TILE: facts of a slide, its tissue, and the tiles or spots that are to be predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histocast.stages.environment import SlideLocation, fetch_bundle, opened_slide
from histocast.stages.slide_stage import RecordErrors, SlideStage
from histocast.stages.stage import BundleUri, Mpp, Sample, Slide, Spots, Version

if TYPE_CHECKING:
    from histocast.records import Facts


class Tile(SlideStage):
    """Find tissue and place tiles on it.

    Writes slide.json, tiles.parquet, thumbnail.png and tissue.png.
    """

    stage_name = "tile"
    sample: Sample
    slide: Slide
    bundle: BundleUri
    version: Version = None
    mpp: Mpp = None
    spots: Spots = None
    record_errors: RecordErrors = False

    def find_sample(self) -> str:
        """Return the sample's name."""
        return self.sample

    def work(self) -> Facts:
        """Write what `histocast.tiles.tile_slide` makes of the slide."""
        from histocast.bundle import bundle_digest
        from histocast.progress import Clock
        from histocast.resources import scratch_folder
        from histocast.storage import fetch_file
        from histocast.tiles.tile_slide import tile_slide

        folder, bundle = fetch_bundle(self.bundle, self.outdir, files=("bundle.json",))
        location = SlideLocation(self.sample, self.slide, version=self.version, mpp=self.mpp)
        with scratch_folder(self.outdir) as scratch, opened_slide(location, scratch, Clock()) as (slide, slide_digest):
            record = tile_slide(
                slide,
                sample=self.sample,
                geometry=bundle.geometry,
                spots=fetch_file(self.spots, scratch) if self.spots else None,
                slide_digest=slide_digest,
                bundle_digest=bundle_digest(folder),
                outdir=self.outdir,
            )
        return {
            "tiles": record.tile_count,
            "tissue_area_mm2": record.tissue_area_mm2,
            "reader": record.reader,
            "slide_digest": slide_digest,
        }
