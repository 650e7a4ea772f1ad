"""Score what one model, and the controls next to it, predict of the sections it did not see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import GENES, read_table
from histocast.bundle import Bundle
from histocast.evaluation.between_slides import crop_slope
from histocast.evaluation.controls import (
    MEAN_OF_GENES,
    SHUFFLED,
    FoldDesign,
    copy_mean_of_genes,
    predict_controls,
    shuffled_orders,
)
from histocast.evaluation.evaluation_plots import Example
from histocast.evaluation.metrics import coverage, gene_metrics, mean_known, section_metrics
from histocast.evaluation.scores import Key, Scores
from histocast.evaluation.summary import MODEL
from histocast.evaluation.truth import Truth, measure_truth
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
from histocast.sections.protocols import Protocol
from histocast.sections.section import Section
from histocast.training.train_record import TrainRecord
from histocast.training.training_set import TrainingSet

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainedModel:
    """A model folder of `histocast.stages.train`."""

    folder: Path
    record: TrainRecord
    bundle: Bundle


class HeldOut:
    """The held-out sections of a fold under one protocol, and how well controls do there: alike for all methods.

    ``fold``: shared by its protocols.
    """

    def __init__(self, training: TrainingSet, fold: FoldDesign, protocol: Protocol) -> None:
        self.training = training
        self.fold = fold
        self.protocol = protocol
        self.sections = fold.test

    @cached_property
    def truths(self) -> dict[str, Truth]:
        """By sample."""
        recipe, columns = self.training.recipe, self.training.panel.columns
        return {
            section.record.sample: measure_truth(
                section,
                protocol=self.protocol,
                panel=columns[section.record.sample],
                missing=recipe.missing_genes,
            )
            for section in self.sections
        }

    @cached_property
    def controls(self) -> list[tuple[str, Section, dict[str, Floats]]]:
        """Every control that is no model's own, on every section, with its `gene_metrics`."""
        predicted = predict_controls(self.training, self.fold, protocol=self.protocol)
        return [
            (subject, section, gene_metrics(self.truths[section.record.sample], by_sample[section.record.sample]))
            for subject, by_sample in predicted.items()
            for section in self.sections
        ]


class ModelScorer:
    """Scores one model and its controls on the sections that it left out."""

    def __init__(self, model: TrainedModel, held: HeldOut) -> None:
        self.model = model
        self.held = held
        self.scores = Scores()
        table, _ = read_table(model.folder / "genes.parquet", GENES)
        self.asked = rows_to_judge(table, model.bundle, model.record.recipe)
        """What to predict of each section, rows of the model's genes.parquet: the panel, then genes to score apart."""
        table = table.filter(table.column("seen_in_training"))
        self.widths = {level: table.column(f"interval_{level}").to_numpy() for level in (80, 90)}
        self.shown = choose_shown(table.column("val_pcc").to_numpy())
        ids = np.array(held.training.panel.gene_ids)
        top = model.record.top
        # Where the panel is no larger than a list, the list is the panel and says nothing more.
        lists = {"hpg50": top.predicted, "heg50": top.expressed, "hvg50": top.variable}
        self.groups = {name: np.isin(ids, chosen) for name, chosen in lists.items() if len(chosen) < len(ids)}

    def score_model(
        self, section: Section, expression: Floats, sd: Floats, *, predict: Callable[[Section], Floats]
    ) -> None:
        """Score the model, its intervals, what it makes of windows of the section, and its predictions made blind.

        ``expression``, ``sd``: [measured, gene] of the genes of ``asked``.
        ``predict``: expression of the same genes at the measured spots of another section.
        """
        genes = len(self.held.training.panel)
        if self.asked.num_rows > genes:
            self._score_unseen(section, expression)
        slope = crop_slope(section, expression[:, :genes], predict=lambda window: predict(window)[:, :genes])
        expression, sd = expression[:, :genes], sd[:, :genes]
        truth = self.held.truths[section.record.sample]
        extra = {f"coverage_{level}": coverage(truth.labels, expression, sd, w) for level, w in self.widths.items()}
        self._score(section, MODEL, gene_metrics(truth, expression), extra | {"crop_slope": slope})
        self._score(section, MEAN_OF_GENES, gene_metrics(truth, copy_mean_of_genes(expression)))
        seed = self.model.record.recipe.seed
        orders = shuffled_orders(len(section), seed=seed)
        shuffled = [mean_known(gene_pearson(truth.labels, expression[order])) for order in orders]
        self.scores.add_section(self._key(section, SHUFFLED), {"pearson": float(np.mean(shuffled))})
        if takes_descriptions(self.model.bundle):
            pearson = shuffled_text_pearson(truth.labels, expression, seed=seed)
            self.scores.add_section(self._key(section, SHUFFLED_TEXT), {"pearson": pearson})
        self._keep_example(section, truth.labels, expression)

    def score_controls(self) -> None:
        """Score the controls that are no model's own; lists of best genes are the model's."""
        for subject, section, by_gene in self.held.controls:
            self._score(section, subject, by_gene)

    def _score(
        self, section: Section, subject: str, by_gene: dict[str, Floats], extra: dict[str, float] | None = None
    ) -> None:
        key, panel = self._key(section, subject), self.held.training.panel
        self.scores.add_section(key, {**section_metrics(by_gene, self.groups), **(extra or {})})
        self.scores.add_genes(key, by_gene, ids=panel.gene_ids, symbols=panel.gene_symbols)

    def _score_unseen(self, section: Section, expression: Floats) -> None:
        """Score the genes beyond the panel, beside what knows less than their texts."""
        genes = len(self.held.training.panel)
        found = find_unseen(self.asked.slice(genes), section)
        if found is None:
            return
        own = expression[:, genes:][:, found.places]
        controls = text_controls(self.asked, self.model.bundle, expression, panel=genes)
        predicted = {OWN_TEXT: own} | {name: values[:, found.places] for name, values in controls.items()}
        for subject, values in predicted.items():
            key, by_gene = self._key(section, subject), gene_metrics(found.truth, values)
            self.scores.add_section(key, section_metrics(by_gene, {}))
            self.scores.add_genes(key, by_gene, ids=found.gene_ids, symbols=found.gene_symbols)
        shuffled = shuffled_text_pearson(found.truth.labels, own, seed=self.model.record.recipe.seed)
        self.scores.add_section(self._key(section, OTHER_TEXT), {"pearson": shuffled})

    def _key(self, section: Section, subject: str) -> Key:
        model = self.model.record
        record = section.record
        return Key(model.recipe.label, model.protocol, subject, model.fold, record.sample, record.patient)

    def _keep_example(self, section: Section, labels: NDArray[np.floating], expression: Floats) -> None:
        shown = [gene for gene in self.shown if not np.isnan(labels[:, gene]).any()]
        self.scores.examples.append(
            Example(
                method=self.model.record.recipe.label,
                protocol=self.model.record.protocol,
                sample=section.record.sample,
                symbols=tuple(self.held.training.panel.gene_symbols[place] for place in shown),
                centres_level0_px=section.store.centres_level0_px[section.measured],
                truth=labels[:, shown].astype(np.float64),
                predicted=expression[:, shown],
            )
        )


def choose_shown(pearson: NDArray[np.floating]) -> list[int]:
    """Genes to draw, by their held-out Pearson in training: the two best, a middling one, one of the poorest tenth."""
    order = np.argsort(-np.nan_to_num(pearson, nan=-1.0), kind="stable").tolist()
    places = (0, 1, len(order) // 2, len(order) * 9 // 10)
    return [order[place] for place in dict.fromkeys(min(place, len(order) - 1) for place in places)]
