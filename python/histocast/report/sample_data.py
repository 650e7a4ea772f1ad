"""What a sample's page needs of ``<sample>.h5ad``: tables whole, matrices one gene at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError, MissingInputError
from histocast.fusion.panel import find_shown
from histocast.fusion.selected_genes import EVIDENCE, LEVELS, TRAINED
from histocast.genes.name_tables import find_other_names

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float32]

CANDIDATES = 60
"""Genes among which maps that differ are looked for: those predicted best."""
ALIKE = (0.7, 0.85, 0.95)
"""Correlation over spots from which two maps show the same; the next is used where too few genes are below it."""
FAIR_SHARE, FAIR_GENES = 0.5, 18
KEPT_BYTES, LEAST_KEPT = 16 * 2**20, 4
"""Of decompressed blocks of columns, since genes are not asked for in the order in which the file holds them."""


@dataclass(frozen=True)
class SampleData:
    """The expression artifact of one sample, as far as a page shows it."""

    spots: pd.DataFrame
    """``obs``."""
    centres_level0_px: NDArray[np.float64]
    """[spot, 2] (x, y)."""
    genes: pd.DataFrame
    """``var``."""
    provenance: dict[str, Any]
    """``uns['histocast']``."""
    shown: NDArray[np.int64]
    """Places of the mapped genes on the gene axis: those the model was trained on, the best first, then others."""
    maps: Floats
    """[spot, shown gene]."""
    selected: bool = False
    """Whether a user named the genes that are shown."""

    @property
    def unseen(self) -> NDArray[np.bool_]:
        """[gene]: whether no measured value of it trained the model."""
        return (self.genes[EVIDENCE] != TRAINED).to_numpy()

    @property
    def readable(self) -> NDArray[np.bool_]:
        """[spot]: whether it was predicted."""
        return (self.spots["status"] == "ok").to_numpy()


ReadColumn = Callable[[str, int], Floats]


@contextmanager
def open_columns(path: Path, *, sample: str) -> Iterator[ReadColumn]:
    """Yield a reader of one gene's numbers [spot] of a matrix, ``X`` or one of ``layers``.

    Memory is bounded by `KEPT_BYTES` or by `LEAST_KEPT` columns of the file's chunks, whatever the number of genes.

    Raises `DataError`: the file is not what PREDICT wrote; also where a damaged part of it is met later.
    """
    import h5py

    kept: OrderedDict[tuple[str, int], Floats] = OrderedDict()
    with _as_data_error(sample):
        file = h5py.File(path, "r")

    def read(matrix: str, gene: int) -> Floats:
        with _as_data_error(sample):
            dataset = file[matrix]
            width = dataset.chunks[1] if dataset.chunks else 1
            key = matrix, gene // width
            if key not in kept:
                start = key[1] * width
                block = dataset[:, start : start + width]
                while len(kept) >= LEAST_KEPT and block.nbytes * (len(kept) + 1) > KEPT_BYTES:
                    kept.popitem(last=False)
                kept[key] = block
            kept.move_to_end(key)
            return np.asarray(kept[key][:, gene % width], np.float32)

    with file:
        yield read


def read_sample(
    path: Path, *, sample: str, shown_genes: int, shown_unseen: int, names: str | None = None
) -> SampleData:
    """Read the tables, and the columns of the genes that are worth a map.

    ``shown_genes``, ``shown_unseen``: most genes to map of those that the model was trained on, and of others.
    ``names``: genes to map instead, with commas between them.
    Raises `MissingInputError`: there is no such file; `DataError`: it is not an AnnData file that PREDICT wrote, or of
    another sample; or it lacks a gene of ``names``.
    """
    import h5py
    from anndata.io import read_elem

    if not path.is_file():
        raise MissingInputError(
            "no expression file", expected="<sample>.h5ad of the predict stage", where=f"sample {sample}"
        )
    with _as_data_error(sample), h5py.File(path, "r") as file:
        provenance = read_elem(file["uns/histocast"])
        genes = read_elem(file["var"])
        spots, centres = read_elem(file["obs"]), read_elem(file["obsm/spatial"])
    if provenance["sample"] != sample:
        raise DataError(f"expression of sample {provenance['sample']!r}", expected=sample, where=f"sample {sample}")
    order = _find(names, genes) if names else choose_genes(genes, count=len(genes))
    measured = (genes[EVIDENCE] == TRAINED).to_numpy()[order]
    with open_columns(path, sample=sample) as read:
        groups = [(order[measured], shown_genes), (order[~measured], shown_unseen)]
        if not names:
            groups = [
                (choose_diverse(prefer_accurate(genes, group), lambda gene: read("X", gene), count=most), most)
                for group, most in groups
            ]
        shown = np.concatenate([group for group, _ in groups])
        maps = np.empty((len(spots), len(shown)), np.float32)
        for place, gene in enumerate(shown):
            maps[:, place] = read("X", gene)
    return SampleData(spots, centres, genes, provenance, shown, maps, bool(names))


def _find(names: str, genes: pd.DataFrame) -> NDArray[np.int64]:
    import pyarrow as pa

    table = pa.table({"gene_id": list(genes.index), "gene_symbol": genes["gene_symbol"].astype(str).tolist()})
    return np.asarray(find_shown(names, table, other_names=find_other_names), np.int64)


@contextmanager
def _as_data_error(sample: str) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError) as error:
        raise DataError(
            f"not an expression file of histocast: {error}",
            expected="<sample>.h5ad of the predict stage",
            where=f"sample {sample}",
            advice="run predict again",
        ) from error


def prefer_accurate(genes: pd.DataFrame, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The part of ``order`` that is at least half as accurate as its best gene; all of it where too little is left."""
    accuracy = genes["val_pcc"].to_numpy(np.float64, na_value=np.nan)[order]
    good = accuracy >= FAIR_SHARE * np.nanmax(accuracy, initial=0.0)
    return order[good] if good.sum() >= FAIR_GENES else order


def choose_diverse(order: NDArray[np.int64], read: Callable[[int], Floats], *, count: int) -> NDArray[np.int64]:
    """At most ``count`` genes of ``order``, in its order, whose maps differ as far as that can be had.

    A gene whose map is like that of an earlier one is left out, as is one that is the same everywhere, unless too few
    others are there.
    """
    candidates = order[:CANDIDATES]
    if not count or not len(candidates):
        return candidates[:0]
    maps = np.empty((len(candidates), len(read(int(candidates[0])))), np.float64)
    # In the file's order, which asks for each of its blocks once.
    for place in np.argsort(candidates):
        maps[place] = read(int(candidates[place]))
    maps = maps[:, np.isfinite(maps).all(axis=0)]
    with np.errstate(invalid="ignore"):
        alike = np.nan_to_num(np.abs(np.atleast_2d(np.corrcoef(maps))), nan=1.0) if maps.shape[1] > 1 else None
    if alike is None:
        return candidates[:count]
    chosen: list[int] = []
    for limit in (*ALIKE, np.inf):
        for place in range(len(candidates)):
            differs = (
                place not in chosen
                and (limit == np.inf or _varies(maps[place]))
                and (alike[place, chosen] < limit).all()
            )
            if differs and len(chosen) < count:
                chosen.append(place)
    return candidates[sorted(chosen)]


def _varies(values: NDArray[np.float64]) -> bool:
    return bool(np.ptp(values) > 0)


def choose_genes(genes: pd.DataFrame, *, count: int) -> NDArray[np.int64]:
    """The genes predicted best on held-out sections; where that is equal or unknown, those that vary most here.

    Genes that were measured in training stand before those described near them, and these before the others.
    """
    accuracy = genes["val_pcc"].to_numpy(np.float64, na_value=np.nan)
    spread = genes["predicted_sd"].to_numpy(np.float64, na_value=np.nan)
    known = np.nan_to_num(accuracy, nan=-np.inf).round(3)
    level = genes[EVIDENCE].map({name: place for place, name in enumerate(LEVELS)}).to_numpy(np.int64)
    order: NDArray[np.int64] = np.lexsort((-np.nan_to_num(spread, nan=-1.0), -known, level))
    return order[:count]
