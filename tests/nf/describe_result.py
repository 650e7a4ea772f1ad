"""Print what of an AnnData or Parquet result is the same on every machine: shape, order of genes, rounded means.

Digests of these files are not: they hold versions of the libraries that wrote them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anndata
import numpy as np
import pyarrow.parquet as pq

DECIMALS = 2


def describe(path: Path) -> dict[str, object]:
    """Shape, names of the columns and means over the rows."""
    if path.suffix == ".h5ad":
        data = anndata.read_h5ad(path)
        names, values = list(data.var_names), np.asarray(data.X)
    else:
        table = pq.read_table(path)
        names = [field.name for field in table.schema if b"gene_symbol" in (field.metadata or {})]
        values = np.stack([table[name].to_numpy() for name in names], axis=1)
    means = np.nanmean(values, axis=0).round(DECIMALS)
    return {"shape": list(values.shape), "names": names, "means": [float(mean) for mean in means]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe(Path(sys.argv[1]))) + "\n")
