"""How well predictions of the demo archive match its hidden truth: Pearson of each gene within each slide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from histocast.artifacts import EXPRESSION, read_table
from histocast.errors import DataError, MissingInputError
from histocast.fusion.selected_genes import EVIDENCE, LEVELS, NEAREST_GENE, TRAINED
from histocast.text_table import TableColumns, read_text_table
from histocast_demo.expression import list_genes, truth_at
from histocast_demo.terrain import read_latents

SHOWN_GENES = 12

MIN_SPOTS = 3
"""Two points always correlate."""


@dataclass(frozen=True)
class DemoScore:
    """Agreement of predictions with truth; ``str()`` of it is a table to print.

    Figures are [gene, sample] over the spots of a sample, truth on log1p of counts per 10k; NaN where a side is constant.
    """

    spots: dict[str, int]
    """Spots scored, by sample."""
    genes: pd.DataFrame
    """``programme`` and ``evidence`` (``trained``, or how a gene that was never measured is described), by symbol."""
    pearson: pd.DataFrame
    nearest: pd.DataFrame
    """Of the prediction for the trained gene that is described most alike; NaN for trained genes."""
    shared: pd.DataFrame
    """Of one prediction for all genes, the mean over those trained: what knows nothing of the gene."""

    @property
    def trained(self) -> NDArray[np.bool_]:
        """[gene]: whether measured values of it trained the model."""
        return (self.genes.evidence == TRAINED).to_numpy()

    def mean(self, genes: NDArray[np.bool_]) -> float:
        """Mean over some genes of their mean over samples; NaN where there are none."""
        return float(self.pearson[genes].mean(axis=1).mean())

    def median_by_programme(self) -> dict[str, float]:
        """Median over samples and trained genes of each programme, best first."""
        long = self.pearson[self.trained].stack()
        medians = long.groupby(self.genes.programme.reindex(long.index, level=0).to_numpy()).median()
        return medians.sort_values(ascending=False).to_dict()

    def __str__(self) -> str:
        """Lines of genes, best first, and their means."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        spots = ", ".join(f"{name} {count}" for name, count in self.spots.items())
        yield f"Pearson of prediction and hidden truth within each slide, log1p counts per 10k (spots: {spots})"
        table = pd.concat([self.genes, self.pearson], axis=1).assign(mean=self.pearson.mean(axis=1))
        table = table.sort_values("mean", ascending=False, kind="stable")
        trained = table[table.evidence == TRAINED].drop(columns="evidence")
        unseen = table[table.evidence != TRAINED]
        if len(trained):
            yield trained.to_string(float_format="%.2f", max_rows=SHOWN_GENES + 4, min_rows=SHOWN_GENES + 4)
            yield self._mean_line(f"mean of {len(trained)}", self.pearson.loc[trained.index])
            yield "median by programme: " + ", ".join(f"{k} {v:.2f}" for k, v in self.median_by_programme().items())
        if len(unseen):
            yield "\nGenes whose measured values the model never saw, predicted from their descriptions:"
            yield unseen.to_string(float_format="%.2f")
            yield self._mean_line(f"mean of {len(unseen)}", self.pearson.loc[unseen.index])
            for level in LEVELS:
                chosen = unseen.index[unseen.evidence == level]
                if len(chosen):
                    yield self._mean_line(f"  {level.replace('_', ' ')}: {len(chosen)}", self.pearson.loc[chosen])
            if len(trained):
                yield "in place of each, for comparison:"
                yield self._mean_line("  gene described alike", self.nearest.loc[unseen.index])
                yield self._mean_line("  one map for all genes", self.shared.loc[unseen.index])
        yield "Genes 'unrelated' and a share of every other follow nothing the slide shows: near 0 is right for them."

    def _mean_line(self, title: str, figures: pd.DataFrame) -> str:
        means = [*figures.mean(), figures.mean(axis=1).mean()]
        return f"{title:<24}" + "".join(f"{value:8.2f}" for value in means)


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


def correlate(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson of matching columns of two [spot, gene] arrays; NaN where one is constant or spots are few."""
    if len(left) < MIN_SPOTS:
        return np.full(right.shape[1], np.nan)
    a, b = left - left.mean(axis=0), right - right.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.asarray(np.divide((a * b).sum(axis=0), norm, out=np.full(len(norm), np.nan), where=norm > 0))


def score_demo(archive: Path, results: Path) -> DemoScore:
    """Compare ``results/<sample>/<sample>.parquet`` with the truth of every sample of a demo archive.

    Raises
    ------
    MissingInputError
        The archive or a sample's predictions are absent.
    DataError
        No gene of the demo's panel was predicted, or samples were predicted for different genes.
    """
    genes = pd.DataFrame()
    spots: dict[str, int] = {}
    figures: dict[str, tuple[NDArray[np.float64], ...]] = {}
    for sample in _list_samples(archive):
        path = results / sample / f"{sample}.parquet"
        table, _ = read_table(path, EXPRESSION)
        predicted, said = _predicted(table, path)
        if figures and list(genes.index) != list(said.index):
            raise DataError("other genes than in the samples before", where=str(path))
        genes = said
        latents, seed = read_latents(archive / "truth" / f"{sample}.npz")
        usable = np.isfinite(predicted).all(axis=1).to_numpy()
        predicted = predicted[usable]
        points = np.stack([table[axis].to_numpy()[usable] for axis in ("x_level0_px", "y_level0_px")], axis=1)
        truth = truth_at(latents, points, seed=seed)[:, list_genes().index.get_indexer(genes.index)]
        # A gene that was not predicted, or none at all, stands as a constant, which correlates with nothing.
        alike = predicted.reindex(columns=genes[NEAREST_GENE], fill_value=0.0)
        one = predicted.loc[:, (genes[EVIDENCE] == TRAINED).to_numpy()].mean(axis=1).fillna(0.0).to_numpy()[:, None]
        figures[sample] = tuple(correlate(each, truth) for each in (predicted.to_numpy(), alike.to_numpy(), one))
        spots[sample] = int(usable.sum())
    shown = pd.DataFrame({"programme": list_genes().programme[genes.index], "evidence": genes[EVIDENCE]})
    frames = [
        pd.DataFrame({sample: each[kind] for sample, each in figures.items()}, index=genes.index) for kind in range(3)
    ]
    return DemoScore(spots, shown, *frames)
