"""One section of a training set: an encoded slide with its counts aligned to its spots.

    <set>/<sample>/section.json      `SectionRecord`
                   slide.json tiles.parquet features.parquet      as TILE and ENCODE wrote them
                   counts.h5ad       raw counts of all genes, one row per measured spot
                   pixels.npy        pixels of the tiles, where prepare was asked to keep them

Any folder of such folders is a training set, so sections can be prepared apart and gathered.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import PIXELS_FILE, TILES, read_table, write_atomically, write_json
from histocast.bundle import Bundle, EncoderSpec, TileGeometry, sha256_of_file
from histocast.errors import DataError
from histocast.fusion.fusion_inputs import SpotFeatures
from histocast.records import Record, SlideRecord, read_record
from histocast.resources import scratch_folder
from histocast.sections.counts import CountMatrix, GeneIdSource
from histocast.sections.gene_names import GeneNames
from histocast.sections.match_spots import check_pitch, match_spots
from histocast.sections.read_anndata import open_anndata
from histocast.sections.read_counts import read_counts

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SECTION_FILE, COUNTS_FILE = "section.json", "counts.h5ad"
STAGE_FILES = ("slide.json", "tiles.parquet", "features.parquet")


class SectionRecord(Record):
    """``section.json``: what a section is made of."""

    schema_version: Literal[1] = 1
    sample: str
    patient: str
    geometry: TileGeometry
    encoders: tuple[EncoderSpec, ...]
    """What the features were made with; all sections of a training share it."""
    pitch_um: float
    um_per_px: float
    spots: int
    """Measured spots that have a tile: the rows of ``counts.h5ad``."""
    spots_without_tile: int
    """Rows of the counts whose spot is not in the spot table."""
    tiles_without_counts: int
    """Spots of the table that the counts do not hold: they give context and no label."""
    empty_spots: int
    """Spots without a single count, which neither train nor score."""
    genes: int
    total_counts: int
    layout: str
    """Layout the counts came in."""
    gene_id_source: GeneIdSource
    """Where Ensembl ids came from: the counts, a gene table, the shipped names, or nowhere (symbols are in their place)."""
    names: GeneNames | None = None
    """How genes were named and what was left out; None in sections prepared before this was recorded."""
    digests: dict[str, str]
    """Of slide.json, tiles.parquet, features.parquet and pixels.npy, as far as it is there, of the slide, and of the
    counts by their content."""

    @property
    def pitch_level0_px(self) -> float:
        """Distance between neighbouring spots."""
        return self.pitch_um / self.um_per_px


def prepare_section(
    stages: Path, *, patient: str, counts: Path | CountMatrix, bundle: Bundle, outdir: Path, genes: Path | None = None
) -> SectionRecord:
    """Align the counts of an encoded section with its spots and put it into the training set.

    ``stages``: folder with what TILE and ENCODE wrote: slide.json, tiles.parquet, features.parquet, and pixels.npy
        where pixels are kept, which is moved and not copied.
    ``patient``: pseudonym of the patient.
    ``counts``: measured counts, or their file (see `read_counts`).
    ``bundle``: the bundle the section was encoded with, such as `export_encoders` writes.
    ``outdir``: the training set; the section becomes ``outdir/<sample>/``.
    ``genes``: table ``gene_id,gene_symbol`` for counts that hold symbols only.
    Raises `DataError`: the counts cannot be read, share less than half of their spots with the section, or its spots
    are not as far apart as the recipe says.
    """
    slide = read_record(stages / "slide.json", SlideRecord)
    folder = outdir / slide.sample
    kept = _copy_stages(stages, folder)
    tiles, provenance = read_table(folder / "tiles.parquet", TILES)
    found = read_counts(counts, genes=genes) if isinstance(counts, Path) else counts
    check_pitch(slide, bundle.geometry)
    tile_rows, count_rows = match_spots(tiles, found, sample=slide.sample)
    matrix = found.matrix[count_rows]
    _write_counts(
        folder / COUNTS_FILE, matrix, found, tile_id=tiles.column("tile_id").to_numpy()[tile_rows], rows=count_rows
    )
    record = SectionRecord(
        sample=slide.sample,
        patient=patient,
        geometry=bundle.geometry,
        encoders=bundle.encoders,
        pitch_um=slide.pitch_um,
        um_per_px=slide.um_per_px,
        spots=len(count_rows),
        spots_without_tile=len(found.spots) - len(count_rows),
        tiles_without_counts=tiles.num_rows - len(count_rows),
        empty_spots=int((np.asarray(matrix.sum(axis=1)).ravel() == 0).sum()),
        genes=len(found.gene_ids),
        total_counts=int(matrix.sum()),
        layout=found.layout,
        gene_id_source=found.gene_id_source,
        names=found.names,
        digests={
            "slide": provenance.inputs.get("slide", slide.slide_digest),
            "counts": _counts_digest(matrix, [found.spots[row] for row in count_rows], found.gene_ids),
            **{name: f"sha256:{sha256_of_file(folder / name)}" for name in (*STAGE_FILES, *kept)},
        },
    )
    write_json(folder / SECTION_FILE, record)
    return record


def _copy_stages(stages: Path, folder: Path) -> tuple[str, ...]:
    """Bring the stages' files to the section; names of those that a section need not have."""
    if stages.resolve() != folder.resolve():
        for name in STAGE_FILES:
            with write_atomically(folder / name) as temporary:
                shutil.copyfile(stages / name, temporary)
        (folder / PIXELS_FILE).unlink(missing_ok=True)
        if (stages / PIXELS_FILE).is_file():
            with write_atomically(folder / PIXELS_FILE) as temporary:
                shutil.move(stages / PIXELS_FILE, temporary)
    return (PIXELS_FILE,) if (folder / PIXELS_FILE).is_file() else ()


def _write_counts(
    path: Path, matrix: csr_matrix, counts: CountMatrix, *, tile_id: NDArray[np.int32], rows: NDArray[np.int64]
) -> None:
    import anndata
    import pandas as pd

    data = anndata.AnnData(
        X=matrix,
        obs=pd.DataFrame({"tile_id": tile_id}, index=pd.Index([counts.spots[row] for row in rows], name="spot")),
        var=pd.DataFrame(
            {"gene_symbol": list(counts.gene_symbols)}, index=pd.Index(list(counts.gene_ids), name="gene_id")
        ),
    )
    with write_atomically(path) as temporary:
        data.write_h5ad(temporary, compression="gzip")


def _counts_digest(matrix: csr_matrix, spots: Sequence[str], genes: Sequence[str]) -> str:
    """Digest of what the counts say, which does not depend on how HDF5 lays them out."""
    digest = hashlib.sha256()
    for part in (matrix.indptr, matrix.indices, matrix.data):
        digest.update(np.ascontiguousarray(part, np.int64).tobytes())
    digest.update("\n".join([*spots, "", *genes]).encode())
    return f"sha256:{digest.hexdigest()}"


@dataclass(frozen=True)
class Section:
    """A section in memory: every spot in tissue with its features, and the counts of those measured."""

    folder: Path
    """Where its files lie."""
    record: SectionRecord
    store: SpotFeatures
    """Every spot in tissue, as at prediction, so that neighbours and statistics are the same."""
    measured: NDArray[np.int64]
    """[measured]: index into the store of every spot that has both readable features and counts."""
    counts: csr_matrix
    """int32 [measured, gene], all genes."""
    gene_ids: tuple[str, ...]
    gene_symbols: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.measured)


@contextmanager
def open_section(folder: Path) -> Iterator[Section]:
    """Yield a prepared section; its features live in temporary files while it is open.

    Raises `DataError`: a file was changed since the section was prepared; `OutputError`: the scratch disk is full.
    """
    record = read_record(folder / SECTION_FILE, SectionRecord)
    for name in STAGE_FILES:
        refuse_exchanged(name, f"sha256:{sha256_of_file(folder / name)}", record.digests.get(name), where=str(folder))
    columns = {name: spec for encoder in record.encoders for name, spec in encoder.columns().items()}
    with scratch_folder() as arrays:
        store = SpotFeatures.open(
            folder / "tiles.parquet", folder / "features.parquet", columns=columns, scratch=arrays
        )
        yield _with_counts(folder, record, store)


def refuse_exchanged(name: str, found: str, expected: str | None, *, where: str) -> None:
    """Raise `DataError` where a file's digest is not the one its section was prepared with."""
    if found != expected:
        raise DataError(
            f"{name} is not what the section was prepared with: {found}",
            expected=expected,
            where=where,
            advice="run prepare again for this section",
        )


def _with_counts(folder: Path, record: SectionRecord, store: SpotFeatures) -> Section:
    path = folder / COUNTS_FILE
    data = open_anndata(path)
    if data.X is None or not hasattr(data.X, "tocsr") or "tile_id" not in data.obs or "gene_symbol" not in data.var:
        raise DataError(
            "no counts of a prepared section",
            expected="a sparse X, obs['tile_id'] and var['gene_symbol']",
            where=str(path),
            advice="run prepare again for this section",
        )
    counts: csr_matrix = data.X.tocsr()
    found = _counts_digest(counts, list(data.obs_names), list(data.var_names))
    refuse_exchanged(path.name, found, record.digests.get("counts"), where=str(folder))
    tile_id = data.obs["tile_id"].to_numpy()
    # Without one count there is no library to divide by.
    filled = np.asarray(counts.sum(axis=1)).ravel() > 0
    place = np.full(int(max(store.tile_id.max(initial=0), tile_id.max(initial=0))) + 1, -1, np.int64)
    place[store.tile_id] = np.arange(len(store))
    at = place[tile_id]
    usable = filled & (at >= 0)
    usable[usable] = store.readable[at[usable]]
    if not usable.any():
        raise DataError(
            "no spot has both counts and readable features",
            expected="at least one",
            where=f"sample {record.sample}",
            advice="check that the tissue mask covers the spots",
        )
    return Section(
        folder=folder,
        record=record,
        store=store,
        measured=at[usable],
        counts=counts[usable],
        gene_ids=tuple(data.var_names),
        gene_symbols=tuple(data.var["gene_symbol"].astype(str)),
    )
