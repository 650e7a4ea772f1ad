"""Where slides are in relation to each other: principal components, neighbours and a map (UMAP), made by scanpy, and clusters."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histocast.cohort.cluster_slides import cluster_slides
from histocast.errors import ConfigError
from histocast.resources import scratch_array

if TYPE_CHECKING:
    import h5py

COMPONENTS = 50
MOST_GENES = 2000
"""Genes that enter the components: those that differ most between slides."""
NEIGHBOURS = 15
FEWEST_FOR_COMPONENTS, FEWEST_FOR_MAP = 3, 10
"""Slides; of fewer there is no such thing."""
_CHUNK = 1000


@dataclass(frozen=True)
class Embedding:
    """What is known of the slides' places; None where there are too few of them."""

    components: NDArray[np.float32] | None
    """[slide, component]."""
    gene_index: NDArray[np.int64]
    """Genes that the components are of."""
    variance_ratio: NDArray[np.float64]
    """[component] share of these genes' variance."""
    map: NDArray[np.float32] | None
    """[slide, 2]."""
    distances: Any = None
    """Sparse [slide, slide]."""
    connectivities: Any = None
    """Sparse [slide, slide]."""
    neighbours: dict[str, Any] | None = None
    """What scanpy keeps in ``uns['neighbors']``."""
    clusters: NDArray[np.int32] | None = None
    """[slide] from 1; see `cluster_slides`."""


def embed_slides(matrix: h5py.Dataset, *, sd: NDArray[np.float64], scratch: Path) -> Embedding:
    """Embed slides by their mean expression.

    ``matrix``: [slide, gene], read by blocks of rows.
    ``sd``: [gene] over the slides.
    Raises `ConfigError`: scanpy is not installed.
    """
    genes = np.sort(np.argsort(-sd, kind="stable")[:MOST_GENES])
    genes = genes[sd[genes] > 0]
    slides = matrix.shape[0]
    if slides < FEWEST_FOR_COMPONENTS or not len(genes):
        return Embedding(None, genes, np.zeros(0), None)
    scanpy, anndata = _import_scanpy()
    values = scratch_array(scratch, "components", shape=(slides, len(genes)), dtype=np.float32)
    for start in range(0, slides, _CHUNK):
        values[start : start + _CHUNK] = matrix[start : start + _CHUNK][:, genes]
    data = anndata.AnnData(values)
    components = min(COMPONENTS, slides - 1, len(genes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.pp.pca(data, n_comps=components, chunked=True, chunk_size=max(_CHUNK, components))
        places = data.obsm["X_pca"].astype(np.float32)
        made = Embedding(places, genes, np.asarray(data.uns["pca"]["variance_ratio"]), None)
        # The values, mapped from disk, stay in memory no longer than the components need them.
        del values
        data = anndata.AnnData(obsm={"X_pca": places}, shape=(slides, 0))
        if slides < FEWEST_FOR_MAP:
            return made
        # By scikit-learn at any size: from 8,192 slides on scanpy would search with pynndescent, whose present release hands it
        # what it cannot read.
        neighbours = min(NEIGHBOURS, slides - 1)
        scanpy.pp.neighbors(data, n_neighbors=neighbours, use_rep="X_pca", random_state=0, transformer="sklearn")
        scanpy.tl.umap(data, random_state=0)
    return Embedding(
        places,
        genes,
        made.variance_ratio,
        data.obsm["X_umap"].astype(np.float32),
        data.obsp["distances"].astype(np.float32),
        data.obsp["connectivities"].astype(np.float32),
        dict(data.uns["neighbors"]),
        cluster_slides(places),
    )


def _import_scanpy() -> tuple[Any, Any]:
    try:
        import anndata
        import scanpy
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed", advice="pip install 'histocast[cohort]'") from error
    return scanpy, anndata
