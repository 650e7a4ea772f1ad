"""How well predictions of the demo archive match its hidden truth: Pearson a gene within each slide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from histocast.artifacts import EXPRESSION, read_table
from histocast.demo.expression import Gene, list_genes, truth_at
from histocast.demo.terrain import read_latents
from histocast.errors import DataError, MissingInputError
from histocast.fusion.selected_genes import EVIDENCE, LEVELS, NEAREST_GENE, TRAINED
from histocast.text_table import TableColumns, read_text_table

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
    evidence: tuple[str, ...]
    """[gene] on what its prediction stands: ``trained``, or how a gene that was never measured is described."""
    pearson: NDArray[np.float64]
    """[gene, sample] over the spots of a sample, truth on log1p of counts per 10k; NaN where a side is constant."""
    nearest: NDArray[np.float64]
    """[gene, sample] the same, of the prediction for the trained gene that is described most alike; NaN for trained
    genes, and where that gene was not predicted."""
    shared: NDArray[np.float64]
    """The same for one prediction for all genes, the mean over those trained: what knows nothing of the gene."""

    @property
    def trained(self) -> NDArray[np.bool_]:
        """[gene]: whether measured values of it trained the model."""
        return np.array([name == TRAINED for name in self.evidence], bool)

    def mean(self, genes: NDArray[np.bool_]) -> float:
        """Mean over some genes of their mean over samples; NaN where there are none."""
        return float(_mean_known(_mean_known(self.pearson[genes], axis=1), axis=0))

    def median_by_programme(self) -> dict[str, float]:
        """Median over samples and trained genes of each programme, best first."""
        programmes = dict.fromkeys(gene.programme for gene in self.genes)
        medians = {}
        for name in programmes:
            values = self.pearson[[gene.programme == name for gene in self.genes] & self.trained]
            known = values[np.isfinite(values)]
            medians[name] = float(np.median(known)) if known.size else float("nan")
        return dict(sorted(medians.items(), key=lambda item: -np.nan_to_num(item[1], nan=-2.0)))

    def __str__(self) -> str:
        spots = ", ".join(f"{name} {count}" for name, count in zip(self.samples, self.spots, strict=True))
        lines = [f"Pearson of prediction and hidden truth within each slide, log1p counts per 10k (spots: {spots})"]
        if self.trained.any():
            lines += self._trained_lines()
        if not self.trained.all():
            lines += self._unseen_lines()
        lines.append(
            "Genes 'unrelated' and a share of every other follow nothing the slide shows: near 0 is right for them."
        )
        return "\n".join(lines)

    def _trained_lines(self) -> list[str]:
        places = np.flatnonzero(self.trained)
        order = places[np.argsort(-_mean_known(self.pearson[places], axis=1), kind="stable")]
        head, tail = order[:SHOWN_GENES], order[SHOWN_GENES:][-4:]
        skipped = len(order) - len(head) - len(tail)
        programmes = ", ".join(f"{name} {value:.2f}" for name, value in self.median_by_programme().items())
        return [
            self._header(),
            *(self._gene_line(index) for index in head),
            *([f"{'...':<10}{skipped} more"] if skipped else []),
            *(self._gene_line(index) for index in tail),
            self._mean_line(f"mean of {len(order)}", self.pearson[order]),
            f"median by programme: {programmes}",
        ]

    def _unseen_lines(self) -> list[str]:
        unseen = ~self.trained
        places = np.flatnonzero(unseen)
        order = places[np.argsort(-_mean_known(self.pearson[places], axis=1), kind="stable")]
        lines = [
            "",
            "Genes whose measured values the model never saw, predicted from their descriptions:",
            self._header(),
            *(self._gene_line(index) for index in order),
            self._mean_line(f"mean of {len(order)}", self.pearson[order]),
        ]
        levels = [name for name in LEVELS if name != TRAINED and name in self.evidence]
        for level in levels:
            chosen = np.array([name == level for name in self.evidence])
            lines.append(self._mean_line(f"  {level.replace('_', ' ')}: {int(chosen.sum())}", self.pearson[chosen]))
        if self.trained.any():
            lines.append("in place of each, for comparison:")
            lines.append(self._mean_line("  gene described alike", self.nearest[order]))
            lines.append(self._mean_line("  one map for all genes", self.shared[order]))
        return lines

    def _header(self) -> str:
        names = "".join(f"{name:>8}" for name in self.samples)
        return f"{'gene':<10}{'programme':<14}{names}{'mean':>8}"

    def _gene_line(self, index: int) -> str:
        gene, found = self.genes[index], self.pearson[index]
        values = "".join(f"{value:8.2f}" for value in (*found, _mean_known(found[None], axis=1)[0]))
        return f"{gene.symbol:<10}{gene.programme:<14}{values}" + (
            "" if self.evidence[index] == TRAINED else f"  {self.evidence[index]}"
        )

    def _mean_line(self, title: str, pearson: NDArray[np.float64]) -> str:
        means = (*_mean_known(pearson, axis=0), _mean_known(_mean_known(pearson, axis=1), axis=0))
        return f"{title:<24}" + "".join(f"{value:8.2f}" for value in means)


def _list_samples(archive: Path) -> list[str]:
    sheet = archive / "samplesheet.csv"
    if not sheet.exists():
        raise MissingInputError(
            "no such file", expected="a folder of 'histocast demo-data'", where=str(sheet), advice="check --archive"
        )
    samples = [row.cells["sample"] for row in read_text_table(sheet, TableColumns(("sample",), others="ignore"))]
    if not all(samples) or not samples:
        raise DataError("rows without a sample" if samples else "no sample", expected="one a row", where=str(sheet))
    return samples


def _predicted_genes(table: pa.Table, where: Path) -> dict[str, str]:
    """Column of each gene of the demo that was predicted, by its Ensembl id."""
    columns = set(table.column_names)
    found = {gene.gene_id: name for gene in list_genes() for name in (gene.gene_id, gene.symbol) if name in columns}
    if not found:
        raise DataError(
            "none of the demo's genes is predicted",
            expected="the bundle that is made for the demo, assets/demo-bundle",
            where=str(where),
        )
    return found


def _stated(table: pa.Table, names: Iterable[str], key: str, *, absent: str) -> tuple[str, ...]:
    """What the metadata of gene columns say."""
    metadata = [table.schema.field(name).metadata or {} for name in names]
    return tuple(fields.get(key.encode(), absent.encode()).decode() for fields in metadata)


def _columns_of(predicted: NDArray[np.float64], ids: Sequence[str], symbols: Sequence[str]) -> NDArray[np.float64]:
    """[spot, gene] predictions for the genes of these symbols; 0 where a gene was not predicted."""
    ids_by_symbol = {gene.symbol: gene.gene_id for gene in list_genes()}
    places = [ids.index(found) if (found := ids_by_symbol.get(name)) in ids else -1 for name in symbols]
    return np.where(np.array(places) >= 0, predicted[:, places], 0.0)


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
    evidence: tuple[str, ...] = ()
    columns: list[NDArray[np.float64]] = []
    nearest: list[NDArray[np.float64]] = []
    shared: list[NDArray[np.float64]] = []
    spots: list[int] = []
    positions = {gene.gene_id: index for index, gene in enumerate(list_genes())}
    for sample in samples:
        path = results / sample / f"{sample}.parquet"
        table, _ = read_table(path, EXPRESSION)
        names = _predicted_genes(table, path)
        if ids and list(names) != ids:
            raise DataError("other genes than in the samples before", where=str(path))
        ids, evidence = list(names), _stated(table, names.values(), EVIDENCE, absent=TRAINED)
        latents, seed = read_latents(archive / "truth" / f"{sample}.npz")
        points = np.stack([table[axis].to_numpy() for axis in ("x_level0_px", "y_level0_px")], axis=1)
        predicted = np.stack([table[name].to_numpy() for name in names.values()], axis=1).astype(np.float64)
        usable = np.isfinite(predicted).all(axis=1)
        truth = truth_at(latents, points[usable], seed=seed)[:, [positions[gene_id] for gene_id in ids]]
        columns.append(correlate(predicted[usable], truth))
        trained = [level == TRAINED for level in evidence]
        one = predicted[usable][:, trained].mean(axis=1, keepdims=True) if any(trained) else truth[:, :1] * 0.0
        alike = _stated(table, names.values(), NEAREST_GENE, absent="")
        nearest.append(correlate(_columns_of(predicted[usable], ids, alike), truth))
        shared.append(correlate(np.repeat(one, len(ids), axis=1), truth))
        spots.append(int(usable.sum()))
    by_id = {gene.gene_id: gene for gene in list_genes()}
    return DemoScore(
        samples=tuple(samples),
        spots=tuple(spots),
        genes=tuple(by_id[gene_id] for gene_id in ids),
        evidence=evidence,
        pearson=np.stack(columns, axis=1),
        nearest=np.stack(nearest, axis=1),
        shared=np.stack(shared, axis=1),
    )
