"""One slide in this process: opened, or taken through all stages of the predict workflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from histocast.stages.encode import Encode
from histocast.stages.environment import SlideLocation, opened_slide
from histocast.stages.predict import Predict
from histocast.stages.report import WRITTEN_AS, Report, read_formats
from histocast.stages.stage import BundleUri, Formats, Mpp, Outdir, Positional, SelectedGenes, Slide, Spots, Stage
from histocast.stages.tile import Tile

if TYPE_CHECKING:
    from histocast.slide import Slide as OpenSlide


class PredictSlide(Stage):
    """Predict one slide from start to finish, without Nextflow."""

    slide: Annotated[Slide, Positional()]
    bundle: BundleUri
    sample: str = "slide"
    """Name in the outputs; a file name can hold a patient's name."""
    mpp: Mpp = None
    spots: Spots = None
    genes: SelectedGenes = None
    formats: Formats = None
    outdir: Outdir = Path()

    def run(self) -> Path:
        """Run the stages, each on what the one before it wrote; return the AnnData file.

        Raises `HistocastError`: see `histocast.errors`.
        """
        # Before the work that a slip of the pen would cost.
        read_formats(self.formats)
        outdir, bundle = self.outdir, self.bundle
        files = {"slide_record": outdir / "slide.json", "tiles": outdir / "tiles.parquet"}
        pictures = {"thumbnail": outdir / "thumbnail.png"}
        expression = outdir / f"{self.sample}.h5ad"
        Tile(sample=self.sample, slide=self.slide, bundle=bundle, mpp=self.mpp, spots=self.spots, outdir=outdir).run()
        Encode(**files, slide=self.slide, bundle=bundle, mpp=self.mpp, outdir=outdir).run()
        features = outdir / "features.parquet"
        Predict(**files, **pictures, features=features, bundle=bundle, genes=self.genes, outdir=outdir).run()
        given = {"expression": expression, "tissue": outdir / "tissue.png", "formats": self.formats}
        Report(**files, **pictures, **given, outdir=outdir).run()
        return expression

    def lines(self, result: Path) -> Iterator[str]:
        """Name the files that were made of the slide."""
        formats = read_formats(self.formats)
        for ending in ("h5ad", "parquet", "html", *(WRITTEN_AS[name] for name in WRITTEN_AS if name in formats)):
            yield str(result.with_suffix(f".{ending}"))


def predict_slide(slide: str | Path, *, bundle: str | Path, outdir: str | Path, **options: Any) -> Path:
    """Predict one slide from start to finish, in this process: `PredictSlide`, whose fields are the parameters.

    Returns
    -------
    Path
        The AnnData file.

    Raises
    ------
    HistocastError
        See `histocast.errors`.
    """
    return PredictSlide(slide=slide, bundle=bundle, outdir=outdir, **options).run()


@contextmanager
def open_slide(slide: str | Path, *, mpp: float | None = None) -> Iterator[OpenSlide]:
    """Yield one slide, from disk or ``s3://``: its facts, its thumbnail, and tiles of a physical size.

    Parameters
    ----------
    slide:
        Path or ``s3://`` URI.
    mpp:
        Micrometres per pixel of level 0, where the file does not say.

    Raises
    ------
    HistocastError
        The slide is absent, cannot be read, or does not state its resolution.
    """
    from histocast.progress import Clock
    from histocast.resources import scratch_folder

    location = SlideLocation("slide", str(slide), mpp=mpp)
    with scratch_folder() as scratch, opened_slide(location, scratch, Clock()) as (opened, _):
        yield opened
