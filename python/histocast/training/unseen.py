"""Zero-shot: how well genes are predicted that were not measured in training, from their descriptions alone.

``text``           the gene's own description
``shuffled text``  the description of another held-out gene: what is left without knowing the gene
``nearest gene``   the prediction for the panel gene described most alike: what the text adds beyond likeness
``panel mean``     the mean prediction over the panel: what every gene shares, such as cell density
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from histocast.errors import UsageError
from histocast.methods.correlation import gene_pearson
from histocast.methods.onnx_file import run_torch
from histocast.serving.asked_genes import find_nearest
from histocast.training.fit import OUTPUTS, Fitted
from histocast.training.gene_text import GeneText
from histocast.training.metrics import mean_known
from histocast.training.section import Section
from histocast.training.trained_encoder import seen_by
from histocast.training.training_set import TrainingSet

TEXT, SHUFFLED_TEXT, NEAREST_GENE, PANEL_MEAN = "text", "shuffled text", "nearest gene", "panel mean"

SHUFFLES = 5


def judge_unseen(
    fitted: Fitted,
    training: TrainingSet,
    section: Section,
    *,
    genes: Sequence[str],
    labels: NDArray[np.floating],
    seed: int = 0,
) -> dict[str, float]:
    """Mean Pearson within ``section`` over held-out genes, by control.

    Parameters
    ----------
    fitted:
        A network that takes genes by their texts, trained without these.
    section:
        One it did not see.
    genes:
        Symbols of the held-out genes.
    labels:
        [measured, gene] of them.

    Raises
    ------
    UsageError
        The method knows its panel alone, or a gene has no description or was trained on.
    """
    text = fitted.gene_text
    if text is None:
        raise UsageError("a method that knows its panel alone", expected="one that takes genes by descriptions")
    asked = text.others[_rows(text, genes)]
    with seen_by(fitted.encoder, section) as seen:

        def predict(embedding: NDArray[np.float32]) -> NDArray[np.float32]:
            inputs = training.gather(seen, fitted.fusion, fixed={"gene": embedding})(seen.measured)
            found: NDArray[np.float32] = run_torch(fitted.module, inputs, outputs=OUTPUTS)["expression"]
            return found

        own, panel = predict(asked), predict(text.panel)

    def score(predicted: NDArray[np.floating]) -> float:
        return mean_known(gene_pearson(labels, predicted))

    _, near = find_nearest(asked, text.panel)
    random = np.random.default_rng(seed)
    shuffled = [score(own[:, _derange(len(genes), random)]) for _ in range(SHUFFLES)]
    return {
        TEXT: score(own),
        SHUFFLED_TEXT: float(np.mean(shuffled)),
        NEAREST_GENE: score(panel[:, near]),
        PANEL_MEAN: score(np.repeat(panel.mean(axis=1, keepdims=True), len(genes), axis=1)),
    }


def _rows(text: GeneText, genes: Sequence[str]) -> list[int]:
    row_of = {symbol: row for row, symbol in enumerate(text.other_symbols)}
    if absent := [gene for gene in genes if gene not in row_of]:
        raise UsageError(
            f"{', '.join(absent[:5])} described nowhere, or trained on", expected="held-out genes that are described"
        )
    return [row_of[gene] for gene in genes]


def _derange(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """An order in which nobody keeps the place: a step along a random circle."""
    circle = random.permutation(count)
    order = np.empty(count, np.int64)
    order[circle] = np.roll(circle, 1)
    return order
