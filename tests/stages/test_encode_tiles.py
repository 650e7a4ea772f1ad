"""Claims: every tile in tissue is encoded once, from its own pixels, in bounded memory; what cannot be is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from histocast.artifacts import FEATURES, open_parquet, parquet_writer, read_table
from histocast.bundle import Bundle, TensorSpec
from histocast.encoders.encode_tiles import encode_tiles
from histocast.errors import ConfigError, DataError
from histocast.fusion.features_file import FeatureRows, feature_lengths, features_schema
from histocast.fusion.fusion_inputs import SpotFeatures
from histocast.inference import open_predictor
from histocast.records import Provenance, SlideRecord
from histocast.slide import Slide, open_slide
from histocast.storage import Range, open_source
from histocast.storage.local import LocalSource
from known_encoders import expected_embedding, write_encoder, write_shipped_bundle
from made_slides import Recipe, paint_arrays, write_slide
from spot_files import SLIDE_DIGEST, square_array, write_tiles

TILE_PX = 32
PITCH_PX = 40
COLUMNS, ROWS = 18, 14
BLOCK_PX = 64


@dataclass(frozen=True)
class Case:
    """A slide of noise of uneven colour, tiles over it, and a bundle."""

    path: Path
    tiles: Path
    centres: np.ndarray
    in_tissue: np.ndarray
    record: SlideRecord
    folder: Path
    bundle: Bundle
    outdir: Path

    @contextmanager
    def slide(self) -> Iterator[Slide]:
        with (
            open_source(str(self.path)) as source,
            open_slide(source, sample="S1", mpp=None, scratch=self.outdir.parent) as slide,
        ):
            yield slide

    def encode(self, bundle: Bundle | None = None, **options: object) -> dict[str, float | int | str]:
        used = bundle or self.bundle
        names = tuple(encoder.name for encoder in used.encoders)
        with self.slide() as slide, open_predictor(self.folder, used, names=names, threads=2) as predictor:
            return encode_tiles(
                slide,
                tiles=self.tiles,
                bundle=used,
                predictor=predictor,
                outdir=self.outdir,
                **{"record": self.record, "threads": 2, **options},
            )

    def read_pixels(self) -> np.ndarray:
        """Tiles in tissue [tile, row, column, 3], in the order of ``tiles.parquet``."""
        centres = self.centres[self.in_tissue]
        pixels = np.empty((len(centres), TILE_PX, TILE_PX, 3), np.uint8)
        with self.slide() as slide:
            for batch in slide.read_tiles(centres, tile_px=TILE_PX, um_per_px=0.5, threads=1):
                pixels[batch.index] = batch.pixels
        return pixels

    def features(self) -> pa.Table:
        return read_table(self.outdir / "features.parquet", FEATURES)[0].sort_by("tile_id")


def make_case(folder: Path, *, empty: bool = False) -> Case:
    centres, row, column = square_array(COLUMNS, ROWS, pitch_px=PITCH_PX)
    random = np.random.default_rng(2)
    width, height = COLUMNS * PITCH_PX, ROWS * PITCH_PX
    colours = random.integers(30, 226, (ROWS, COLUMNS, 3)).repeat(PITCH_PX, axis=0).repeat(PITCH_PX, axis=1)
    image = np.clip(colours + random.integers(-30, 30, (height, width, 3)), 0, 255).astype(np.uint8)
    recipe = Recipe(width, height, tile_px=(BLOCK_PX, BLOCK_PX), compression="deflate", um_per_px=0.5)
    in_tissue = (np.arange(len(centres)) % 5 > 0) & (not empty)
    bundle = write_shipped_bundle(
        folder / "bundle",
        write_encoder(folder / "bundle", "bright", scale=1.0, tile_px=TILE_PX, output="map"),
        encoder=write_encoder(folder / "bundle", tile_px=TILE_PX),
    )
    digests = {"slide_digest": SLIDE_DIGEST, "bundle_digest": "sha256:" + "7" * 64}
    return Case(
        path=write_slide(folder / "slide.tiff", recipe, paint_arrays(image)),
        tiles=write_tiles(
            folder / "tiles.parquet", centres, array_row=row, array_col=column, in_tissue=in_tissue, sample="S1"
        ),
        centres=centres,
        in_tissue=in_tissue,
        record=SlideRecord.model_construct(sample="S1", **digests),
        folder=folder / "bundle",
        bundle=bundle,
        outdir=folder / "out",
    )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return make_case(tmp_path)


def damage_blocks(case: Case, numbers: range) -> None:
    """Overwrite stored blocks with bytes that no decoder takes."""
    with tifffile.TiffFile(case.path) as file:
        page = file.pages[0]
        places = [(page.dataoffsets[number], page.databytecounts[number]) for number in numbers]
    with case.path.open("r+b") as stream:
        for offset, length in places:
            stream.seek(offset)
            stream.write(b"\xff" * length)


def test_every_tile_in_tissue_is_encoded_once_from_its_own_pixels(case: Case) -> None:
    facts = case.encode()
    table = case.features()
    assert table.column("tile_id").to_pylist() == np.flatnonzero(case.in_tissue).tolist()
    assert set(table.column("status").to_pylist()) == {"ok"}
    for name, scale in (("morphology.embedding", 1 / 255), ("bright.map", 1.0)):
        found = np.array(table.column(name).to_pylist())
        np.testing.assert_allclose(found, expected_embedding(case.read_pixels(), scale=scale), rtol=1e-3)
    assert facts["tiles"] == case.in_tissue.sum()
    assert facts["unreadable"] == 0


def test_the_file_is_the_artifact_later_stages_expect(case: Case, tmp_path: Path) -> None:
    case.encode()
    file, provenance = open_parquet(case.outdir / "features.parquet", FEATURES)
    with file:
        assert file.schema_arrow.names == ["tile_id", "status", "morphology.embedding", "bright.map"]
        assert file.schema_arrow.field("bright.map").type == pa.list_(pa.float16(), 6)
    assert provenance.inputs["slide"] == SLIDE_DIGEST
    assert provenance.inputs["bundle"] == case.record.bundle_digest
    assert provenance.inputs["tiles"].startswith("sha256:")
    assert provenance.parameters == {
        "tile_px": TILE_PX,
        "um_per_px": 0.5,
        "encoders": {"morphology": "1", "bright": "1"},
    }
    spots = SpotFeatures.open(
        case.tiles, case.outdir / "features.parquet", columns=case.bundle.feature_columns(), scratch=tmp_path
    )
    assert spots.readable.all()
    np.testing.assert_allclose(
        np.asarray(spots.columns["morphology.embedding"]), expected_embedding(case.read_pixels()), rtol=1e-3
    )


def test_a_second_run_writes_the_same_bytes(case: Case) -> None:
    case.encode()
    first = (case.outdir / "features.parquet").read_bytes()
    case.encode(threads=1)
    assert (case.outdir / "features.parquet").read_bytes() == first


PARTS = ("starting_s", "waiting_on_store_s", "waiting_on_decode_s", "inference_s", "writing_s")


def test_time_is_accounted_for(case: Case) -> None:
    facts = case.encode()
    parts = [float(facts[name]) for name in PARTS]
    assert all(part >= 0 for part in parts)
    assert sum(parts) <= float(facts["total_s"]) + 0.01
    assert float(facts["tiles_per_s"]) == pytest.approx(case.in_tissue.sum() / float(facts["total_s"]), rel=0.1)
    assert facts["waiting_on_store_s"] < 0.2, "the disk is next door"


class SlowDisk(LocalSource):
    """A file each of whose reads takes a while, as on a network file system."""

    pause_s = 0.0

    def read_ranges(self, ranges: Mapping[int, Range], *, max_gap_bytes: int | None = None) -> Mapping[int, bytes]:
        time.sleep(self.pause_s)
        return super().read_ranges(ranges, max_gap_bytes=max_gap_bytes)


def test_a_slow_store_is_told_from_slow_decoding(case: Case) -> None:
    names = tuple(encoder.name for encoder in case.bundle.encoders)
    with (
        SlowDisk(str(case.path)) as source,
        open_slide(source, sample="S1", mpp=None, scratch=case.outdir.parent) as slide,
        open_predictor(case.folder, case.bundle, names=names, threads=2) as predictor,
    ):
        source.pause_s = 0.3
        facts = encode_tiles(
            slide,
            record=case.record,
            tiles=case.tiles,
            bundle=case.bundle,
            predictor=predictor,
            outdir=case.outdir,
            threads=2,
        )
    assert facts["bottleneck"] == "waiting for the store"
    assert 0.25 < float(facts["waiting_on_store_s"]) <= float(facts["total_s"])
    assert float(facts["waiting_on_decode_s"]) < float(facts["waiting_on_store_s"])


def test_a_slide_without_tissue_gives_a_complete_empty_file(tmp_path: Path) -> None:
    case = make_case(tmp_path, empty=True)
    assert case.encode()["tiles"] == 0
    assert case.features().num_rows == 0
    assert case.features().schema.names[2:] == ["morphology.embedding", "bright.map"]


def test_unreadable_tiles_keep_their_rows_and_leave_the_others_alone(case: Case, tmp_path: Path) -> None:
    case.encode()
    whole = case.features()
    damage_blocks(case, range(3, 4))
    facts = case.encode()
    table = case.features()
    lost = np.array([status == "unreadable" for status in table.column("status").to_pylist()])
    left, right = 3 * BLOCK_PX, 4 * BLOCK_PX
    x, y = case.centres[case.in_tissue].T
    half = TILE_PX / 2
    touches = (x + half > left) & (x - half < right) & (y - half < BLOCK_PX)
    assert lost.tolist() == touches.tolist()
    assert facts["unreadable"] == lost.sum() > 0
    for name in ("morphology.embedding", "bright.map"):
        assert table.column(name).is_null().to_pylist() == lost.tolist()
        assert table.column(name).filter(pa.array(~lost)) == whole.column(name).filter(pa.array(~lost))
    spots = SpotFeatures.open(
        case.tiles, case.outdir / "features.parquet", columns=case.bundle.feature_columns(), scratch=tmp_path
    )
    assert spots.readable.tolist() == (~lost).tolist()


def test_too_many_unreadable_tiles_fail_the_slide_with_share_limit_and_reason(case: Case) -> None:
    damage_blocks(case, range(60))
    with pytest.raises(DataError) as raised:
        case.encode(max_unreadable=0.1)
    assert raised.value.exit_code == 65
    assert f"of {case.in_tissue.sum()} tiles" in raised.value.found
    assert "%" in raised.value.found
    assert raised.value.expected == "at most 10.0%"
    assert "S1" in str(raised.value)
    assert case.path.name not in str(raised.value)
    assert list(case.outdir.iterdir()) == []


def test_a_limit_of_one_accepts_a_slide_of_which_nothing_can_be_read(case: Case) -> None:
    damage_blocks(case, range(108))
    facts = case.encode(max_unreadable=1.0)
    assert facts["unreadable"] == facts["tiles"] == case.in_tissue.sum()
    assert case.features().column("morphology.embedding").null_count == case.in_tissue.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"logarithm": True}, "tensor 'embedding'"), ({"scale": 1000.0}, r"morphology\.embedding.*a value of")],
)
def test_nan_and_what_overflows_half_precision_are_errors_and_leave_no_file(
    tmp_path: Path, options: dict[str, float | bool], message: str
) -> None:
    case = make_case(tmp_path)
    spec = write_encoder(case.folder, tile_px=TILE_PX, **options)
    bundle = case.bundle.model_copy(update={"encoders": (spec,)})
    threads = set(threading.enumerate())
    with pytest.raises(ConfigError, match=message):
        case.encode(bundle)
    assert list(case.outdir.iterdir()) == []
    assert {thread for thread in threading.enumerate() if not thread.daemon} <= threads


def test_tiles_of_another_slide_are_refused(case: Case) -> None:
    other = case.record.model_copy(update={"slide_digest": "sampled-sha256:" + "0" * 64})
    with pytest.raises(DataError, match="tiles were made with slide"):
        case.encode(record=other)


def test_an_encoder_output_of_no_fixed_length_is_refused_before_any_pixel_is_read(case: Case) -> None:
    spec = case.bundle.encoders[0]
    loose = spec.model_copy(update={"outputs": (TensorSpec(name="embedding", dtype="float32", shape=("tile", "dim")),)})
    with pytest.raises(ConfigError, match="fixed length"):
        feature_lengths(case.bundle.model_copy(update={"encoders": (loose,)}).feature_columns())


@pytest.mark.parametrize(("length", "largest_rows"), [(16, 1056), (786_432, 32)])
def test_row_groups_end_by_rows_or_by_bytes(tmp_path: Path, length: int, largest_rows: int) -> None:
    lengths = {"e.out": length}
    provenance = Provenance(artifact="features", schema_version=FEATURES.version, sample="S1")
    batches, rows = (70, 32) if length == 16 else (4, 16)
    with parquet_writer(tmp_path / "f.parquet", features_schema(lengths), provenance) as writer:
        gathered = FeatureRows(writer, lengths)
        for batch in range(batches):
            ids = np.arange(rows, dtype=np.int32) + batch * rows
            gathered.add(ids, np.ones(rows, bool), {"e.out": np.full((rows, length), batch, np.float32)})
        gathered.flush()
    file = pq.ParquetFile(tmp_path / "f.parquet")
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    assert sum(sizes) == batches * rows
    assert len(sizes) > 1
    assert max(sizes) <= largest_rows
