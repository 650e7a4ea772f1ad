"""Write ``<sample>.h5ad`` by blocks, in AnnData's on-disk format.

``AnnData.write_h5ad`` would need every layer in memory. The format is public and versioned, so the small
elements go through anndata's own writer and the matrices are chunked datasets filled from scratch.
https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histocast import __version__
from histocast.artifacts import write_atomically
from histocast.bundle import Bundle, Metric
from histocast.expression.hdf5_file import create_hdf5
from histocast.expression.prediction import BLOCK_ROWS, Prediction
from histocast.expression.scope import describe_scope
from histocast.expression.slide_summary import SlideStatistics
from histocast.fusion.selected_genes import EVIDENCE, LEVELS, NEAREST_GENE, TEXT_DISTANCE
from histocast.records import Provenance, SlideRecord

if TYPE_CHECKING:
    import h5py
    import pandas as pd


# A chunk of 512 spots by 64 genes is 128 KiB: a viewer that colours by one gene reads a small part of the file.
CHUNK = (512, 64)
COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


@dataclass(frozen=True)
class SpatialImage:
    """The picture under the spots, as scanpy and squidpy look for it."""

    pixels: NDArray[np.uint8]
    """RGB [row, column, 3]."""
    um_per_px: float


def write_anndata(
    path: Path,
    prediction: Prediction,
    *,
    record: SlideRecord,
    bundle: Bundle,
    provenance: Provenance,
    image: SpatialImage,
    statistics: SlideStatistics,
) -> None:
    """Write the AnnData file of one sample; ``statistics`` takes the predictions on their way.

    Raises `OutputError`: the folder cannot be written, or the disk is full. Nothing is left behind.
    """
    from anndata.io import write_elem

    with write_atomically(path) as temporary, create_hdf5(temporary) as (file, check):
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        moments = _write_matrices(file, prediction, statistics, check=check)
        elements: dict[str, Any] = {
            "obs": observations(prediction, record.sample),
            "var": variables(prediction, moments),
            # A viewer such as cellxgene shows what is called X_ and nothing else.
            "obsm": dict.fromkeys(("spatial", "X_spatial"), prediction.spots.centres_level0_px),
            **{empty: {} for empty in ("obsp", "varm", "varp")},
            "uns/histocast": provenance_tree(provenance, bundle),
        }
        for name, element in elements.items():
            write_elem(file, name, element)
            check()
        write_elem(file, f"uns/spatial/{record.sample}", _spatial(record, image), dataset_kwargs=COMPRESSION)
        for group in ("layers", "uns", "uns/spatial"):
            file[group].attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})


def _write_matrices(
    file: h5py.File, prediction: Prediction, statistics: SlideStatistics, *, check: Callable[[], None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Write ``X`` and the layers; return mean and sd of each gene over the slide's clean spots, [gene] each."""
    shape = prediction.expression.shape
    names = {"expression": "X", "sd": "layers/sd", "lower": "layers/lower", "upper": "layers/upper"}
    datasets = {key: _dataset(file, name, shape) for key, name in names.items()}
    total, squares = np.zeros(shape[1]), np.zeros(shape[1])
    for rows in prediction.blocks(BLOCK_ROWS):
        lower, upper = prediction.interval(rows)
        values = np.asarray(prediction.expression[rows])
        datasets["expression"][rows] = values
        datasets["sd"][rows] = prediction.sd[rows]
        datasets["lower"][rows] = lower
        datasets["upper"][rows] = upper
        check()
        statistics.add(rows, values)
        clean = values[prediction.spots.in_statistics[rows]]
        total += clean.sum(axis=0, dtype=np.float64)
        squares += np.square(clean, dtype=np.float64).sum(axis=0)
    count = int(prediction.spots.in_statistics.sum())
    if count == 0:
        return np.full(shape[1], np.nan), np.full(shape[1], np.nan)
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0))


def _dataset(file: h5py.File, name: str, shape: tuple[int, ...]) -> Any:
    options: dict[str, Any] = {}
    if all(shape):
        options = {"chunks": tuple(min(axis, most) for axis, most in zip(shape, CHUNK, strict=True)), **COMPRESSION}
    dataset = file.create_dataset(name, shape=shape, dtype=np.float32, **options)
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return dataset


def observations(prediction: Prediction, sample: str) -> pd.DataFrame:
    """``obs``: the tile columns, how each tile was read, its mean uncertainty and how unusual it is.

    The index is ``<sample>_<spot>``, unique over samples.
    """
    import pandas as pd

    table: pd.DataFrame = prediction.spots.tiles.to_pandas()
    table["spot"] = prediction.spot_names()
    table.index = pd.Index([f"{sample}_{spot}" for spot in table["spot"]], dtype=object)
    readable = prediction.spots.readable
    table.insert(0, "sample", pd.Series([sample] * len(table), index=table.index, dtype="category"))
    status = pd.CategoricalDtype(["ok", "unreadable"])
    table["status"] = pd.Series(np.where(readable, "ok", "unreadable"), index=table.index, dtype=status)
    table["mean_sd"] = _by_block(prediction, lambda rows: prediction.sd[rows].mean(axis=1))
    table["in_statistics"] = prediction.spots.in_statistics
    table["ood_score"] = prediction.ood_score
    table["ood_flag"] = prediction.ood_flag
    return table


def _by_block(prediction: Prediction, compute: Callable[[slice], NDArray[Any]]) -> NDArray[np.float32]:
    values = np.full(len(prediction), np.nan, np.float32)
    for rows in prediction.blocks():
        values[rows] = compute(rows)
    return values


def variables(prediction: Prediction, moments: tuple[NDArray[np.float64], NDArray[np.float64]]) -> pd.DataFrame:
    """``var``: index gene_id, then what is known of each gene, and the mean and sd of its predictions."""
    import pandas as pd

    genes = prediction.genes
    return pd.DataFrame(
        {
            "gene_symbol": genes.column("gene_symbol").to_pandas().astype(object).to_numpy(),
            "seen_in_training": genes.column("seen_in_training").to_numpy(),
            EVIDENCE: pd.Categorical(genes.column(EVIDENCE).to_pylist(), categories=LEVELS),
            NEAREST_GENE: genes.column(NEAREST_GENE).to_pandas().astype(object).to_numpy(),
            TEXT_DISTANCE: genes.column(TEXT_DISTANCE).to_pandas().astype(np.float32).to_numpy(),
            "val_pcc": genes.column("val_pcc").to_pandas().astype(np.float32).to_numpy(),
            "training_mean": genes.column("mean").to_numpy(),
            "interval_half_width_sd": prediction.half_width,
            "predicted_mean": moments[0].astype(np.float32),
            "predicted_sd": moments[1].astype(np.float32),
        },
        index=pd.Index(genes.column("gene_id").to_pylist(), name="gene_id", dtype=object),
    )


def _spatial(record: SlideRecord, image: SpatialImage) -> dict[str, Any]:
    """One library of ``uns['spatial']``.

    A drawn spot is as large as the tile the model saw, unless tiles overlap: then as large as the pitch.
    """
    diameter_um = min(record.tile_px * record.requested_um_per_px, record.pitch_um)
    return {
        "images": {"hires": image.pixels},
        "scalefactors": {
            "tissue_hires_scalef": record.um_per_px / image.um_per_px,
            "spot_diameter_fullres": diameter_um / record.um_per_px,
        },
        "metadata": {"um_per_px": record.um_per_px},
    }


def provenance_tree(provenance: Provenance, bundle: Bundle) -> dict[str, Any]:
    """``uns['histocast']``: nested mappings of strings, numbers and tables, which AnnData can hold."""
    import pandas as pd

    metrics = [metric.model_dump() for metric in bundle.metrics]
    encoders = [
        {"name": e.name, "version": e.version, "licence": e.licence, "sha256": e.sha256} for e in bundle.encoders
    ]
    return {
        "schema_version": provenance.schema_version,
        "histocast_version": __version__,
        "sample": provenance.sample,
        "inputs": provenance.inputs,
        "parameters": provenance.parameters,
        "software": provenance.software,
        "bundle": {
            "name": bundle.name,
            "version": bundle.version,
            "created_by": bundle.created_by,
            "method": bundle.fusion.method,
            "description": bundle.description,
            "intended_use": bundle.intended_use,
            "licence": bundle.licence,
            "fusion_sha256": bundle.fusion.sha256,
            "training_data": json.dumps(bundle.training_data),
        },
        "encoders": pd.DataFrame(encoders),
        "scale": bundle.scale.model_dump(exclude_none=True),
        "scope": describe_scope(bundle),
        "calibration": bundle.calibration.model_dump(exclude_none=True),
        "ood": {"column": bundle.ood.column, "threshold": bundle.ood.threshold},
        "metrics": pd.DataFrame(metrics, columns=list(Metric.model_fields)),
    }
