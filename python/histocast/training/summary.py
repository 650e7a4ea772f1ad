"""From rows a section to the figures that are published, each with the facts it means nothing without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from histocast.bundle import Metric
from histocast.records import Record
from histocast.training.labels import SCALES, Protocol
from histocast.training.metrics import mean_known
from histocast.training.train import TOP_GENES, TrainRecord
from histocast.training.unseen import UNSEEN

MODEL = "model"

BOOTSTRAP_DRAWS = 2000

GENE_CHOICES = {
    "pearson_hpg50": "50 best predicted (HPG), chosen on held-out training spots",
    "pearson_heg50": "50 highest mean (HEG), chosen on training sections",
    "pearson_hvg50": "50 highest variance (HVG), chosen on training sections",
    "pearson_hpg50_chosen_on_test": "50 best predicted (HPG), chosen on the test folds as published: flattering",
}

TABLE_METRICS = (
    "pearson", "pearson_median", "pearson_share_above_0.2", "pearson_hpg50", "pearson_heg50", "pearson_hvg50",
    "spearman", "mse", "mae", "rvd", "ssim", "morans_i_agreement", "coverage_80", "coverage_90",
)  # fmt: skip


CONTROL_METRICS = ("pearson", "mse", "mae")
"""What a bundle carries of a control; evaluation.json has the rest."""


class SectionRow(NamedTuple):
    """One metric of one subject on one held-out section."""

    method: str
    protocol: Protocol
    subject: str
    fold: str
    sample: str
    patient: str
    metric: str
    value: float


class GeneRow(NamedTuple):
    """The metrics of one gene on one held-out section."""

    method: str
    protocol: Protocol
    subject: str
    fold: str
    sample: str
    gene_id: str
    gene_symbol: str
    pearson: float
    spearman: float
    mse: float
    mae: float
    rvd: float
    ssim: float
    morans_i_truth: float
    morans_i_predicted: float


class Figure(Record):
    """A metric over all held-out sections."""

    metric: str
    mean: float | None
    """Mean over sections; null where no section has it."""
    sd: float | None
    """Over sections."""
    low: float | None
    high: float | None
    """95 % bootstrap interval over ``resampled``."""
    by_sample: dict[str, float | None]


class SubjectSummary(Record):
    """A model or a control under one protocol."""

    method: str
    protocol: Protocol
    subject: str
    figures: tuple[Figure, ...]

    def figure(self, metric: str) -> Figure | None:
        """The figure of a metric, if it was measured."""
        return next((figure for figure in self.figures if figure.metric == metric), None)


class Evaluation(Record):
    """``evaluation.json``."""

    schema_version: Literal[1] = 1
    recipe: str
    genes: int
    split: str
    resampled: Literal["patients", "sections"]
    """What the bootstrap draws: patients where there are two or more."""
    patients: int
    sections: int
    spots: int
    """Held-out spots that were judged."""
    summaries: tuple[SubjectSummary, ...]
    unseen_genes: int = 0
    """Genes left out of training that any section judged, from their texts."""
    unseen: tuple[SubjectSummary, ...] = ()
    """What was predicted of them, by what: `histocast.training.unseen`."""

    def summary(self, protocol: Protocol, subject: str = MODEL, *, method: str | None = None) -> SubjectSummary:
        """Summary of one subject.

        Raises
        ------
        KeyError
            It was not evaluated.
        """
        for summary in self.summaries:
            if (summary.protocol, summary.subject) == (protocol, subject) and method in (None, summary.method):
                return summary
        raise KeyError((protocol, subject, method))

    def metrics(self, protocol: Protocol, *, method: str) -> tuple[Metric, ...]:
        """Figures of a method under a protocol, as a bundle carries them; controls beside the model."""
        return tuple(
            Metric(
                name=figure.metric,
                value=round(figure.mean, 6),
                genes=GENE_CHOICES.get(figure.metric, f"the {self.genes} of the panel {self.recipe}"),
                split=self.split,
                normalisation=f"{SCALES[protocol].normalisation}; {SCALES[protocol].transform}",
                smoothing=SCALES[protocol].smoothing,
                averaging="within a section, mean over genes, mean over sections",
                subject=summary.subject,
            )
            for summary in self.summaries
            if summary.protocol == protocol and summary.method == method
            for figure in summary.figures
            if figure.mean is not None
            and figure.metric in (TABLE_METRICS if summary.subject == MODEL else CONTROL_METRICS)
        )


def summarise_rows(rows: Sequence[SectionRow], genes: Sequence[GeneRow], models: Sequence[TrainRecord]) -> Evaluation:
    """Average over sections, with a bootstrap interval over patients, or sections of one patient."""
    patients = {row.patient for row in rows}
    resampled: Literal["patients", "sections"] = "patients" if len(patients) > 1 else "sections"
    keys = dict.fromkeys((row.method, row.protocol, row.subject) for row in rows)
    summaries = []
    for method, protocol, subject in keys:
        mine = [row for row in rows if (row.method, row.protocol, row.subject) == (method, protocol, subject)]
        figures = [
            _figure(metric, [row for row in mine if row.metric == metric], by_patient=resampled == "patients")
            for metric in dict.fromkeys(row.metric for row in mine)
        ]
        if protocol == "paper" and (published := _chosen_on_test(genes, method, subject)) is not None:
            figures.append(published)
        summaries.append(SubjectSummary(method=method, protocol=protocol, subject=subject, figures=tuple(figures)))
    return Evaluation(
        recipe=models[0].recipe.name,
        genes=len(models[0].recipe.panel),
        split=_describe_split(models),
        resampled=resampled,
        patients=len(patients),
        sections=len({row.sample for row in rows}),
        unseen_genes=len({row.gene_id for row in genes if row.subject.startswith(UNSEEN)}),
        spots=sum({model.fold: model.test_spots for model in models}.values()),
        summaries=tuple(summary for summary in summaries if not summary.subject.startswith(UNSEEN)),
        unseen=tuple(summary for summary in summaries if summary.subject.startswith(UNSEEN)),
    )


def _describe_split(models: Sequence[TrainRecord]) -> str:
    """The split in words, and how much of it was judged where that is not all."""
    first = models[0]
    judged = {sample for model in models for sample in model.test}
    sections = {*first.train, *first.test}
    return first.split if judged == sections else f"{first.split}; {len(judged)} of {len(sections)} sections judged"


def _figure(metric: str, rows: Sequence[SectionRow], *, by_patient: bool) -> Figure:
    values = np.array([row.value for row in rows])
    known = values[~np.isnan(values)]
    by_sample = {row.sample: None if np.isnan(row.value) else row.value for row in rows}
    if not len(known):
        return Figure(metric=metric, mean=None, sd=None, low=None, high=None, by_sample=by_sample)
    units = [row.patient if by_patient else row.sample for row in rows]
    means = np.array([mean_known(values[np.array(units) == unit]) for unit in sorted(set(units))])
    low, high = _bootstrap(means[~np.isnan(means)])
    return Figure(
        metric=metric, mean=float(known.mean()), sd=float(known.std()), low=low, high=high, by_sample=by_sample
    )


def _bootstrap(means: np.ndarray) -> tuple[float | None, float | None]:
    if len(means) < 2:
        return None, None
    random = np.random.default_rng(0)
    draws = means[random.integers(0, len(means), (BOOTSTRAP_DRAWS, len(means)))].mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _chosen_on_test(genes: Sequence[GeneRow], method: str, subject: str) -> Figure | None:
    """PCC@50 as published: the 50 genes of best rank sum over the test folds themselves."""
    mine = [row for row in genes if (row.method, row.protocol, row.subject) == (method, "paper", subject)]
    names = sorted({row.gene_id for row in mine})
    samples = sorted({row.sample for row in mine})
    if len(names) <= TOP_GENES:
        return None
    place = {name: index for index, name in enumerate(names)}
    pearson = np.full((len(samples), len(names)), np.nan)
    for row in mine:
        pearson[samples.index(row.sample), place[row.gene_id]] = row.pearson
    ranks = np.argsort(np.argsort(-np.nan_to_num(pearson, nan=-1.0), axis=1, kind="stable"), axis=1).sum(axis=0)
    chosen = np.argsort(ranks, kind="stable")[:TOP_GENES]
    values = np.array([mean_known(row) for row in pearson[:, chosen]])
    low, high = _bootstrap(values)
    return Figure(
        metric="pearson_hpg50_chosen_on_test",
        mean=mean_known(values),
        sd=float(np.nanstd(values)),
        low=low,
        high=high,
        by_sample=dict(zip(samples, values.tolist(), strict=True)),
    )
