"""What a model must be better than, under the same folds, labels and metrics.

``training mean``      every spot gets the mean of the training labels: any skill in error, none in pattern
``one depth map``      the library size of a spot, predicted by ridge, copied to all genes: what sequencing depth explains
``mean of all genes``  the model's own predictions, averaged over genes and copied to all: the map that genes share
``stain area``         ridge on one number, the area stained by haematoxylin: what cell density alone explains
``shuffled spots``     the model's own predictions dealt to the section's spots at random: must fall to 0

And, unless the recipe leaves them out, the anchors that a network has to beat, on the features of target, 3 x 3 and 5 x 5:

``ridge``              its penalty chosen on held-out training spots
``kernel ridge``       its width and penalty chosen so (`histocast.networks.kernel_ridge`)
``extra trees``        Geurts et al. 2006: 200 trees, leaves of 5 spots or more; scored, not deployable
``average``            the mean of these three: what several models of one kind, such as an ensemble, are compared with
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from histocast.bundle import FusionSpec, TensorSpec
from histocast.errors import DataError
from histocast.evaluation.truth import library_of
from histocast.networks.measured import measured_together, over_measured
from histocast.progress import log
from histocast.sections.folds import By
from histocast.sections.protocols import Protocol
from histocast.sections.section import Section
from histocast.training.fit import inner_split
from histocast.training.recipe import EXTRA_TREES, KERNEL_RIDGE, RIDGE, STAIN_COLUMN
from histocast.training.training_set import TrainingSet, feature_tensors, section_index

Floats = NDArray[np.float64]

TRAINING_MEAN, DEPTH_MAP, MEAN_OF_GENES = "training mean", "one depth map", "mean of all genes"
STAIN_AREA, SHUFFLED, AVERAGE = "stain area", "shuffled spots", "average"

STAIN_PREFIX = "haematoxylin_above_"

SHUFFLES = 20
"""Draws that shuffled figures are averaged over: one draw of 180 spots scatters by 0.07."""


def predict_controls(training: TrainingSet, fold: FoldDesign, *, protocol: Protocol) -> dict[str, dict[str, Floats]]:
    """Predictions [measured, gene] by control and sample.

    Raises `DataError`: the sections were prepared without what the control stain area reads.
    """
    train, test = fold.train, fold.test
    labels = np.concatenate([training.labels(section, protocol) for section in train])
    mean = over_measured(partial(np.mean, dtype=np.float64), labels)
    found: dict[str, dict[str, Floats]] = {
        TRAINING_MEAN: {s.record.sample: np.broadcast_to(mean, (len(s), len(mean))) for s in test},
        DEPTH_MAP: {sample: mean + deviation for sample, deviation in fold.depth.items()},
    }
    if training.recipe.shows_stain:
        found[STAIN_AREA] = _predict_stain_area(training, fold, labels)
    else:
        geometry = training.recipe.geometry
        log(
            f"no control {STAIN_AREA}: tiles of {geometry.tile_px} px at {geometry.um_per_px:g} um/px are too small for it"
        )
    return found | _predict_anchors(fold, labels, training.recipe.controls, seed=training.recipe.seed)


@dataclass(frozen=True)
class FoldDesign:
    """What ridge and trees see of a fold's sections, under any protocol."""

    train: tuple[Section, ...]
    test: tuple[Section, ...]
    seen: NDArray[np.float32]
    """[spot, design] of all training spots."""
    asked: dict[str, NDArray[np.float32]]
    """[measured, design] by held-out sample."""
    section: NDArray[np.int64]
    """[spot] number of its training section."""
    group: NDArray[np.int64]
    """[spot] what is held out together within the training data."""

    @classmethod
    def of(cls, training: TrainingSet, train: Sequence[str], test: Sequence[str], *, by: By) -> FoldDesign:
        """Features of target, 3 x 3 and 5 x 5, as the recipe standardises them."""
        from histocast.networks.ridge import RidgeOptions
        from histocast.training.fit import fusion_spec, ridge_design

        fusion = fusion_spec(training)
        seen, asked = training.choose(train), training.choose(test)

        def design_of(section: Section) -> NDArray[np.float32]:
            return ridge_design(training.gather(section, fusion)(section.measured), scales=RidgeOptions().scales)

        return cls(
            train=seen,
            test=asked,
            seen=np.concatenate([design_of(section) for section in seen]),
            asked={section.record.sample: design_of(section) for section in asked},
            section=section_index(seen),
            group=inner_split(seen, by=by).group,
        )

    @cached_property
    def depth(self) -> dict[str, Floats]:
        """By how much the logarithm of the library, as ridge predicts it, is above its training mean: [measured, 1]."""
        from histocast.networks.ridge import RidgeOptions, fit_ridge

        library = np.concatenate([library_of(section) for section in self.train])[:, None]
        fit = fit_ridge(self.seen, library, section=self.section, group=self.group, options=RidgeOptions())
        return {sample: fit.solution.predict(values) - library.mean() for sample, values in self.asked.items()}


def copy_mean_of_genes(expression: Floats) -> Floats:
    """Each gene's mean over spots, plus by how much the mean of all genes is above its own there: [spot, gene]."""
    shared = np.nanmean(expression, axis=1, keepdims=True)
    return np.asarray(expression.mean(axis=0) + shared - shared.mean())


def _predict_anchors(
    design: FoldDesign, labels: NDArray[np.float32], wanted: Sequence[str], *, seed: int
) -> dict[str, dict[str, Floats]]:
    from histocast.networks.kernel_ridge import KernelRidgeOptions, fit_kernel_ridge
    from histocast.networks.ridge import RidgeOptions, fit_ridge

    held = {"section": design.section, "group": design.group}
    found: dict[str, dict[str, Floats]] = {}
    if RIDGE in wanted:
        ridge = fit_ridge(design.seen, labels, **held, options=RidgeOptions())
        found[RIDGE] = {sample: ridge.solution.predict(values) for sample, values in design.asked.items()}
    if KERNEL_RIDGE in wanted:
        kernel = fit_kernel_ridge(design.seen, labels, **held, options=KernelRidgeOptions(seed=seed))
        found[KERNEL_RIDGE] = {sample: kernel.predict(values) for sample, values in design.asked.items()}
    if EXTRA_TREES in wanted:
        found[EXTRA_TREES] = _predict_trees(design.seen, labels, design.asked, seed=seed)
    if len(found) == 3:
        found[AVERAGE] = {
            sample: np.mean([predicted[sample] for predicted in found.values()], axis=0) for sample in design.asked
        }
    return found


def _predict_trees(
    design: NDArray[np.float32], labels: NDArray[np.float32], asked: Mapping[str, NDArray[np.float32]], *, seed: int
) -> dict[str, Floats]:
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
    training: TrainingSet, fold: FoldDesign, labels: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Ridge on the one area feature that does best on held-out training spots: the strongest such control."""
    from histocast.networks.ridge import RidgeOptions, fit_ridge

    fusion = _stain_spec(training)
    areas = np.concatenate([stain_areas(training, section, fusion) for section in fold.train])
    # Pearson of one feature is the same for every penalty, and would leave its size to chance.
    options = RidgeOptions(scales=("target",), choose_by="mse")
    columns = [slice(place, place + 1) for place in range(areas.shape[1])]
    fits = [
        fit_ridge(areas[:, column], labels, section=fold.section, group=fold.group, options=options)
        for column in columns
    ]
    best = max(range(len(fits)), key=lambda place: fits[place].score)
    solution = fits[best].solution
    return {s.record.sample: solution.predict(stain_areas(training, s, fusion)[:, columns[best]]) for s in fold.test}


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
