"""Two runs of ``-profile test``, held against each other."""

from __future__ import annotations

import anndata
import numpy as np
import pyarrow.parquet as pq

from pipeline_runs import Run

SAMPLES = ("A", "B")


def assert_same_results(found: Run, expected: Run) -> None:
    """Every number of every sample's AnnData and Parquet is the same, and so is what became of each sample."""
    for sample in SAMPLES:
        mine, other = (anndata.read_h5ad(run.outdir / sample / f"{sample}.h5ad") for run in (found, expected))
        assert mine.n_obs > 30
        assert list(mine.var_names) == list(other.var_names)
        np.testing.assert_array_equal(mine.X, other.X)
        np.testing.assert_array_equal(mine.obsm["spatial"], other.obsm["spatial"])
        for layer in other.layers:
            np.testing.assert_array_equal(mine.layers[layer], other.layers[layer])
        tables = [pq.read_table(run.outdir / sample / f"{sample}.parquet") for run in (found, expected)]
        assert tables[0].equals(tables[1])
    outcomes = [[row for row in read_outcomes(run) if row["sample"] in SAMPLES] for run in (found, expected)]
    assert outcomes[0] == outcomes[1]
    assert [(row["sample"], row["outcome"]) for row in outcomes[0]] == [(sample, "ok") for sample in SAMPLES]


def read_outcomes(run: Run) -> list[dict[str, object]]:
    """What became of each sample."""
    columns = ["sample", "outcome", "tiles", "spots"]
    return pq.read_table(run.outdir / "summary.parquet", columns=columns).to_pylist()
