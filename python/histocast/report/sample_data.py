"""What a sample's page needs of ``<sample>.h5ad``: tables whole, matrices only the columns shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError, MissingInputError
from histocast.serving.asked_genes import EVIDENCE, LEVELS, TRAINED

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float32]


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

    @property
    def unseen(self) -> NDArray[np.bool_]:
        """[gene]: whether no measured value of it trained the model."""
        return (self.genes[EVIDENCE] != TRAINED).to_numpy()

    @property
    def readable(self) -> NDArray[np.bool_]:
        """[spot]: whether it was predicted."""
        return (self.spots["status"] == "ok").to_numpy()


def read_sample(path: Path, *, sample: str, shown_genes: int, shown_unseen: int) -> SampleData:
    """Read the tables, and the columns of the genes that are worth a map.

    Parameters
    ----------
    shown_genes, shown_unseen:
        Most genes to map of those that the model was trained on, and of others.

    Raises
    ------
    MissingInputError
        There is no such file.
    DataError
        It is not an AnnData file that PREDICT wrote, or of another sample.
    """
    import h5py
    from anndata.io import read_elem

    if not path.is_file():
        raise MissingInputError(
            "no expression file", expected="<sample>.h5ad of the predict stage", where=f"sample {sample}"
        )
    try:
        with h5py.File(path, "r") as file:
            provenance = read_elem(file["uns/histocast"])
            genes = read_elem(file["var"])
            shown = choose_shown(genes, count=shown_genes, unseen=shown_unseen)
            maps = np.empty((file["X"].shape[0], len(shown)), np.float32)
            for place, gene in enumerate(shown):
                maps[:, place] = file["X"][:, gene]
            spots, centres = read_elem(file["obs"]), read_elem(file["obsm/spatial"])
    except (OSError, KeyError) as error:
        raise DataError(
            f"not an expression file of histocast: {error}",
            expected="<sample>.h5ad of the predict stage",
            where=f"sample {sample}",
            advice="run predict again",
        ) from error
    if provenance["sample"] != sample:
        raise DataError(f"expression of sample {provenance['sample']!r}", expected=sample, where=f"sample {sample}")
    return SampleData(spots, centres, genes, provenance, shown, maps)


def choose_shown(genes: pd.DataFrame, *, count: int, unseen: int) -> NDArray[np.int64]:
    """The first ``count`` of `choose_genes` that were measured, then the first ``unseen`` that were not."""
    order = choose_genes(genes, count=len(genes))
    measured = (genes[EVIDENCE] == TRAINED).to_numpy()[order]
    return np.concatenate([order[measured][:count], order[~measured][:unseen]])


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
