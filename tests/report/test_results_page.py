"""Every program that the manual names opens what a run writes, and finds in it what the AnnData file holds.

The manual's own snippets do it, in environments of their own (`make readers`), so that nothing of histocast helps them. It is one
test, because each worker of pytest that took a part would load all of these programs again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest

from histocast.report.pictures import read_rgb

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / name for name in ("results.md", "output.md")]
TILE_PX = 224


def program_of(environment: str) -> Path:
    """The Python of an environment that `make readers` made; without it tests are skipped, in CI they fail."""
    path = ROOT / ".tools" / environment / "bin" / "python"
    if not path.exists():
        pytest.skip(f".tools/{environment} is absent: make readers")
    return path


def call(*command: str | Path, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@dataclass(frozen=True)
class Opened:
    """What a run wrote, and what programs found in it."""

    folder: Path
    """Where ``results/A`` is."""
    data: anndata.AnnData
    facts: dict[str, Any]


def open_results(folder: Path) -> Opened:
    """Take a slide of ``-profile test`` through all stages, by the verb, and open the results as the manual says."""
    symbols = pq.read_table(ROOT / "assets" / "demo-bundle" / "genes.parquet").column("gene_symbol").to_pylist()
    assert "ERBB2" in symbols
    (folder / "panel.txt").write_text("\n".join(symbols).replace("ERBB2", "HER2"))
    readers = program_of("readers")
    call(
        *(readers, "-m", "histocast", "predict-slide", ROOT / "assets" / "test" / "A.tiff"),
        *("--bundle", ROOT / "assets" / "demo-bundle", "--sample", "A", "--outdir", "results/A"),
        *("--genes", "panel.txt", "--formats", "geojson,zarr,spatialdata"),
        cwd=folder,
        PYTHONPATH=str(ROOT / "python"),
    )
    call(readers, ROOT / "tests" / "report" / "open_results.py", folder, *PAGES, cwd=folder)
    data = anndata.read_h5ad(folder / "results" / "A" / "A.h5ad")
    return Opened(folder, data, json.loads((folder / "facts.json").read_text()))


def by_symbol(data: anndata.AnnData, symbol: str) -> np.ndarray:
    return np.asarray(data.X[:, list(data.var["gene_symbol"]).index(symbol)], np.float64)


def corners(data: anndata.AnnData) -> np.ndarray:
    """[tile, 4]: left, top, right, bottom in level-0 pixels."""
    return np.hstack([data.obsm["spatial"] - TILE_PX / 2, data.obsm["spatial"] + TILE_PX / 2])


@pytest.mark.timeout(600)
def test_every_program_of_the_manual_opens_the_results(tmp_path: Path) -> None:
    opened = open_results(tmp_path)
    for check in (
        _snippets_run_and_programs_draw,
        _panel_finds_a_gene_by_another_name,
        _spatialdata_holds_table_tiles_and_picture,
        _spatialdata_is_asked_by_place_and_gene,
        _spatialdata_names_the_slide_by_its_digest,
        _scanpy_and_squidpy_find_what_is_there,
        _tables_are_asked_in_sql_and_by_data_frames,
        _geojson_is_valid_and_lies_on_the_tiles,
        _zarr_holds_the_same,
        _cellxgene_serves_every_gene_at_its_place,
    ):
        check(opened)


def _snippets_run_and_programs_draw(opened: Opened) -> None:
    written = [page.read_text().count("```python") for page in PAGES]
    assert opened.facts["snippets"] == written
    assert written[0] >= 11
    # scanpy, squidpy, spatialdata-plot, and scanpy once more in output.md.
    assert opened.facts["drawings"] >= 4


def _panel_finds_a_gene_by_another_name(opened: Opened) -> None:
    genes = pq.read_table(ROOT / "assets" / "demo-bundle" / "genes.parquet")
    assert opened.data.var_names.tolist() == genes.column("gene_id").to_pylist(), "HER2 of the panel is ERBB2"


def _spatialdata_holds_table_tiles_and_picture(opened: Opened) -> None:
    store = opened.facts["spatialdata"]
    for name in ("same_obs", "same_var", "same_x", "same_layers"):
        assert store[name], name
    assert store["instances"] == store["index"] == list(opened.data.obs_names)
    assert store["regions"] == ["tiles"]
    np.testing.assert_allclose(store["bounds"], corners(opened.data))
    um_per_px = store["attrs"]["um_per_px"]
    left, top, right, bottom = corners(opened.data).T * um_per_px
    np.testing.assert_allclose(store["extent_um"], [left.min(), right.max(), top.min(), bottom.max()])
    picture = read_rgb(opened.folder / "results" / "A" / "thumbnail.png", sample="A")
    np.testing.assert_array_equal(np.load(opened.folder / "overview.npy"), picture)
    record = json.loads((opened.folder / "results" / "A" / "slide.json").read_text())
    scale = record["thumbnail_um_per_px"] / record["um_per_px"]
    np.testing.assert_allclose(store["overview_to_level0"], np.diag([scale, scale, 1]))
    halves = [[3, side >> level, width >> level] for level in range(9) for side, width in [picture.shape[:2]]]
    assert len(store["levels"]) > 1
    assert store["levels"] == halves[: len(store["levels"])]


def _spatialdata_is_asked_by_place_and_gene(opened: Opened) -> None:
    store = opened.facts["spatialdata"]
    values = by_symbol(opened.data, "ERBB2")
    np.testing.assert_allclose(store["values"], values, rtol=1e-6)
    assert set(np.round(store["picture"], 4)) <= {0.0, *np.round(values, 4)}
    assert len(store["picture"]) > 20, "a pixel has the value of the tile it lies in"
    left, top, right, bottom = corners(opened.data).T * store["attrs"]["um_per_px"]
    inside = (right > 400) & (left < 900) & (bottom > 0) & (top < 500)
    assert set(store["corner"]) <= set(opened.data.obs_names[inside])
    assert len(store["corner"]) > 5


def _spatialdata_names_the_slide_by_its_digest(opened: Opened) -> None:
    known = opened.data.uns["histocast"]
    assert opened.facts["spatialdata"]["attrs"] == {
        "schema_version": 1,
        "histocast_version": known["histocast_version"],
        "sample": "A",
        "slide": known["inputs"]["slide"],
        "bundle": known["inputs"]["bundle"],
        "um_per_px": 0.5,
    }
    store = opened.folder / "results" / "A" / "A.spatialdata.zarr"
    parts = sorted(path for path in store.rglob("*") if path.is_file())
    named = [
        path
        for path in parts
        for word in (b"A.tiff", str(opened.folder).encode(), str(ROOT).encode())
        if word in path.read_bytes()
    ]
    assert named == []
    lines = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(store)}\n" for path in parts)
    facts = json.loads((opened.folder / "results" / "A" / "report.status.json").read_text())["facts"]
    assert facts["spatialdata.zarr_sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def _scanpy_and_squidpy_find_what_is_there(opened: Opened) -> None:
    good = (opened.data.obs["in_statistics"] & ~opened.data.obs["ood_flag"]).to_numpy()
    genes = opened.facts["scanpy"]["genes"]
    assert genes == ["MKI67", "TOP2A", "PCNA", "CCNB1", "BIRC5"], "and UBE2C is not predicted"
    values = np.stack([by_symbol(opened.data, gene)[good] for gene in genes])
    z = (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True, ddof=1)
    np.testing.assert_allclose(opened.facts["scanpy"]["signature"], z.mean(axis=0), atol=1e-4)
    places = {tuple(place) for place in opened.data.obsm["spatial"][good]}
    steps = [(TILE_PX, 0), (-TILE_PX, 0), (0, TILE_PX), (0, -TILE_PX)]
    assert opened.facts["squidpy"]["neighbours"] == sum(
        (x + dx, y + dy) in places for x, y in places for dx, dy in steps
    )
    assert 0.2 < opened.facts["squidpy"]["moran"] < 1


def _tables_are_asked_in_sql_and_by_data_frames(opened: Opened) -> None:
    table = pq.read_table(opened.folder / "results" / "A" / "A.parquet")
    assert opened.facts["duckdb"]["columns"] == table.column_names
    quality = {"in_tissue", "status", "ood_flag", "ood_score", "blur", "pen_fraction"}
    assert quality <= set(table.column_names)
    good = (opened.data.obs["in_tissue"] & opened.data.obs["in_statistics"] & ~opened.data.obs["ood_flag"]).to_numpy()
    mean = opened.data.to_df()[good].mean().set_axis(opened.data.var["gene_symbol"]).sort_values(ascending=False)
    assert opened.facts["duckdb"]["highest"]["gene_symbol"] == list(mean.index)
    np.testing.assert_allclose(opened.facts["duckdb"]["highest"]["mean"], mean, rtol=1e-5)
    accuracy = opened.data.var.set_index("gene_symbol")["val_pcc"].loc[mean.index]
    np.testing.assert_allclose(opened.facts["duckdb"]["highest"]["val_pcc"], accuracy, rtol=1e-6)
    np.testing.assert_allclose(opened.facts["pandas"]["values"], by_symbol(opened.data, "ERBB2"), rtol=1e-6)
    (row,) = opened.facts["polars"]["by_sample"]
    inside = opened.data.obs["in_statistics"].to_numpy()
    assert (row["sample"], row["len"]) == ("A", int(inside.sum()))
    assert row["mean"] == pytest.approx(by_symbol(opened.data, "ERBB2")[inside].mean(), rel=1e-5)


def _geojson_is_valid_and_lies_on_the_tiles(opened: Opened) -> None:
    tiles = opened.facts["qupath"]
    assert tiles["valid"]
    np.testing.assert_allclose(tiles["bounds"], corners(opened.data))
    assert tiles["names"] == [f"tile{tile}" for tile in opened.data.obs["tile_id"]]
    for gene in set(tiles["measurements"][0]) & set(opened.data.var["gene_symbol"]):
        np.testing.assert_allclose(
            [tile[gene] for tile in tiles["measurements"]], by_symbol(opened.data, gene), rtol=1e-5
        )


def _zarr_holds_the_same(opened: Opened) -> None:
    assert opened.facts["zarr"]["same"]


def _cellxgene_serves_every_gene_at_its_place(opened: Opened) -> None:
    script = ROOT / "tests" / "report" / "open_in_cellxgene.py"
    served = json.loads(
        call(program_of("cellxgene"), script, "results/A/A.h5ad", cwd=opened.folder, CXG_SECRET_KEY="for a test")
    )
    assert served["embeddings"] == ["spatial"]
    np.testing.assert_allclose(served["places"], opened.data.obsm["spatial"])
    assert served["genes"] == list(opened.data.var["gene_symbol"])
    np.testing.assert_allclose(served["values"], by_symbol(opened.data, "ERBB2"), rtol=1e-6)
    assert set(opened.data.obs) <= set(served["columns"])
    assert served["schema"]["dataframe"] == {"nObs": opened.data.n_obs, "nVar": opened.data.n_vars, "type": "float32"}
