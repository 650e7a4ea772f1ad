"""What gene texts add: a gene's own text against another's, for genes of the panel and for genes never measured.

A graph that takes genes by their texts answers for a gene by its text alone, whatever other genes it is asked for. So
what it says of a gene given another's text is what it says of that other gene, and no second prediction is made.

Beside a model's panel stands ``shuffled text``. Genes that the recipe left out of training and that a held-out section
measured are scored apart:

``unseen: own text``           the model, from the gene's description
``unseen: shuffled text``      from the description of another of these genes: what is left without knowing the gene
``unseen: nearest seen gene``  the prediction of the panel gene described most alike: what the text adds beyond likeness
``unseen: text kernel``        the panel's maps, averaged by how alike the descriptions are: what needs no training on texts
``unseen: panel mean``         the mean prediction over the panel: what every gene shares, such as cell density
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from histocast.bundle import Bundle
from histocast.evaluation.controls import SHUFFLES
from histocast.evaluation.metrics import mean_known
from histocast.evaluation.truth import Truth, measure_truth
from histocast.fusion.panel import gene_inputs
from histocast.fusion.selected_genes import find_nearest, takes_descriptions
from histocast.networks.correlation import gene_pearson
from histocast.sections.measured_panel import gene_columns
from histocast.sections.protocols import Protocol
from histocast.sections.section import Section
from histocast.training.recipe import Recipe

Floats = NDArray[np.float64]

SHUFFLED_TEXT = "shuffled text"
UNSEEN = "unseen: "
OWN_TEXT, OTHER_TEXT, NEAREST_GENE, TEXT_KERNEL, PANEL_MEAN = UNSEEN_SUBJECTS = (
    f"{UNSEEN}own text",
    f"{UNSEEN}shuffled text",
    f"{UNSEEN}nearest seen gene",
    f"{UNSEEN}text kernel",
    f"{UNSEEN}panel mean",
)

KERNEL_WIDTH = 0.05
"""Difference of cosines by which a description weighs e times less in the text kernel."""

UNSEEN_PROTOCOL: Protocol = "strict"
"""Its library is of all genes of a spot. That of ``paper`` is of the panel, to which unseen genes do not belong."""


@dataclass(frozen=True)
class UnseenGenes:
    """Genes left out of training that a section measured."""

    places: NDArray[np.int64]
    """[gene] row among the model's unseen genes."""
    gene_ids: tuple[str, ...]
    gene_symbols: tuple[str, ...]
    truth: Truth


def rows_to_judge(genes: pa.Table, bundle: Bundle, recipe: Recipe) -> pa.Table:
    """The model's panel, then the genes its recipe left out by name, as far as the model takes genes by their texts.

    ``genes``: genes.parquet of the model.
    """
    panel = genes.filter(genes.column("seen_in_training"))
    if recipe.unseen_genes is None or recipe.protocol != UNSEEN_PROTOCOL or not takes_descriptions(bundle):
        return panel
    return pa.concat_tables([panel, genes.filter(pc.invert(genes.column("seen_in_training")))])


def find_unseen(unseen: pa.Table, section: Section) -> UnseenGenes | None:
    """Those of the unseen genes that a section measured, and their labels; nothing where it measured none."""
    ids, symbols = unseen.column("gene_id").to_pylist(), unseen.column("gene_symbol").to_pylist()
    sample = section.record.sample
    by_id, by_symbol = gene_columns(ids, section, sample=sample), gene_columns(symbols, section, sample=sample)
    columns = np.where(by_id >= 0, by_id, by_symbol)
    places = np.flatnonzero(columns >= 0)
    if not len(places):
        return None
    return UnseenGenes(
        places=places,
        gene_ids=tuple(ids[place] for place in places),
        gene_symbols=tuple(symbols[place] for place in places),
        truth=measure_truth(section, protocol=UNSEEN_PROTOCOL, panel=columns[places]),
    )


def text_controls(genes: pa.Table, bundle: Bundle, expression: Floats, *, panel: int) -> dict[str, Floats]:
    """Predictions [measured, gene] of unseen genes by what knows less than their own texts, by subject.

    ``genes``: rows of `rows_to_judge`.
    ``expression``: [measured, row] predicted of them.
    ``panel``: how many of the rows are of the panel.
    """
    text = gene_inputs(bundle.fusion, genes)["gene"]
    _, near = find_nearest(text[panel:], text[:panel])
    seen = expression[:, :panel]
    return {
        NEAREST_GENE: seen[:, near],
        TEXT_KERNEL: average_by_text(seen, text[panel:], text[:panel]),
        PANEL_MEAN: np.repeat(seen.mean(axis=1, keepdims=True), len(near), axis=1),
    }


def average_by_text(seen: Floats, asked: NDArray[np.floating], known: NDArray[np.floating]) -> Floats:
    """Maps of known genes, averaged by the softmax of how alike their descriptions are to those asked for: [spot, asked].

    Each map counts in units of its own sd, so that a gene of large variance weighs no more than another; mean and sd of
    the average are averaged alike.

    ``seen``: [spot, known].
    ``asked``, ``known``: descriptions, [asked, dim] and [known, dim].
    """
    units = (values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12) for values in (asked, known))
    first, second = (np.asarray(values, np.float64) for values in units)
    weight = np.exp((first @ second.T - 1.0) / KERNEL_WIDTH)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
    mean, sd = seen.mean(axis=0), seen.std(axis=0)
    maps = (seen - mean) / np.maximum(sd, 1e-12)
    return np.asarray((maps @ weight.T) * (sd @ weight.T) + mean @ weight.T)


def shuffled_text_pearson(labels: NDArray[np.floating], predicted: Floats, *, seed: int) -> float:
    """Mean Pearson where every gene gets the text of another, over `SHUFFLES` draws; NaN for a single gene."""
    count = labels.shape[1]
    if count < 2:
        return float("nan")
    random = np.random.default_rng(seed)
    draws = [mean_known(gene_pearson(labels, predicted[:, _derange(count, random)])) for _ in range(SHUFFLES)]
    return float(np.mean(draws))


def _derange(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """An order in which nobody keeps the place: a step along a random circle."""
    circle = random.permutation(count)
    order = np.empty(count, np.int64)
    order[circle] = np.roll(circle, 1)
    return order
