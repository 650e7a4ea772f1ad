"""How well predictions of the demo archive match its hidden truth: Pearson a gene within each slide."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from histocast.artifacts import EXPRESSION, read_table
from histocast.demo.expression import Gene, list_genes, truth_at
from histocast.demo.terrain import read_latents
from histocast.errors import DataError, MissingInputError

SHOWN_GENES = 12

MIN_SPOTS = 3
"""Two points always correlate."""


@dataclass(frozen=True)
class DemoScore:
    """Agreement of predictions with truth; ``str()`` of it is a table to print."""

    samples: tuple[str, ...]
    spots: tuple[int, ...]
    genes: tuple[Gene, ...]
    """Those predicted, in the order of the demo's panel."""
    pearson: NDArray[np.float64]
    """[gene, sample] over the spots of a sample, truth on log1p of counts per 10k; NaN where a side is constant."""

    def median_by_programme(self) -> dict[str, float]:
        """Median over samples and genes of each programme, best first."""
        programmes = dict.fromkeys(gene.programme for gene in self.genes)
        medians = {}
        for name in programmes:
            values = self.pearson[[gene.programme == name for gene in self.genes]]
            known = values[np.isfinite(values)]
            medians[name] = float(np.median(known)) if known.size else float("nan")
        return dict(sorted(medians.items(), key=lambda item: -item[1]))

    def __str__(self) -> str:
        header = f"{'gene':<10}{'programme':<14}" + "".join(f"{name:>8}" for name in self.samples) + f"{'mean':>8}"
        means = _mean_known(self.pearson, axis=1)
        order = np.argsort(-means, kind="stable")
        head, tail = order[:SHOWN_GENES], order[SHOWN_GENES:][-4:]

        def line(index: int) -> str:
            gene = self.genes[index]
            values = "".join(f"{value:8.2f}" for value in (*self.pearson[index], means[index]))
            return f"{gene.symbol:<10}{gene.programme:<14}{values}"

        spots = ", ".join(f"{name} {count}" for name, count in zip(self.samples, self.spots, strict=True))
        programmes = ", ".join(f"{name} {value:.2f}" for name, value in self.median_by_programme().items())
        per_sample = "".join(
            f"{value:8.2f}" for value in (*_mean_known(self.pearson, axis=0), _mean_known(means, axis=0))
        )
        skipped = len(order) - len(head) - len(tail)
        return "\n".join(
            [
                f"Pearson of prediction and hidden truth within each slide, log1p counts per 10k (spots: {spots})",
                header,
                *(line(index) for index in head),
                *([f"{'...':<10}{skipped} more"] if skipped else []),
                *(line(index) for index in tail),
                f"{'mean of ' + str(len(self.genes)):<24}{per_sample}",
                f"median by programme: {programmes}",
                "Genes 'unrelated' and a share of every other follow nothing the slide shows: near 0 is right for them.",
            ]
        )


def _list_samples(archive: Path) -> list[str]:
    sheet = archive / "samplesheet.csv"
    try:
        with sheet.open(newline="", encoding="utf-8") as stream:
            return [row["sample"] for row in csv.DictReader(stream)]
    except FileNotFoundError as error:
        raise MissingInputError(
            "no such file", expected="a folder of 'histocast demo-data'", where=str(sheet), advice="check --archive"
        ) from error


def _predicted_genes(table: pa.Table, where: Path) -> dict[str, str]:
    """Column of each gene of the demo's panel that was predicted, by its Ensembl id."""
    columns = set(table.column_names)
    found = {gene.gene_id: name for gene in list_genes() for name in (gene.gene_id, gene.symbol) if name in columns}
    if not found:
        raise DataError(
            "none of the demo's genes is predicted",
            expected="the bundle that is made for the demo, assets/demo-bundle",
            where=str(where),
        )
    return found


def _mean_known(values: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    """Mean of what is not NaN; NaN where nothing is."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis)
    return np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0))


def correlate(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson of matching columns of two [spot, gene] arrays; NaN where one is constant or spots are few."""
    if len(left) < MIN_SPOTS:
        return np.full(left.shape[1], np.nan)
    a, b = left - left.mean(axis=0), right - right.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.asarray(np.divide((a * b).sum(axis=0), norm, out=np.full(len(norm), np.nan), where=norm > 0))


def score_demo(archive: Path, results: Path) -> DemoScore:
    """Compare ``results/<sample>/<sample>.parquet`` with the truth of every sample of a demo archive.

    Parameters
    ----------
    archive:
        Folder of `make_archive`.
    results:
        Output folder of the pipeline.

    Raises
    ------
    MissingInputError
        The archive or a sample's predictions are absent.
    DataError
        No gene of the demo's panel was predicted, or samples were predicted for different genes.
    """
    samples = _list_samples(archive)
    ids: list[str] = []
    columns: list[NDArray[np.float64]] = []
    spots: list[int] = []
    positions = {gene.gene_id: index for index, gene in enumerate(list_genes())}
    for sample in samples:
        path = results / sample / f"{sample}.parquet"
        table, _ = read_table(path, EXPRESSION)
        names = _predicted_genes(table, path)
        if ids and list(names) != ids:
            raise DataError("other genes than in the samples before", where=str(path))
        ids = list(names)
        latents, seed = read_latents(archive / "truth" / f"{sample}.npz")
        points = np.stack([table[axis].to_numpy() for axis in ("x_level0_px", "y_level0_px")], axis=1)
        predicted = np.stack([table[name].to_numpy() for name in names.values()], axis=1).astype(np.float64)
        usable = np.isfinite(predicted).all(axis=1)
        truth = truth_at(latents, points[usable], seed=seed)[:, [positions[gene_id] for gene_id in ids]]
        columns.append(correlate(predicted[usable], truth))
        spots.append(int(usable.sum()))
    by_id = {gene.gene_id: gene for gene in list_genes()}
    return DemoScore(
        samples=tuple(samples),
        spots=tuple(spots),
        genes=tuple(by_id[gene_id] for gene_id in ids),
        pearson=np.stack(columns, axis=1),
    )
