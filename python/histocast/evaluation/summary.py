"""From rows a section to the figures that are published, each with the facts it means nothing without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_type_hints

import numpy as np
import pyarrow as pa

from histocast.artifacts import write_table
from histocast.bundle import Metric
from histocast.evaluation.figures import Figure, Place, best_by_rank_sum, make_figure
from histocast.evaluation.metrics import mean_known
from histocast.evaluation.zero_shot import UNSEEN
from histocast.records import Provenance, Record
from histocast.sections.labels import SCALES
from histocast.sections.protocols import PROTOCOLS, Protocol
from histocast.training.section_genes import SectionGenes
from histocast.training.train_fold import TOP_GENES, TrainRecord

MODEL = "model"

GENE_CHOICES = {
    "pearson_hpg50": "50 best predicted (HPG), chosen on held-out training spots",
    "pearson_heg50": "50 highest mean (HEG), chosen on training sections",
    "pearson_hvg50": "50 highest variance (HVG), chosen on training sections",
    "pearson_hpg50_chosen_on_test": "50 best predicted (HPG), chosen on the test folds as published: flattering",
}

TABLE_METRICS = (
    "pearson", "pearson_median", "pearson_iqr", "pearson_share_above_0.2", "pearson_hpg50", "pearson_heg50",
    "pearson_hvg50", "spearman", "mse", "mae", "rvd", "ssim", "morans_i_truth", "morans_i_predicted",
    "morans_i_agreement", "coverage_80", "coverage_90",
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
    measured: tuple[SectionGenes, ...] = ()
    """What every section of the set measured of the panel."""
    unseen_genes: int = 0
    """Genes left out of training that any section judged, from their texts."""
    unseen: tuple[SubjectSummary, ...] = ()
    """What was predicted of them, by what: `histocast.evaluation.zero_shot`."""

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


def summarise_rows(
    rows: Sequence[SectionRow],
    genes: Sequence[GeneRow],
    models: Sequence[TrainRecord],
    *,
    measured: tuple[SectionGenes, ...] = (),
) -> Evaluation:
    """Average over sections, with a bootstrap interval over patients, or sections of one patient."""
    patients = {row.patient for row in rows}
    by_patient = len(patients) > 1
    patient_of = {row.sample: row.patient for row in rows}
    keys = dict.fromkeys((row.method, row.protocol, row.subject) for row in rows)
    summaries = []
    for method, protocol, subject in keys:
        mine = [row for row in rows if (row.method, row.protocol, row.subject) == (method, protocol, subject)]
        figures = [
            _figure(metric, [row for row in mine if row.metric == metric], by_patient=by_patient)
            for metric in dict.fromkeys(row.metric for row in mine)
        ]
        if protocol == "paper":
            judged = [row for row in genes if (row.method, row.protocol, row.subject) == (method, "paper", subject)]
            figures += _chosen_on_test(judged, patient_of, by_patient=by_patient)
        summaries.append(SubjectSummary(method=method, protocol=protocol, subject=subject, figures=tuple(figures)))
    return Evaluation(
        recipe=models[0].recipe.name,
        genes=len(models[0].recipe.panel),
        split=_describe_split(models),
        resampled="patients" if by_patient else "sections",
        patients=len(patients),
        sections=len(patient_of),
        measured=measured,
        unseen_genes=len({row.gene_id for row in genes if row.subject.startswith(UNSEEN)}),
        spots=sum({model.fold: model.test_spots for model in models}.values()),
        summaries=order_summaries([each for each in summaries if not each.subject.startswith(UNSEEN)]),
        unseen=tuple(summary for summary in summaries if summary.subject.startswith(UNSEEN)),
    )


def _describe_split(models: Sequence[TrainRecord]) -> str:
    """The split in words, and how much of it was judged where that is not all."""
    first = models[0]
    judged = {sample for model in models for sample in model.test}
    sections = {*first.train, *first.test}
    return first.split if judged == sections else f"{first.split}; {len(judged)} of {len(sections)} sections judged"


def _figure(metric: str, rows: Sequence[SectionRow], *, by_patient: bool) -> Figure:
    places = [Place(row.fold, row.sample, row.patient) for row in rows]
    return make_figure(metric, [row.value for row in rows], places, by_patient=by_patient)


def _chosen_on_test(genes: Sequence[GeneRow], patient_of: Mapping[str, str], *, by_patient: bool) -> list[Figure]:
    """PCC@50 as published: the 50 genes of best rank sum over the test folds themselves, if there are more."""
    names = sorted({row.gene_id for row in genes})
    if len(names) <= TOP_GENES:
        return []
    samples = sorted({row.sample for row in genes})
    row_of, column_of = ({name: place for place, name in enumerate(each)} for each in (samples, names))
    pearson = np.full((len(samples), len(names)), np.nan)
    for row in genes:
        pearson[row_of[row.sample], column_of[row.gene_id]] = row.pearson
    fold_of = {row.sample: row.fold for row in genes}
    chosen = best_by_rank_sum(pearson, [fold_of[sample] for sample in samples], count=TOP_GENES)
    values = [mean_known(row) for row in pearson[:, chosen]]
    places = [Place(fold_of[sample], sample, patient_of[sample]) for sample in samples]
    return [make_figure("pearson_hpg50_chosen_on_test", values, places, by_patient=by_patient)]


def write_rows(path: Path, rows: Sequence[NamedTuple], *, kind: type[NamedTuple], artifact: str) -> None:
    """Write rows as a Parquet table whose columns are the fields of ``kind``."""
    # A gene of a section of a subject is a row: a million for a few dozen sections, which polars takes as they are.
    import polars as pl

    dtypes = {name: pl.Float64 if hint is float else pl.String for name, hint in get_type_hints(kind).items()}
    table = pl.DataFrame(rows, schema=dtypes, orient="row").to_arrow()
    plain = pa.schema([(name, pa.float64() if dtype == pl.Float64 else pa.string()) for name, dtype in dtypes.items()])
    write_table(path, table.cast(plain), Provenance(artifact=artifact, schema_version=1, sample="evaluation"))
