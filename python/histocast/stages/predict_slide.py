"""One slide in this process: opened, or taken through all stages of the predict workflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from histocast.stages.encode import encode
from histocast.stages.environment import SlideLocation, opened_slide
from histocast.stages.predict import predict
from histocast.stages.tile import tile

if TYPE_CHECKING:
    from histocast.slide import Slide


@contextmanager
def open_slide(slide: str | Path, *, mpp: float | None = None) -> Iterator[Slide]:
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


def predict_slide(
    slide: str | Path,
    *,
    bundle: str | Path,
    outdir: str | Path,
    sample: str | None = None,
    mpp: float | None = None,
    spots: str | Path | None = None,
    genes: str | Path | None = None,
) -> Path:
    """Predict one slide from start to finish, in this process.

    Parameters
    ----------
    slide:
        Path or ``s3://`` URI.
    bundle:
        Folder or ``s3://`` prefix of a bundle.
    outdir:
        Folder for every artifact; the results are ``<sample>.h5ad``, ``.parquet`` and ``.html``.
    sample:
        Name in the outputs; ``slide`` where none is given, since a file name can hold an accession number.
    mpp:
        Micrometres per pixel, where the file does not say.
    spots:
        Table of measured spots; a grid is laid where it is absent.
    genes:
        File with a gene a line, each of the bundle's; or ``genes.parquet`` of ``histocast genes embed``, for genes
        that the bundle need not know. All genes of the bundle by default.

    Returns
    -------
    Path
        The AnnData file.

    Raises
    ------
    HistocastError
        See `histocast.errors`.
    """
    from histocast.records import SlideRecord, read_record
    from histocast.report import report_sample

    outdir, bundle = Path(outdir), str(bundle)
    location = SlideLocation(sample or "slide", str(slide), mpp=mpp)
    tile(location, bundle=bundle, outdir=outdir, spots=str(spots) if spots else None)
    record = read_record(outdir / "slide.json", SlideRecord)
    tiles, thumbnail = outdir / "tiles.parquet", outdir / "thumbnail.png"
    encode(location, record=record, tiles=tiles, bundle=bundle, outdir=outdir)
    predict(
        record=record,
        tiles=tiles,
        features=outdir / "features.parquet",
        thumbnail=thumbnail,
        bundle=bundle,
        outdir=outdir,
        genes=str(genes) if genes else None,
    )
    expression = outdir / f"{location.sample}.h5ad"
    report_sample(
        expression=expression,
        record=record,
        tiles=tiles,
        thumbnail=thumbnail,
        tissue=outdir / "tissue.png",
        outdir=outdir,
    )
    return expression
