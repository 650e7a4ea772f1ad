"""What ENCODE does: every tile in tissue through every encoder, once.

    reader threads   decode and cut the tiles to come            bounded by `Slide.read_tiles`
    predictor        encoders over batches under way             bounded by `Predictor.in_flight`
    this thread      rows to disk in row groups

Rows stand in the order in which the reader hands out tiles, which follows the slide's storage and is the same
on each run; ``tile_id`` says which tile a row is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import FEATURES, TILES, parquet_writer, read_table
from histocast.bundle import Bundle, sha256_of_file
from histocast.errors import DataError, StaleInputError
from histocast.fusion.features_file import FeatureRows, feature_lengths, features_schema
from histocast.inference.predictor import Pending, Predictor
from histocast.progress import Clock, Meter
from histocast.records import Provenance, SlideRecord

if TYPE_CHECKING:
    from histocast.slide import Slide, TileBatch


BATCH_TILES = 64
TILES_PER_THREAD = 8
"""Tiles in one call: a request of useful size to a server, and enough for each of many threads here."""

SHOWN_REASONS = 3


def encode_tiles(  # noqa: PLR0913 - what the stage is given, and what it works with
    slide: Slide,
    *,
    record: SlideRecord,
    tiles: Path,
    bundle: Bundle,
    predictor: Predictor,
    outdir: Path,
    max_unreadable: float = 0.05,
    threads: int,
    clock: Clock | None = None,
) -> dict[str, float | int | str]:
    """Write ``features.parquet`` for the tiles in tissue.

    ``slide``: where the pixels come from.
    ``record``: what TILE said of the slide.
    ``tiles``: ``tiles.parquet``.
    ``bundle``: states the encoders and the geometry of a tile.
    ``predictor``: runs the bundle's encoders.
    ``outdir``: where ``features.parquet`` is written.
    ``max_unreadable``: largest share of tiles that may be unreadable, 0 to 1; their rows are kept without features.
    ``threads``: threads that decode.
    ``clock``: counts the stage's time, where it began earlier.
    Returns: ``tiles``, ``unreadable``, where the time went as `Clock.facts` has it, and what the predictor says of its
        servers.
    Raises `DataError`: the tiles are another slide's, or more than ``max_unreadable`` of them cannot be read;
    `ConfigError`: an encoder's output does not fit its contract or half precision.
    """
    tile_id, centres_level0_px = read_centres(tiles, record)
    lengths = feature_lengths(bundle.feature_columns())
    provenance = provenance_of(record, bundle, tiles_digest="sha256:" + sha256_of_file(tiles))
    clock = clock or Clock()
    unreadable = Unreadable()
    batches = slide.read_tiles(
        centres_level0_px,
        tile_px=bundle.geometry.tile_px,
        um_per_px=bundle.geometry.um_per_px,
        batch_tiles=BATCH_TILES if predictor.in_flight > 1 else max(BATCH_TILES, TILES_PER_THREAD * threads),
        threads=threads,
    )
    with (
        parquet_writer(outdir / "features.parquet", features_schema(lengths), provenance) as writer,
        Meter(f"encode {record.sample}", total=len(tile_id)) as meter,
        stopped(batches),
    ):
        rows = FeatureRows(writer, lengths)
        for batch, features in encoded(timed(batches, slide, clock), bundle, predictor, clock):
            unreadable.note(batch)
            with clock.spent("writing"):
                rows.add(tile_id[batch.index], batch.readable, features)
            meter.advance(len(batch.index))
        with clock.spent("writing"):
            rows.flush()
        unreadable.check(total=len(tile_id), max_unreadable=max_unreadable, sample=record.sample)
    servers = predictor.facts()
    times = clock.facts(len(tile_id), unit="tiles", on_servers=bool(servers))
    return {"tiles": len(tile_id), "unreadable": unreadable.count, **times, **servers}


def read_centres(tiles: Path, record: SlideRecord) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Numbers [tile] and centres (x, y) [tile, 2] of the tiles in tissue.

    Raises `StaleInputError`: the tiles were laid on another slide, or for another bundle.
    """
    table, provenance = read_table(tiles, TILES)
    for role, stated in (("slide", record.slide_digest), ("bundle", record.bundle_digest)):
        if (found := provenance.inputs.get(role, stated)) != stated:
            raise StaleInputError(
                f"tiles were made with {role} {found}",
                expected=f"{role} {stated}, as slide.json",
                where=f"sample {record.sample}",
                advice="give the slide.json and the tiles.parquet of one run of tile",
            )
    table = table.filter(table.column("in_tissue"))
    centres = [table.column(name).to_numpy() for name in ("x_level0_px", "y_level0_px")]
    return table.column("tile_id").to_numpy(), np.stack(centres, axis=-1)


def provenance_of(record: SlideRecord, bundle: Bundle, *, tiles_digest: str) -> Provenance:
    """What decided the features."""
    return FEATURES.provenance(
        record.sample,
        inputs={"slide": record.slide_digest, "bundle": record.bundle_digest, "tiles": tiles_digest},
        parameters={
            "tile_px": bundle.geometry.tile_px,
            "um_per_px": bundle.geometry.um_per_px,
            "encoders": {encoder.name: encoder.version for encoder in bundle.encoders},
        },
    )


def encoded(
    batches: Iterator[TileBatch], bundle: Bundle, predictor: Predictor, clock: Clock
) -> Iterator[tuple[TileBatch, dict[str, NDArray[Any]]]]:
    """Yield batches in their order with their feature columns, [tile, ...] of the readable tiles each.

    As many batches are under way as the predictor makes use of; a batch of which nothing can be read has no columns.
    """
    under_way: deque[tuple[TileBatch, dict[str, Pending]]] = deque()

    def finish_oldest() -> tuple[TileBatch, dict[str, NDArray[Any]]]:
        batch, calls = under_way.popleft()
        with clock.spent("inference"):
            outputs = {name: call.result() for name, call in calls.items()}
        return batch, {f"{name}.{key}": value for name, given in outputs.items() for key, value in given.items()}

    for batch in batches:
        pixels = batch.pixels if batch.readable.all() else batch.pixels[batch.readable]
        encoders = bundle.encoders if len(pixels) else ()
        with clock.spent("inference"):
            calls = {each.name: predictor.submit(each.name, {each.inputs[0].name: pixels}) for each in encoders}
        under_way.append((batch, calls))
        if len(under_way) >= predictor.in_flight:
            yield finish_oldest()
    while under_way:
        yield finish_oldest()


def timed(batches: Iterator[TileBatch], slide: Slide, clock: Clock) -> Iterator[TileBatch]:
    """Yield ``batches``, and count what each kept us waiting: for the store as long as decoding waited for it too."""
    while True:
        before_s = slide.waited_on_store_s
        with clock.spent("decode"):
            batch = next(batches, None)
        clock.move(slide.waited_on_store_s - before_s, source="decode", target="store")
        if batch is None:
            return
        yield batch


@contextmanager
def stopped(batches: Iterator[TileBatch]) -> Iterator[None]:
    """Stop the reader's threads when the block ends, also by an error: the slide is closed soon after."""
    try:
        yield
    finally:
        if isinstance(batches, Generator):
            batches.close()


class Unreadable:
    """Tiles whose pixels could not be decoded."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons: list[str] = []

    def note(self, batch: TileBatch) -> None:
        """Count a batch's unreadable tiles and keep the first few reasons."""
        self.count += int((~batch.readable).sum())
        for reason in batch.reasons.values():
            if len(self.reasons) < SHOWN_REASONS and reason not in self.reasons:
                self.reasons.append(reason)

    def check(self, *, total: int, max_unreadable: float, sample: str) -> None:
        """Refuse a slide too much of which is damaged.

        Raises `DataError`: the share of unreadable tiles is above ``max_unreadable``.
        """
        if self.count > max_unreadable * total:
            raise DataError(
                f"{self.count} of {total} tiles in tissue cannot be read ({self.count / total:.1%}): "
                + "; ".join(self.reasons),
                expected=f"at most {max_unreadable:.1%}",
                where=f"slide of sample {sample}",
                advice="copy the slide again; if it cannot be had whole, raise --max_unreadable",
            )
