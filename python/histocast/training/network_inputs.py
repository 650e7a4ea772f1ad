"""What a network is given: the contract of its fusion graph, and the regions of the training sections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from histocast.bundle import FeatureStatistics, FusionSpec, TensorSpec
from histocast.encoders.target_encoder import FromPixels, Tiles
from histocast.errors import DataError
from histocast.fusion.fusion_inputs import regions_of_slide
from histocast.fusion.spot_features import standardisation
from histocast.networks.ensemble import graph_inputs
from histocast.networks.layers import Spots
from histocast.networks.network import Network
from histocast.sections.section import Section
from histocast.training.fit import fusion_spec
from histocast.training.gene_text import GeneText
from histocast.training.trained_encoder import COLUMN, open_pixels, target_tensor, without_target
from histocast.training.training_regions import TrainingRegion
from histocast.training.training_set import TrainingSet, feature_tensors


def build_regions(training: TrainingSet, sections: Sequence[Section], fusion: FusionSpec) -> tuple[TrainingRegion, ...]:
    """Every region of the sections, cut as at prediction, with its measured spots; with pixels for an encoder."""
    from_pixels = COLUMN in fusion.feeds["target"]
    fusion = without_target(fusion) if from_pixels else fusion
    found: list[TrainingRegion] = []
    start = 0
    for section in sections:
        pixels = open_pixels(section) if from_pixels else None
        store = section.store
        place = np.full(len(store), -1, np.int64)
        place[section.measured] = start + np.arange(len(section))
        start += len(section)
        gather = training.gather(section, fusion, fixed={"gene": np.zeros((1, 1), np.float32)})
        for region in regions_of_slide(store, fusion, pitch_level0_px=section.record.pitch_level0_px):
            rows = np.flatnonzero(place[region.core] >= 0)
            tensors = {name: torch.from_numpy(value) for name, value in gather(region.spots).items() if name != "gene"}
            if pixels is not None:
                tensors["target"] = torch.zeros(len(region.spots), 0, 0)
            elif tensors["target"].ndim == 2:
                tensors["target"] = tensors["target"][:, None]
            tiles = None if pixels is None else Tiles(pixels, np.asarray(region.spots))
            found.append(TrainingRegion(Spots(**tensors), torch.from_numpy(rows), place[region.core][rows], tiles))
    return tuple(found)


def network_spec(
    training: TrainingSet, sections: Sequence[Section], network: Network, text: GeneText | None
) -> FusionSpec:
    """The contract of a network's fusion graph, with the statistics of its features over ``sections``."""
    recipe, spec = training.recipe, fusion_spec(training)
    tensors = {tensor.name: tensor for tensor in spec.inputs}
    tensors["context"] = tensors["target"].model_copy(update={"name": "context"})
    tensors["grid_xy"] = TensorSpec(name="grid_xy", dtype="int64", shape=("spot", 2))
    feeds = dict.fromkeys(("target", "neighbour", "context"), recipe.features)
    unstandardised: tuple[str, ...] = ()
    if recipe.target_tokens is not None:
        tensors["target"], feeds["target"] = target_tokens(training), (recipe.target_tokens,)
    if isinstance(network, FromPixels):
        tensors["target"], feeds["target"], unstandardised = target_tensor(network.encoder), (COLUMN,), (COLUMN,)
    genes: int | str = len(training.panel)
    if network.takes_genes and text is not None:
        genes = "gene"
        tensors["gene"] = TensorSpec(name="gene", dtype="float32", shape=("gene", text.dim))
    if network.takes_nuclei:
        tensors["nuclei"], feeds["nuclei"] = _nuclei(training)
    columns = {column for fed in feeds.values() for column in fed if column not in unstandardised}
    changes = {
        "inputs": tuple(tensors[name] for name in graph_inputs(network)),
        "outputs": tuple(tensor.model_copy(update={"shape": ("spot", genes)}) for tensor in spec.outputs),
        "feeds": feeds,
        "statistics": {} if recipe.standardise_within_slide else training_statistics(sections, columns),
        "unstandardised": unstandardised,
    }
    return spec.model_copy(update=changes)


def training_statistics(sections: Sequence[Section], columns: Iterable[str]) -> dict[str, FeatureStatistics]:
    """Mean and sd of feature columns over the spots of sections; maps have none."""
    found = {column: standardisation(column, [section.store for section in sections]) for column in sorted(columns)}
    return {
        column: FeatureStatistics(mean=tuple(each.mean.tolist()), sd=tuple(each.sd.tolist()))
        for column, each in found.items()
        if each is not None
    }


def target_tokens(training: TrainingSet) -> TensorSpec:
    """What the recipe's column of tokens gives of the target.

    Raises `DataError`: it is no column of tokens.
    """
    column, tensors = training.recipe.target_tokens, feature_tensors(training.encoders)
    if column is None or column not in tensors or len(tensors[column].shape) != 3:
        raise DataError(
            f"target tokens from {column!r}",
            expected="a column of tokens [tile, token, width]",
            where=f"recipe {training.recipe.name}",
            advice="export the encoder with --tokens, and prepare the sections with it",
        )
    return TensorSpec(name="target", dtype="float32", shape=("spot", *tensors[column].shape[1:]))


def _nuclei(training: TrainingSet) -> tuple[TensorSpec, tuple[str, ...]]:
    column, tensors = training.recipe.nuclei, feature_tensors(training.encoders)
    if column is None or column not in tensors or len(tensors[column].shape) != 4:
        raise DataError(
            f"nuclei from {column!r}",
            expected="a column of maps [tile, channel, row, column]",
            where=f"recipe {training.recipe.name}",
            advice="name the column of the encoder 'nuclei' as 'nuclei' in the recipe, and prepare the sections with it",
        )
    return TensorSpec(name="nuclei", dtype="float32", shape=("spot", *tensors[column].shape[1:])), (column,)
