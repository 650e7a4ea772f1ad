"""Run in the environment of `make readers`, where histocast is not: open results as the manual says, and print what was found.

``open_results.py RESULTS PAGE...``: all snippets of the pages, in one namespace, within the folder that holds ``results/``; then
facts as JSON, which the test compares with the files.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ["MPLBACKEND"] = "Agg"
warnings.simplefilter("ignore")


def run_snippets(page: Path, names: dict[str, Any]) -> int:
    """Execute the snippets of a page; return how many. One that neither prints nor draws fails."""
    import matplotlib.pyplot as plt

    snippets = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    for number, snippet in enumerate(snippets):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(snippet, f"{page.name}, snippet {number}", "exec"), names)  # the manual's own code
        for figure in plt.get_fignums():
            pixels = pixels_of(plt.figure(figure))
            assert len({tuple(pixel) for pixel in pixels.reshape(-1, 4)[::7].tolist()}) > 50, "an empty drawing"
        assert said.getvalue() or plt.get_fignums(), snippet
        names.setdefault("drawings", []).extend([snippet] * len(plt.get_fignums()))
        plt.close("all")
    return len(snippets)


def pixels_of(figure: Any) -> Any:
    import numpy as np

    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def facts_of(names: dict[str, Any], outdir: Path) -> dict[str, Any]:
    """What the snippets' variables hold."""
    import anndata
    import numpy as np
    import spatialdata
    from spatialdata.transformations import get_transformation

    # Read anew: scanpy makes categories of columns where it draws.
    sample = anndata.read_h5ad("results/A/A.h5ad")
    slide, gene = names["slide"], names["gene"]
    table, shapes = slide["expression"], slide["tiles"]
    tiles = names["tiles"]
    levels = [slide["overview"][level]["image"] for level in slide["overview"]]
    np.save(outdir / "overview.npy", levels[0].transpose("y", "x", "c").to_numpy())
    return {
        "spatialdata": {
            "same_obs": all(table.obs[name].equals(sample.obs[name]) for name in sample.obs),
            "same_var": all(table.var[name].equals(sample.var[name]) for name in sample.var),
            "same_x": bool(np.array_equal(table.X, sample.X, equal_nan=True)),
            "same_layers": all(
                np.array_equal(table.layers[name], sample.layers[name], equal_nan=True) for name in sample.layers
            ),
            "instances": table.obs["instance"].tolist(),
            "index": shapes.index.tolist(),
            "regions": table.obs["region"].unique().tolist(),
            "bounds": shapes.bounds.to_numpy().tolist(),
            "extent_um": [
                float(value)
                for axis in ("x", "y")
                for value in spatialdata.get_extent(shapes, coordinate_system="um")[axis]
            ],
            "overview_to_level0": get_transformation(levels[0], to_coordinate_system="level0_px")
            .to_affine_matrix(("x", "y"), ("x", "y"))
            .tolist(),
            "levels": [level.shape for level in levels],
            "values": spatialdata.get_values(gene, sdata=slide, element_name="tiles", table_name="expression")[
                gene
            ].tolist(),
            "picture": np.unique(np.asarray(names["picture"])).tolist(),
            "corner": names["corner"]["expression"].obs["instance"].tolist(),
            "attrs": slide.attrs["histocast"],
        },
        "squidpy": {
            "neighbours": int(names["good"].obsp["spatial_connectivities"].nnz),
            "moran": float(names["good"].uns["moranI"].loc["ERBB2", "I"]),
        },
        "scanpy": {
            "signature": names["good"].obs["proliferation"].tolist(),
            "genes": [gene for gene in names["asked"] if gene in names["good"].var_names],
        },
        "duckdb": {
            "highest": names["highest"].df().to_dict("list"),
            "columns": list(names["duckdb"].sql("FROM 'results/A/A.parquet'").columns),
        },
        "pandas": {"values": names["table"][names["column"]].tolist()},
        "polars": {"by_sample": names["by_sample"].collect().to_dicts()},
        "qupath": {
            "valid": bool(names["objects"].is_valid.all()),
            "bounds": tiles.bounds.to_numpy().tolist(),
            "names": tiles["name"].tolist(),
            "measurements": [as_mapping(value) for value in tiles["measurements"]],
        },
        "zarr": {"same": bool(np.array_equal(names["same"].X, sample.X, equal_nan=True))},
        "drawings": len(names["drawings"]),
    }


def as_mapping(value: Any) -> dict[str, float]:
    return json.loads(value) if isinstance(value, str) else value


def main() -> None:
    outdir, *pages = (Path(argument) for argument in sys.argv[1:])
    names: dict[str, Any] = {}
    counts = [run_snippets(page, names) for page in pages]
    (outdir / "facts.json").write_text(json.dumps({"snippets": counts, **facts_of(names, outdir)}))


if __name__ == "__main__":
    main()
