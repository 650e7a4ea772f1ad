"""From tables of sections and genes to the figures that are published, each with the facts it means nothing without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import polars as pl

from histocast.bundle import Metric
from histocast.evaluation.between_slides import FEW_SECTIONS, score_slide_means
from histocast.evaluation.figures import Figure, Place, best_by_rank_sum, make_figure
from histocast.evaluation.metrics import mean_known
from histocast.evaluation.scores import SECTION_SCHEMA, Key, Scores
from histocast.evaluation.zero_shot import UNSEEN
from histocast.records import Record
from histocast.sections.labels import SCALES
from histocast.sections.protocols import PROTOCOLS, Protocol
from histocast.training.section_genes import SectionGenes
from histocast.training.train_record import TOP_GENES, TrainRecord

MODEL = "model"

GENE_CHOICES = {
    "pearson_hpg50": "50 best predicted (HPG), chosen on held-out training spots",
    "pearson_heg50": "50 highest mean (HEG), chosen on training sections",
    "pearson_hvg50": "50 highest variance (HVG), chosen on training sections",
    "pearson_hpg50_chosen_on_test": "50 best predicted (HPG), chosen on the test folds as published: flattering",
}

TABLE_METRICS = (
    "pearson", "ceiling", "ceiling_share", "pearson_partial", "pearson_median", "pearson_iqr", "pearson_share_above_0.2",
    "pearson_hpg50", "pearson_heg50", "pearson_hvg50", "spearman", "mse", "mae", "rvd", "ssim", "morans_i_truth",
    "morans_i_predicted", "morans_i_agreement", "coverage_80", "coverage_90", "crop_slope", "slide_means_pearson",
    "slide_means_slope",
)  # fmt: skip

SLIDE_MEAN_METRICS = ("slide_means_pearson", "slide_means_slope")
"""Figures of all sections together, which no section has by itself."""

CONTROL_METRICS = ("pearson", "ceiling_share", "pearson_partial", "mse", "mae")
"""What a bundle carries of a control; evaluation.json has the rest."""


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
    """Held-out spots that were scored."""
    summaries: tuple[SubjectSummary, ...]
    measured: tuple[SectionGenes, ...] = ()
    """What every section of the set measured of the panel."""
    unseen_genes: int = 0
    """Genes left out of training that any section scored, from their texts."""
    unseen: tuple[SubjectSummary, ...] = ()
    """What was predicted of them, by what: `histocast.evaluation.zero_shot`."""

    def summary(self, protocol: Protocol, subject: str = MODEL, *, method: str | None = None) -> SubjectSummary:
        """Summary of one subject.

        Raises `KeyError`: it was not evaluated.
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
                genes=self._genes_of(figure.metric),
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

    def _genes_of(self, metric: str) -> str:
        """Which genes a figure is of, and which sections where it is of all together."""
        if metric in SLIDE_MEAN_METRICS:
            together = "taken together" if self.sections < FEW_SECTIONS else "one by one"
            return f"{self.sections} sections of {self.patients} patient{'s' * (self.patients != 1)}, genes {together}"
        return GENE_CHOICES.get(metric, f"the {self.genes} of the panel {self.recipe}")


def order_summaries(summaries: Sequence[SubjectSummary]) -> tuple[SubjectSummary, ...]:
    """By protocol; in it methods, then controls, each best first by mean Pearson.

    Of controls that are alike the one beside the best method comes first: its list of best genes is what HPG is of.
    """
    beside = {(each.protocol, each.method): _mean(each) for each in summaries if each.subject == MODEL}

    def key(each: SubjectSummary) -> tuple[int, bool, float, float]:
        of_method = beside.get((each.protocol, each.method), -1.0)
        return PROTOCOLS.index(each.protocol), each.subject != MODEL, -_mean(each), -of_method

    return tuple(sorted(summaries, key=key))


def _mean(summary: SubjectSummary) -> float:
    figure = summary.figure("pearson")
    return -1.0 if figure is None or figure.mean is None else figure.mean


def summarise(scores: Scores, models: Sequence[TrainRecord], *, measured: tuple[SectionGenes, ...] = ()) -> Evaluation:
    """Average over sections, with a bootstrap interval over patients, or sections of one patient."""
    sections, genes = scores.sections, scores.genes
    patients = sections["patient"].n_unique()
    summaries = _summarise_subjects(sections, genes, by_patient=patients > 1)
    return Evaluation(
        recipe=models[0].recipe.name,
        genes=len(models[0].recipe.panel),
        split=_describe_split(models),
        resampled="patients" if patients > 1 else "sections",
        patients=patients,
        sections=sections["sample"].n_unique(),
        measured=measured,
        unseen_genes=genes.filter(pl.col("subject").str.starts_with(UNSEEN))["gene_id"].n_unique(),
        spots=sum({model.fold: model.test_spots for model in models}.values()),
        summaries=order_summaries([each for each in summaries if not each.subject.startswith(UNSEEN)]),
        unseen=tuple(summary for summary in summaries if summary.subject.startswith(UNSEEN)),
    )


def _describe_split(models: Sequence[TrainRecord]) -> str:
    """The split in words, and how much of it was scored where that is not all."""
    first = models[0]
    scored = {sample for model in models for sample in model.test}
    sections = {*first.train, *first.test}
    return first.split if scored == sections else f"{first.split}; {len(scored)} of {len(sections)} sections scored"


def _summarise_subjects(sections: pl.DataFrame, genes: pl.DataFrame, *, by_patient: bool) -> list[SubjectSummary]:
    by = ["method", "protocol", "subject"]
    on_test = _choose_on_test(genes)
    slide_means = {row[:3]: row[3:] for row in score_slide_means(genes).iter_rows()}
    summaries = []
    for (method, protocol, subject), rows in (
        pl.concat([sections, on_test]).partition_by(by, as_dict=True, maintain_order=True).items()
    ):
        figures = [
            make_figure(str(metric), of["value"].to_list(), places_of(of), by_patient=by_patient)
            for (metric,), of in rows.partition_by("metric", as_dict=True, maintain_order=True).items()
        ]
        for metric, value in zip(SLIDE_MEAN_METRICS, slide_means.get((method, protocol, subject), ()), strict=False):
            known = value if value is not None and math.isfinite(value) else None
            figures.append(Figure(metric=metric, mean=known, sd=None, low=None, high=None, by_sample={}))
        summaries.append(SubjectSummary(method=method, protocol=protocol, subject=subject, figures=tuple(figures)))
    return summaries


def places_of(rows: pl.DataFrame) -> list[Place]:
    """Where each row was measured."""
    return [Place(*place) for place in rows.select(Place._fields).iter_rows()]


def _choose_on_test(genes: pl.DataFrame) -> pl.DataFrame:
    """PCC@50 as published, as rows of sections: the 50 genes of best rank sum over the test folds, if there are more."""
    found = [pl.DataFrame(schema=SECTION_SCHEMA)]
    of_paper = genes.filter(pl.col("protocol") == "paper", ~pl.col("subject").str.starts_with(UNSEEN))
    for rows in of_paper.partition_by(["method", "subject"], maintain_order=True):
        wide = rows.pivot("gene_id", index=list(Key._fields), values="pearson")
        pearson = wide.drop(Key._fields).to_numpy()
        if pearson.shape[1] <= TOP_GENES:
            continue
        chosen = best_by_rank_sum(pearson, wide["fold"].to_list(), count=TOP_GENES)
        values = pl.Series("value", [mean_known(row) for row in pearson[:, chosen]], pl.Float64)
        metric = pl.lit("pearson_hpg50_chosen_on_test").alias("metric")
        found.append(wide.select(*Key._fields, metric).with_columns(values))
    return pl.concat(found)
