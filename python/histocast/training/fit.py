"""Fit a method on chosen sections: what differs between methods, behind one function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histocast.bundle import NEIGHBOUR_SIDE, FusionSpec, TensorSpec
from histocast.errors import DataError
from histocast.sections.folds import By
from histocast.sections.protocols import Protocol
from histocast.sections.section import Section
from histocast.training.gene_text import GeneText
from histocast.training.recipe import LINEAR
from histocast.training.training_set import TrainingSet, feature_tensors, section_index

if TYPE_CHECKING:
    from torch import nn

    from histocast.networks.ridge import RidgeFit
    from histocast.training.trained_encoder import TrainedEncoder

OUTPUTS = ("expression", "sd")

BLOCKS = 4
"""Bands of a section that are held out in turn where there is nothing else to hold out."""


@dataclass(frozen=True)
class InnerSplit:
    """What is held out within the training data, where every choice is made."""

    group: NDArray[np.int64]
    """[spot]."""
    description: str


@dataclass(frozen=True)
class Workspace:
    """Where a training leaves what it has come to."""

    metrics: Path
    """Folder for the metrics of every epoch."""
    checkpoints: Path
    """Folder for what it goes on from after a stop."""


@dataclass(frozen=True)
class Fitted:
    """A trained method and what the held-out training spots said of it."""

    module: nn.Module
    fusion: FusionSpec
    """Without the file, which is not written yet."""
    example: dict[str, NDArray[Any]]
    """Inputs of one section, to export with and to compare torch with ONNX on."""
    labels: NDArray[np.float32]
    """[spot, gene] of all training spots."""
    section: NDArray[np.int64]
    """[spot]."""
    heldout_expression: NDArray[np.float64]
    """[spot, gene] by models that had not seen the spot's group."""
    heldout_sd: NDArray[np.float64]
    scored: NDArray[np.bool_]
    """[spot]: which spots any model had not seen; the held-out figures of others are NaN."""
    inner: InnerSplit
    choices: dict[str, Any]
    """What was chosen on held-out spots, for the record."""
    gene_text: GeneText | None = None
    """Descriptions, where the graph takes genes by them."""
    learned_text: GeneText | None = None
    """Descriptions it was trained on, whether or not the graph takes others."""
    encoder: TrainedEncoder | None = None
    """The target's, where it was trained too."""


def fit(
    training: TrainingSet,
    sections: Sequence[Section],
    *,
    protocol: Protocol,
    by: By,
    gene_text: Path | None = None,
    workspace: Workspace | None = None,
) -> Fitted:
    """Train the recipe's method on ``sections``.

    ``gene_text``: embedded gene descriptions, for a method that reads them.
    ``workspace``: folders for what a method keeps while it is trained; none is kept without.
    Raises `ConfigError`: the recipe's options do not fit the method; `DataError`: the features do not fit the method,
    or there are too few spots.
    """
    if training.recipe.method not in LINEAR:
        from histocast.training.fit_network import fit_network

        return fit_network(training, sections, protocol=protocol, by=by, gene_text=gene_text, workspace=workspace)
    return _fit_linear(training, sections, protocol=protocol, by=by)


def _fit_linear(training: TrainingSet, sections: Sequence[Section], *, protocol: Protocol, by: By) -> Fitted:
    from histocast.networks.kernel_ridge import KernelRidgeOptions, fit_kernel_ridge, read_linear_options
    from histocast.networks.ridge import fit_ridge

    recipe = training.recipe
    options = read_linear_options(recipe.method, recipe.options, where=f"recipe {recipe.name}, method {recipe.method}")
    fusion = fusion_spec(training)
    inner = inner_split(sections, by=by)
    designs, labels = [], []
    example: dict[str, NDArray[Any]] = {}
    for section in sections:
        example = training.gather(section, fusion)(section.measured)
        designs.append(ridge_design(example, scales=options.scales))
        labels.append(training.labels(section, protocol))
    design, truth, index = np.concatenate(designs), np.concatenate(labels), section_index(sections)
    if isinstance(options, KernelRidgeOptions):
        found: RidgeFit = fit_kernel_ridge(design, truth, section=index, group=inner.group, options=options)
    else:
        found = fit_ridge(design, truth, section=index, group=inner.group, options=options)
    return Fitted(
        module=found.module,
        fusion=fusion,
        example=example,
        labels=truth,
        section=index,
        heldout_expression=found.heldout_expression,
        heldout_sd=found.heldout_sd,
        scored=np.ones(len(truth), bool),
        inner=inner,
        choices=found.choices | {"scales": list(options.scales)},
    )


def ridge_design(inputs: dict[str, NDArray[Any]], *, scales: Sequence[Any]) -> NDArray[np.float32]:
    """The design matrix of ridge, by the module that the exported graph holds."""
    from histocast.networks.onnx_file import run_torch
    from histocast.networks.ridge import ScaleMeans

    return run_torch(ScaleMeans(scales), inputs, outputs=("design",))["design"]


def fusion_spec(training: TrainingSet) -> FusionSpec:
    """The contract of ridge's fusion graph for the features and the panel of a training."""
    recipe = training.recipe
    dim, genes = embedding_dim(training), len(training.panel)
    points = NEIGHBOUR_SIDE**2
    return FusionSpec(
        file=None,
        sha256="",
        inputs=(
            TensorSpec(name="target", dtype="float32", shape=("spot", dim)),
            TensorSpec(name="neighbour", dtype="float32", shape=("spot", points, dim)),
            TensorSpec(name="neighbour_mask", dtype="bool", shape=("spot", points)),
        ),
        outputs=tuple(TensorSpec(name=name, dtype="float32", shape=("spot", genes)) for name in OUTPUTS),
        method=recipe.method,
        feeds={"target": recipe.features, "neighbour": recipe.features},
        region_spots=recipe.region_spots,
        halo_spots=recipe.halo_spots,
        standardise_within_slide=recipe.standardise_within_slide,
    )


def embedding_dim(training: TrainingSet) -> int:
    """Width of the recipe's features, one vector per tile.

    Raises `DataError`: a feature is no vector.
    """
    tensors = feature_tensors(training.encoders)
    dim = 0
    for column in training.recipe.features:
        shape = tensors[column].shape
        if len(shape) != 2 or not isinstance(shape[1], int):
            raise DataError(
                f"features {column!r} of shape {list(shape)}",
                expected="[tile, dim]: one vector per tile",
                where=f"recipe {training.recipe.name}",
                advice="name an encoder output that is an embedding",
            )
        dim += shape[1]
    return dim


def inner_split(sections: Sequence[Section], *, by: By) -> InnerSplit:
    """Hold out patients within the training data, else sections, else bands of the only section."""
    index = section_index(sections)
    patients = [section.record.patient for section in sections]
    if by == "patient" and len(set(patients)) > 1:
        number = {patient: place for place, patient in enumerate(sorted(set(patients)))}
        return InnerSplit(np.array([number[patient] for patient in patients])[index], "leave one patient out")
    if len(sections) > 1:
        return InnerSplit(index, "leave one section out")
    section = sections[0]
    y = section.store.centres_level0_px[section.measured, 1]
    if len(y) < 2 * BLOCKS:
        raise DataError(
            f"{len(y)} measured spots",
            expected=f"at least {2 * BLOCKS}",
            where=f"sample {section.record.sample}",
            advice="train on more than one section",
        )
    band = np.argsort(np.argsort(y, kind="stable"), kind="stable") * BLOCKS // len(y)
    return InnerSplit(
        band.astype(np.int64), f"leave one of {BLOCKS} bands of the only section out: touching, so flattering"
    )
