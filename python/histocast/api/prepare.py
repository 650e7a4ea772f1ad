"""PREPARE: sections of a training set from slides and counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histocast.api.predict import encode, tile
from histocast.api.surroundings import SlideLocation, opened_slide
from histocast.errors import UsageError
from histocast.processors import available_threads
from histocast.scratch import scratch_folder

if TYPE_CHECKING:
    from histocast.bundle import Bundle, TileGeometry
    from histocast.records import SlideRecord
    from histocast.training import Recipe

ENCODERS = "encoders"
"""Folder of the set that holds the encoders its sections went through; EXPORT ships them."""


def prepare(
    sheet: Path,
    *,
    recipe: Recipe,
    outdir: Path,
    samples: Sequence[str] | None = None,
    genes: Path | None = None,
    encoder_names: Sequence[str] | None = None,
    keep_pixels: bool = False,
) -> None:
    """Tile and encode every section of a training sheet and align it with its counts: ``outdir/<sample>/``.

    The encoders stand in ``outdir/encoders``; those with weights come from where ``recipe.exported`` says.

    Parameters
    ----------
    sheet:
        Training sheet ``sample,slide,counts,patient[,spots][,mpp]``.
    samples:
        The rows to prepare; all of them where it is absent. Sections can be prepared apart and gathered.
    genes:
        Table ``gene_id,gene_symbol`` for counts that hold symbols only.
    encoder_names:
        Encoders in place of the recipe's own, for sections that several methods will take features of.
    keep_pixels:
        Keep the pixels of every tile, for a method that trains its encoder.

    Raises
    ------
    UsageError
        A sample is not in the sheet.
    HistocastError
        A section cannot be tiled, encoded or aligned, or its counts have too few genes of the panel.
    """
    from histocast.progress import log, track
    from histocast.records import SlideRecord, read_record
    from histocast.storage import fetch_file
    from histocast.training import export_encoders, prepare_section, read_training_sheet
    from histocast.training.read_counts import read_counts
    from histocast.training.section_genes import describe_counts, describe_spots

    rows = read_training_sheet(sheet)
    if unknown := set(samples or ()) - {row.sample for row in rows}:
        raise UsageError(
            f"no sample {', '.join(sorted(unknown))}",
            expected=f"some of {', '.join(row.sample for row in rows)}",
            where=str(sheet),
        )
    chosen = [row for row in rows if not samples or row.sample in samples]
    with scratch_folder(outdir) as scratch:
        encoders = outdir / ENCODERS
        bundle: Bundle | None = None
        for row in track(chosen, label="prepare", total=len(chosen), unit="sections"):
            stages = scratch / row.sample
            stages.mkdir()
            # A Visium folder is a folder, which only a disk has.
            file = fetch_file(row.counts, stages) if "://" in row.counts else Path(row.counts)
            # Before anything long: counts without genes of the panel are refused at once.
            counts = read_counts(file, genes=genes)
            log(f"prepare {row.sample}: {describe_counts(counts, recipe, sample=row.sample)}")
            bundle = bundle or export_encoders(recipe, outdir=encoders, names=encoder_names)
            location = SlideLocation(row.sample, row.slide, mpp=row.mpp)
            tile(location, bundle=str(encoders), outdir=stages, spots=row.spots)
            record = read_record(stages / "slide.json", SlideRecord)
            encode(location, record=record, tiles=stages / "tiles.parquet", bundle=str(encoders), outdir=stages)
            if keep_pixels:
                _keep_pixels(location, record, stages, bundle.geometry)
            section = prepare_section(stages, patient=row.patient, counts=counts, bundle=bundle, outdir=outdir)
            log(f"prepare {row.sample}: {describe_spots(section)}")


def _keep_pixels(location: SlideLocation, record: SlideRecord, stages: Path, geometry: TileGeometry) -> None:
    """Read the tiles a second time: ENCODE hands no pixels on."""
    from histocast.encode import keep_pixels
    from histocast.progress import Clock

    with scratch_folder(stages) as scratch, opened_slide(location, scratch, Clock()) as (slide, _):
        keep_pixels(
            slide,
            record=record,
            tiles=stages / "tiles.parquet",
            geometry=geometry,
            outdir=stages,
            threads=available_threads(),
        )
