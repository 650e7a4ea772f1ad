"""ENCODE: every tile in tissue through every encoder, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from histocast.errors import ConfigError
from histocast.stages.environment import (
    SlideLocation,
    fetch_bundle,
    opened_predictor,
    opened_slide,
    refuse_other_bundle,
)
from histocast.stages.slide_stage import RecordedSlideStage, RecordErrors
from histocast.stages.stage import BundleUri, Mpp, Slide, Threads, Tiles, Version

if TYPE_CHECKING:
    from histocast.records import Facts


class Encode(RecordedSlideStage):
    """Run the encoders over all tiles: features.parquet."""

    stage_name = "encode"
    slide: Slide
    tiles: Tiles
    bundle: BundleUri
    version: Version = None
    mpp: Mpp = None
    max_unreadable: float = Field(default=0.05, ge=0, le=1)
    """Share of unreadable tiles above which the slide fails."""
    threads: Threads = None
    record_errors: RecordErrors = False

    def work(self) -> Facts:
        """Write what `histocast.encoders.encode_tiles` makes of the tiles."""
        from histocast.encoders.encode_tiles import encode_tiles
        from histocast.progress import Clock
        from histocast.resources import available_threads, scratch_folder

        clock = Clock()
        with clock.spent("store"):
            folder, bundle = fetch_bundle(self.bundle, self.outdir)
        refuse_other_bundle(self.record, folder)
        threads = self.threads or available_threads()
        location = SlideLocation(self.record.sample, self.slide, version=self.version, mpp=self.mpp)
        names = tuple(encoder.name for encoder in bundle.encoders)
        with (
            scratch_folder(self.outdir) as scratch,
            opened_slide(location, scratch, clock) as (slide, slide_digest),
            opened_predictor(folder, bundle, names=names, threads=threads, scratch=scratch, clock=clock) as predictor,
        ):
            if slide_digest != self.record.slide_digest:
                raise ConfigError(
                    f"a slide with digest {slide_digest}",
                    expected=self.record.slide_digest,
                    where=f"sample {self.record.sample}",
                    advice="the slide changed since it was tiled: run 'histocast tile' again",
                )
            return encode_tiles(
                slide,
                record=self.record,
                tiles=self.tiles,
                bundle=bundle,
                predictor=predictor,
                outdir=self.outdir,
                max_unreadable=self.max_unreadable,
                threads=threads,
                clock=clock,
            )
