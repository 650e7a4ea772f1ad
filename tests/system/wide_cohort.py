"""The page of a large cohort, made without slides."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from histocast.artifacts import SLIDES
from histocast.cohort.cohort_page import Shown, write_cohort_page
from histocast.cohort.embed_slides import Embedding
from histocast.cohort.matrix_file import MatrixFile
from histocast.cohort.read_slides import BATCH, LAYERS, Batch, Model, X
from made_cohort import BUNDLE, DIM, PICTURE, gene_columns


def write_wide_page(folder: Path, *, slides: int, genes: int) -> Path:
    """Write ``cohort.html`` of random slides S0, S1 ... with a page's columns, map and pictures."""
    random = np.random.default_rng(1)
    known: dict[str, object] = {column.name: [None] * slides for column in SLIDES.columns}
    known |= {
        "sample": [f"S{number}" for number in range(slides)],
        "outcome": ["ok"] * slides,
        "in_matrix": [True] * slides,
        "outlier": random.random(slides) < 0.01,
        "stain_absorbance": random.normal(0.3, 0.02, slides),
        "tissue_area_mm2": random.lognormal(4, 0.3, slides),
        "mean_expression": random.normal(1, 0.1, slides),
        "vendor": random.choice(["aperio", "hamamatsu"], slides).tolist(),
        "picture_jpeg": [PICTURE] * slides,
        "meta.site": random.choice([f"site {number}" for number in range(8)], slides).tolist(),
    }
    table = pa.table(known, schema=SLIDES.arrow(pa.field("meta.site", pa.string())))
    pq.write_table(table.select(["picture_jpeg"]), folder / "pictures.parquet")
    columns = pa.table(gene_columns(genes))
    places = random.normal(size=(slides, 2)).astype(np.float32)
    with h5py.File(folder / "matrix.h5", "w") as file:
        matrix = MatrixFile(file)
        for start in range(0, slides, BATCH):
            count = min(BATCH, slides - start)
            values = random.normal(1, 0.3, (count, genes)).astype(np.float32)
            matrix.append(Batch([], {X: values, **dict.fromkeys(LAYERS, values)}, np.zeros((count, DIM), np.float32)))
        write_cohort_page(
            folder / "cohort.html",
            Shown(
                slides=pl.from_arrow(table.drop_columns(["picture_jpeg"])),  # type: ignore[arg-type]
                pictures=folder / "pictures.parquet",
                matrix=matrix,
                model=Model(BUNDLE, None, columns, "embedding", DIM),
                embedding=Embedding(None, np.arange(genes), np.zeros(0), places),
                signatures=None,
            ),
        )
    return folder / "cohort.html"
