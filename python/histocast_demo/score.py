"""How well predictions of the demo archive match its hidden truth: Pearson of each gene within each slide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from histocast.artifacts import EXPRESSION, read_table
from histocast.errors import DataError, MissingInputError
from histocast.fusion.selected_genes import EVIDENCE, NEAREST_GENE, TRAINED
from histocast.text_table import TableColumns, read_text_table
from histocast_demo.expression import list_genes, truth_at
from histocast_demo.terrain import read_latents

MIN_SPOTS = 3
"""Two points always correlate."""

FIGURES = ("pearson", "nearest", "shared")


def describe_score(score: pd.DataFrame) -> Iterator[str]:
    """What `score_demo` found in lines: genes, best first, then means and medians over them."""
    spots = ", ".join(f"{name} {count}" for name, count in score.groupby("sample", sort=False).spots.first().items())
    yield f"Pearson of prediction and hidden truth within each slide, log1p counts per 10k (spots: {spots})"
    for (trained,), genes in score.groupby([score.evidence == TRAINED], sort=False):
        if not trained:
            yield "\nGenes whose measured values the model never saw, predicted from their descriptions:"
        wide = genes.pivot(index=["gene", "programme", "evidence"], columns="sample", values="pearson")
        wide["mean"] = wide.mean(axis=1)
        yield wide.sort_values("mean", ascending=False).reset_index().to_string(index=False, float_format="%.2f")
        yield f"mean of {len(wide)} genes: {wide['mean'].mean():.2f}"
        key, how = ("programme", "median") if trained else ("evidence", "mean")
        parts = genes.groupby(key).pearson.agg(how).sort_values(ascending=False)
        yield f"{how} by {key}: " + ", ".join(
            f"{str(name).replace('_', ' ')} {value:.2f}" for name, value in parts.items()
        )
        if not trained:
            nearest, shared = genes.nearest.mean(), genes.shared.mean()
            yield f"for comparison: the gene described alike {nearest:.2f}, one map for all genes {shared:.2f}"
    yield "Genes 'unrelated' and a share of every other follow nothing the slide shows: near 0 is right for them."


def _list_samples(archive: Path) -> list[str]:
    sheet = archive / "samplesheet.csv"
    if not sheet.exists():
        raise MissingInputError(
            "no such file", expected="a folder of 'histocast_demo data'", where=str(sheet), advice="check --archive"
        )
    samples = [row.cells["sample"] for row in read_text_table(sheet, TableColumns(("sample",), others="ignore"))]
    if not all(samples) or not samples:
        raise DataError("rows without a sample", expected="a sample in each row", where=str(sheet))
    return samples


def _predicted(table: pa.Table, where: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions [spot, gene] of the demo's genes by symbol, and what the metadata of their columns say of each."""
    columns = {
        symbol: name
        for symbol, gene in list_genes().gene_id.items()
        for name in (gene, symbol)
        if name in table.schema.names
    }
    if not columns:
        raise DataError(
            "none of the demo's genes is predicted",
            expected="the bundle that is made for the demo, assets/demo-bundle",
            where=str(where),
        )
    metadata = [table.schema.field(name).metadata or {} for name in columns.values()]
    said = {
        key: [fields.get(key.encode(), absent.encode()).decode() for fields in metadata]
        for key, absent in ((EVIDENCE, TRAINED), (NEAREST_GENE, ""))
    }
    values = {symbol: table[name].to_numpy().astype(np.float64) for symbol, name in columns.items()}
    return pd.DataFrame(values), pd.DataFrame(said, index=list(columns))


def _correlate(left: pd.DataFrame, truth: pd.DataFrame) -> list[float]:
    """Pearson of matching columns [spot, gene]; NaN where one is constant or spots are few."""
    if len(truth) < MIN_SPOTS:
        return [np.nan] * truth.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return [np.corrcoef(left.iloc[:, gene], truth.iloc[:, gene])[0, 1] for gene in range(truth.shape[1])]


def score_demo(archive: Path, results: Path) -> pd.DataFrame:
    """Compare ``results/<sample>/<sample>.parquet`` with the truth of every sample of a demo archive.

    Return one row per gene and ``sample``: ``gene`` (its symbol), ``programme``, ``evidence`` (``trained``, or how a gene
    that was never measured is described), ``spots`` scored, and Pearson over them of its prediction (``pearson``), of that
    for the trained gene described most alike (``nearest``), and of the mean over trained genes (``shared``).

    Raises
    ------
    MissingInputError
        The archive or a sample's predictions are absent.
    DataError
        No gene of the demo's panel was predicted, or samples were predicted for different genes.
    """
    parts: list[pd.DataFrame] = []
    for sample in _list_samples(archive):
        path = results / sample / f"{sample}.parquet"
        table, _ = read_table(path, EXPRESSION)
        predicted, said = _predicted(table, path)
        if parts and list(parts[0].gene) != list(said.index):
            raise DataError("other genes than in the samples before", where=str(path))
        latents, seed = read_latents(archive / "truth" / f"{sample}.npz")
        usable = np.isfinite(predicted).all(axis=1).to_numpy()
        points = np.stack([table[axis].to_numpy()[usable] for axis in ("x_level0_px", "y_level0_px")], axis=1)
        truth = pd.DataFrame(truth_at(latents, points, seed=seed), columns=list_genes().index)[said.index]
        predicted = predicted[usable]
        # A gene that was not predicted, or none at all, stands as a constant, which correlates with nothing.
        alike = predicted.reindex(columns=said[NEAREST_GENE], fill_value=0.0)
        one = predicted.loc[:, (said[EVIDENCE] == TRAINED).to_numpy()].mean(axis=1).fillna(0.0)
        shared = pd.DataFrame(np.repeat(one.to_numpy()[:, None], len(said), axis=1))
        found = {name: _correlate(each, truth) for name, each in zip(FIGURES, (predicted, alike, shared), strict=True)}
        facts = {"sample": sample, "programme": list_genes().programme[said.index], "evidence": said[EVIDENCE]}
        parts.append(pd.DataFrame({**facts, "spots": int(usable.sum()), **found}).rename_axis("gene").reset_index())
    return pd.concat(parts, ignore_index=True)
