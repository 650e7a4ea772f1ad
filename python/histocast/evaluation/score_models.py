"""Score what one model, and the controls next to it, predict of the sections it did not see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import GENES, read_table
from histocast.bundle import Bundle
from histocast.evaluation.controls import SHUFFLED, shuffled_orders
from histocast.evaluation.evaluation_plots import Example
from histocast.evaluation.metrics import Truth, coverage, gene_metrics, mean_known, section_metrics
from histocast.evaluation.summary import MODEL, GeneRow, SectionRow
from histocast.evaluation.zero_shot import (
    OTHER_TEXT,
    OWN_TEXT,
    SHUFFLED_TEXT,
    find_unseen,
    rows_to_judge,
    shuffled_text_pearson,
    text_controls,
)
from histocast.fusion.selected_genes import takes_descriptions
from histocast.networks.correlation import gene_pearson
from histocast.sections.labels import array_neighbourhood
from histocast.sections.section import Section
from histocast.training.train_fold import TrainRecord
from histocast.training.training_set import TrainingSet

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class JudgedModel:
    """A model folder of `histocast.stages.train`."""

    folder: Path
    record: TrainRecord
    bundle: Bundle


Measures = dict[tuple[str, str], dict[str, Floats]]
"""Metrics of every gene [gene] by sample and subject."""


class SectionJudge:
    """Collects the rows of one model.

    Parameters
    ----------
    controls:
        Metrics of the controls of this fold and protocol, which are the same beside every method: filled by the first
        that is judged, and read by the others.
    """

    def __init__(self, model: JudgedModel, training: TrainingSet, *, controls: Measures) -> None:
        self.model = model
        self.training = training
        self.sections: list[SectionRow] = []
        self.genes: list[GeneRow] = []
        self.examples: list[Example] = []
        self._truths: dict[str, Truth] = {}
        self._controls = controls
        table, _ = read_table(model.folder / "genes.parquet", GENES)
        self.asked = rows_to_judge(table, model.bundle, model.record.recipe)
        """What to predict of each section, rows of the model's genes.parquet: the panel, then genes to judge apart."""
        table = table.filter(table.column("seen_in_training"))
        self.widths = {level: table.column(f"interval_{level}").to_numpy() for level in (80, 90)}
        self.shown = choose_shown(table.column("val_pcc").to_numpy())
        ids = np.array(training.panel.gene_ids)
        top = model.record.top
        # Where the panel is no larger than a list, the list is the panel and says nothing more.
        lists = {"hpg50": top.predicted, "heg50": top.expressed, "hvg50": top.variable}
        self.groups = {name: np.isin(ids, chosen) for name, chosen in lists.items() if len(chosen) < len(ids)}

    def judge_model(self, section: Section, expression: Floats, sd: Floats) -> None:
        """Judge the model itself, its intervals, and its predictions with spots or texts dealt at random.

        Parameters
        ----------
        expression, sd:
            [measured, gene] of the genes of ``asked``.
        """
        panel = len(self.training.panel)
        if self.asked.num_rows > panel:
            self._judge_unseen(section, expression)
        expression, sd = expression[:, :panel], sd[:, :panel]
        labels = self._truth(section).labels
        intervals = {
            f"coverage_{level}": coverage(labels, expression, sd, width) for level, width in self.widths.items()
        }
        self.judge(section, MODEL, expression, extra=intervals)
        orders = shuffled_orders(len(section), seed=self.model.record.recipe.seed)
        pearson = [mean_known(gene_pearson(labels, expression[order])) for order in orders]
        self._add(section, SHUFFLED, {"pearson": float(np.mean(pearson))})
        if takes_descriptions(self.model.bundle):
            seed = self.model.record.recipe.seed
            self._add(section, SHUFFLED_TEXT, {"pearson": shuffled_text_pearson(labels, expression, seed=seed)})
        shown = [gene for gene in self.shown if not np.isnan(labels[:, gene]).any()]
        self.examples.append(
            Example(
                method=self.model.record.recipe.label,
                protocol=self.model.record.protocol,
                sample=section.record.sample,
                symbols=tuple(self.training.panel.gene_symbols[place] for place in shown),
                centres_level0_px=section.store.centres_level0_px[section.measured],
                truth=labels[:, shown].astype(np.float64),
                predicted=expression[:, shown],
            )
        )

    def judge(
        self, section: Section, subject: str, predicted: Floats, *, extra: dict[str, float] | None = None
    ) -> None:
        """Judge one subject's predictions [measured, gene] of a section."""
        by_gene = self._measure(section, subject, predicted)
        self._add(section, subject, {**section_metrics(by_gene, self.groups), **(extra or {})})
        panel = self.training.panel
        self._add_genes(section, subject, by_gene, ids=panel.gene_ids, symbols=panel.gene_symbols)

    def _judge_unseen(self, section: Section, expression: Floats) -> None:
        """Judge the genes beyond the panel, beside what knows less than their texts."""
        panel = len(self.training.panel)
        found = find_unseen(self.asked.slice(panel), section)
        if found is None:
            return
        seed, own = self.model.record.recipe.seed, expression[:, panel:][:, found.places]
        controls = text_controls(self.asked, self.model.bundle, expression, panel=panel)
        for subject, predicted in {
            OWN_TEXT: own,
            **{name: values[:, found.places] for name, values in controls.items()},
        }.items():
            by_gene = gene_metrics(found.truth, predicted)
            self._add(section, subject, section_metrics(by_gene, {}))
            self._add_genes(section, subject, by_gene, ids=found.gene_ids, symbols=found.gene_symbols)
        shuffled = shuffled_text_pearson(found.truth.labels, own, seed=seed)
        self._add(section, OTHER_TEXT, {"pearson": shuffled})

    def _add_genes(
        self, section: Section, subject: str, by_gene: dict[str, Floats], *, ids: Sequence[str], symbols: Sequence[str]
    ) -> None:
        record = self.model.record
        for place, (gene_id, symbol) in enumerate(zip(ids, symbols, strict=True)):
            self.genes.append(
                GeneRow(
                    method=record.recipe.label,
                    protocol=record.protocol,
                    subject=subject,
                    fold=record.fold,
                    sample=section.record.sample,
                    gene_id=gene_id,
                    gene_symbol=symbol,
                    **{name: float(values[place]) for name, values in by_gene.items()},
                )
            )

    def _measure(self, section: Section, subject: str, predicted: Floats) -> dict[str, Floats]:
        if subject == MODEL:
            return gene_metrics(self._truth(section), predicted)
        key = section.record.sample, subject
        if key not in self._controls:
            self._controls[key] = gene_metrics(self._truth(section), predicted)
        return self._controls[key]

    def _truth(self, section: Section) -> Truth:
        """Labels and neighbourhoods of a section, made once for the model and all controls."""
        sample = section.record.sample
        if sample not in self._truths:
            rows = section.store.array_row[section.measured], section.store.array_col[section.measured]
            labels = self.training.labels(section, self.model.record.protocol)
            self._truths[sample] = Truth(labels, array_neighbourhood(*rows))
        return self._truths[sample]

    def _add(self, section: Section, subject: str, values: dict[str, float]) -> None:
        record = self.model.record
        for metric, value in values.items():
            self.sections.append(
                SectionRow(
                    method=record.recipe.label,
                    protocol=record.protocol,
                    subject=subject,
                    fold=record.fold,
                    sample=section.record.sample,
                    patient=section.record.patient,
                    metric=metric,
                    value=value,
                )
            )


def choose_shown(pearson: NDArray[np.floating]) -> list[int]:
    """Genes to draw, by their held-out Pearson in training: the two best, a middling one, one of the poorest tenth."""
    order = np.argsort(-np.nan_to_num(pearson, nan=-1.0), kind="stable").tolist()
    places = (0, 1, len(order) // 2, len(order) * 9 // 10)
    return [order[place] for place in dict.fromkeys(min(place, len(order) - 1) for place in places)]
