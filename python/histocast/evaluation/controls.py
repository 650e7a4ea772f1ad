"""What a model must be better than, under the same folds, labels and metrics.

``training mean``   every spot gets the mean of the training labels: any skill in error, none in pattern
``stain area``      ridge on one number, the area stained by haematoxylin: what cell density alone explains
``shuffled spots``  the model's own predictions dealt to the section's spots at random: must fall to 0

And, unless the recipe leaves them out, the anchors that a network has to beat:

``ridge``           on the features of target, 3 x 3 and 5 x 5, its penalty chosen on held-out training spots
``extra trees``     on the same (Geurts et al. 2006): 200 trees, leaves of 5 spots or more; judged, not deployable
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from histocast.bundle import FusionSpec, TensorSpec
from histocast.errors import DataError
from histocast.networks.measured import measured_together, over_measured
from histocast.progress import log
from histocast.sections.folds import By
from histocast.sections.protocols import Protocol
from histocast.sections.section import Section
from histocast.training.fit import inner_split
from histocast.training.recipe import STAIN_COLUMN
from histocast.training.training_set import TrainingSet, feature_tensors, section_index

TRAINING_MEAN, STAIN_AREA, SHUFFLED = "training mean", "stain area", "shuffled spots"
RIDGE, EXTRA_TREES = "ridge", "extra trees"

STAIN_PREFIX = "haematoxylin_above_"

SHUFFLES = 20
"""Draws that shuffled figures are averaged over: one draw of 180 spots scatters by 0.07."""


def predict_controls(
    training: TrainingSet, *, train: Sequence[Section], test: Sequence[Section], protocol: Protocol, by: By
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Predictions [measured, gene] by control and sample.

    Raises
    ------
    DataError
        The sections were prepared without what the control stain area reads.
    """
    labels = [training.labels(section, protocol) for section in train]
    mean = over_measured(partial(np.mean, dtype=np.float64), np.concatenate(labels))
    found = {TRAINING_MEAN: {s.record.sample: np.broadcast_to(mean, (len(s), len(mean))) for s in test}}
    if training.recipe.shows_stain:
        found[STAIN_AREA] = _predict_stain_area(training, train, test, np.concatenate(labels), by=by)
    else:
        geometry = training.recipe.geometry
        log(
            f"no control {STAIN_AREA}: tiles of {geometry.tile_px} px at {geometry.um_per_px:g} um/px are too small for it"
        )
    if training.recipe.controls:
        found |= _predict_anchors(training, train, test, np.concatenate(labels), by=by)
    return found


def _predict_anchors(
    training: TrainingSet,
    train: Sequence[Section],
    test: Sequence[Section],
    labels: NDArray[np.float32],
    *,
    by: By,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    from histocast.networks.ridge import Decomposition, RidgeOptions, fit_ridge
    from histocast.training.fit import fusion_spec, ridge_design

    fusion, options = fusion_spec(training), RidgeOptions()

    def design_of(section: Section) -> NDArray[np.float32]:
        return ridge_design(training.gather(section, fusion)(section.measured), scales=options.scales)

    seen = np.concatenate([design_of(section) for section in train])
    asked = {section.record.sample: design_of(section) for section in test}
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    if RIDGE in training.recipe.controls:
        index, group = section_index(train), inner_split(train, by=by).group
        alpha = fit_ridge(seen, labels, section=index, group=group, options=options).alpha
        solution = Decomposition(seen, labels).solve(alpha)
        found[RIDGE] = {sample: solution.predict(design) for sample, design in asked.items()}
    if EXTRA_TREES in training.recipe.controls:
        found[EXTRA_TREES] = _predict_trees(seen, labels, asked, seed=training.recipe.seed)
    return found


def _predict_trees(
    design: NDArray[np.float32], labels: NDArray[np.float32], asked: Mapping[str, NDArray[np.float32]], *, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Extra trees, one forest for the genes that the same spots measured."""
    from sklearn.ensemble import ExtraTreesRegressor

    found = {sample: np.full((len(values), labels.shape[1]), np.nan) for sample, values in asked.items()}
    for spots, genes in measured_together(labels):
        truth = labels[np.ix_(spots, genes)]
        trees = ExtraTreesRegressor(200, min_samples_leaf=5, random_state=seed)
        trees.fit(design[spots], truth if len(genes) > 1 else truth[:, 0])
        for sample, values in asked.items():
            found[sample][:, genes] = trees.predict(values).reshape(len(values), -1)
    return found


def _predict_stain_area(
    training: TrainingSet,
    train: Sequence[Section],
    test: Sequence[Section],
    labels: NDArray[np.float32],
    *,
    by: By,
) -> dict[str, NDArray[np.float64]]:
    """Ridge on the one area feature that does best on held-out training spots: the strongest such control."""
    from histocast.networks.ridge import Decomposition, RidgeOptions, fit_ridge

    fusion = _stain_spec(training)
    areas = np.concatenate([stain_areas(training, section, fusion) for section in train])
    # Pearson of one feature is the same for every penalty, and would leave its size to chance.
    options = RidgeOptions(scales=("target",), choose_by="mse")
    index, group = section_index(train), inner_split(train, by=by).group
    columns = [slice(place, place + 1) for place in range(areas.shape[1])]
    fits = [fit_ridge(areas[:, column], labels, section=index, group=group, options=options) for column in columns]
    best = max(range(len(fits)), key=lambda place: fits[place].scores[fits[place].alpha])
    solution = Decomposition(areas[:, columns[best]], labels).solve(fits[best].alpha)
    return {s.record.sample: solution.predict(stain_areas(training, s, fusion)[:, columns[best]]) for s in test}


def _stain_spec(training: TrainingSet) -> FusionSpec:
    """A contract that gathers morphology alone, whatever the method takes."""
    from histocast.training.fit import fusion_spec

    tensor = feature_tensors(training.records[0].encoders).get(STAIN_COLUMN)
    if tensor is None:
        raise DataError(
            f"sections without {STAIN_COLUMN}",
            expected="what the control 'stain area' reads, whatever the method's features are",
            where=f"recipe {training.recipe.name}",
            advice="run prepare again: it encodes morphology beside the recipe's features",
        )
    target = TensorSpec(name="target", dtype="float32", shape=("spot", *tensor.shape[1:]))
    return fusion_spec(training).model_copy(update={"inputs": (target,), "feeds": {"target": (STAIN_COLUMN,)}})


def stain_areas(training: TrainingSet, section: Section, fusion: FusionSpec) -> NDArray[np.float32]:
    """Share of each measured tile above several amounts of haematoxylin: [measured, threshold].

    Standardised as the recipe says, and nothing else of the tile.
    """
    from histocast.encoders.morphology import FEATURE_NAMES

    places = [place for place, name in enumerate(FEATURE_NAMES) if name.startswith(STAIN_PREFIX)]
    target: NDArray[np.float32] = training.gather(section, fusion)(section.measured)["target"]
    return target[:, places]


def shuffled_orders(spots: int, *, seed: int) -> list[NDArray[np.int64]]:
    """Random orders of a section's spots, the same for the same seed."""
    random = np.random.default_rng(seed)
    return [random.permutation(spots) for _ in range(SHUFFLES)]
