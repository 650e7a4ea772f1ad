"""What PREPARE does: sections of a training set from slides and counts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from histocast.artifacts import PIXELS_FILE, write_atomically
from histocast.bundle import TileGeometry, read_bundle
from histocast.encoders.encode_tiles import BATCH_TILES, read_centres, stopped
from histocast.errors import OutputError, UsageError
from histocast.progress import Meter
from histocast.records import SlideRecord
from histocast.resources import available_threads, scratch_folder
from histocast.stages.encode import Encode
from histocast.stages.environment import SlideLocation, opened_slide
from histocast.stages.tile import Tile
from histocast.training.export_encoders import export_encoders
from histocast.training.recipe import Recipe

ENCODERS = "encoders"
"""Folder of the set that holds the encoders its sections went through; EXPORT ships them."""


def prepare_sections(
    sheet: Path,
    *,
    recipe: Recipe,
    outdir: Path,
    samples: Sequence[str] | None = None,
    genes: Path | None = None,
    encoder_names: Sequence[str] | None = None,
    encoders: Path | None = None,
    keep_pixels: bool = False,
) -> None:
    """Tile and encode every section of a training sheet and align it with its counts: ``outdir/<sample>/``.

    Parameters are the fields of `histocast.stages.prepare.Prepare`; sections can be prepared apart and gathered.
    Raises `UsageError`: a sample is not in the sheet; `HistocastError`: a section cannot be tiled, encoded or aligned,
    or its counts have too few genes of the panel.
    """
    from histocast.progress import log, track
    from histocast.records import SlideRecord, read_record
    from histocast.sections.read_counts import read_counts
    from histocast.sections.read_training_sheet import read_training_sheet
    from histocast.sections.section import prepare_section
    from histocast.storage import fetch_file
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
        folder = encoders or outdir / ENCODERS
        bundle = read_bundle(encoders) if encoders else None
        for row in track(chosen, label="prepare", total=len(chosen), unit="sections"):
            stages = scratch / row.sample
            stages.mkdir()
            # A Visium folder is a folder, which only a disk has.
            file = fetch_file(row.counts, stages) if "://" in row.counts else Path(row.counts)
            # Before anything long: counts without genes of the panel are refused at once.
            counts = read_counts(file, genes=genes)
            log(f"prepare {row.sample}: {describe_counts(counts, recipe, sample=row.sample)}")
            bundle = bundle or export_encoders(recipe, outdir=folder, names=encoder_names)
            given = {"slide": row.slide, "mpp": row.mpp, "bundle": folder, "outdir": stages}
            Tile(sample=row.sample, spots=row.spots, **given).work()
            Encode(slide_record=stages / "slide.json", tiles=stages / "tiles.parquet", **given).work()
            if keep_pixels:
                record = read_record(stages / "slide.json", SlideRecord)
                _keep_pixels(SlideLocation(row.sample, row.slide, mpp=row.mpp), record, stages, bundle.geometry)
            section = prepare_section(stages, patient=row.patient, counts=counts, bundle=bundle, outdir=outdir)
            log(f"prepare {row.sample}: {describe_spots(section)}")


def _keep_pixels(location: SlideLocation, record: SlideRecord, stages: Path, geometry: TileGeometry) -> None:
    """Write ``pixels.npy``, reading the tiles a second time: ENCODE hands no pixels on.

    A tile that cannot be read is black, and its features say so.
    Raises `DataError`: the tiles are another slide's; `OutputError`: the disk has no room.
    """
    from histocast.progress import Clock

    tile_id, centres_level0_px = read_centres(stages / "tiles.parquet", record)
    side, um_per_px, threads = geometry.tile_px, geometry.um_per_px, available_threads()
    with scratch_folder(stages) as scratch, opened_slide(location, scratch, Clock()) as (slide, _):
        batches = slide.read_tiles(
            centres_level0_px, tile_px=side, um_per_px=um_per_px, batch_tiles=BATCH_TILES, threads=threads
        )
        with (
            write_atomically(stages / PIXELS_FILE) as temporary,
            Meter(f"keep pixels {record.sample}", total=len(tile_id)) as meter,
            stopped(batches),
        ):
            _reserve(temporary, (len(tile_id), side, side, 3))
            kept = np.load(temporary, mmap_mode="r+")
            for batch in batches:
                kept[batch.index] = batch.pixels
                meter.advance(len(batch.index))
            kept.flush()


def _reserve(path: Path, shape: tuple[int, ...]) -> None:
    """Write the header and take all the room: writing a memory map to a full disk ends the process by a signal."""
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        )
        size_bytes = int(np.prod(shape, dtype=np.int64))
        if size_bytes == 0:
            return
        try:
            os.posix_fallocate(stream.fileno(), stream.tell(), size_bytes)
        except OSError as error:
            raise OutputError(
                f"no room for {size_bytes / 1e9:.2f} GB of pixels: {error.strerror or error}",
                where=str(path.parent),
                advice="make room, or prepare without --keep-pixels",
            ) from error
