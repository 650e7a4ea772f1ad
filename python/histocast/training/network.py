"""Fit an ensemble of networks: one a held-out group of patients or sections, all in one fusion graph."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histocast import __version__
from histocast.artifacts import write_atomically
from histocast.bundle import NEIGHBOUR_SIDE, FusionSpec, TensorSpec
from histocast.errors import ConfigError, DataError
from histocast.methods.baselines import Bleep
from histocast.methods.ensemble import Ensemble, Member, graph_inputs
from histocast.methods.layers import Config, Spots
from histocast.progress import Meter
from histocast.serving.fusion_inputs import regions
from histocast.training.checkpoint import CHECKPOINTS, identity
from histocast.training.designs import DESIGNS, read_options
from histocast.training.fit import OUTPUTS, Fitted, InnerSplit, embedding_dim, inner_split
from histocast.training.folds import By
from histocast.training.gene_text import GeneText, read_gene_text
from histocast.training.labels import Protocol
from histocast.training.loop import Data, Epoch, TrainingRegion, predict_regions, train_network
from histocast.training.section import Section
from histocast.training.training_set import TrainingSet, feature_tensors, section_index

METRICS_FILE = "metrics.csv"


def fit_network(
    training: TrainingSet,
    sections: Sequence[Section],
    *,
    protocol: Protocol,
    by: By,
    gene_text: Path | None = None,
    workspace: Path | None = None,
) -> Fitted:
    """Train the recipe's network once for every held-out group and join them.

    Parameters
    ----------
    gene_text:
        Embedded genes, for a method that reads descriptions.
    workspace:
        Folder for checkpoints and metrics.csv; a training that was stopped goes on from there.

    Raises
    ------
    ConfigError
        Options do not fit the method, a description is wanted and not given, or the loss is not finite.
    DataError
        The features or descriptions do not fit.
    """
    recipe = training.recipe
    where = f"recipe {recipe.name}, method {recipe.method}"
    options, config = read_options(recipe.method, recipe.options, where=where)
    text = _gene_text(training, config, gene_text, where=where)
    labels = np.concatenate([training.labels(section, protocol) for section in sections])
    inner = _group(inner_split(sections, by=by), options.training.members)
    shape = {
        "features": embedding_dim(training),
        "genes": labels.shape[1],
        "panel_text": None if text is None else torch.from_numpy(text.panel),
    }
    build = DESIGNS[recipe.method].build
    torch.manual_seed(recipe.seed)
    fusion = network_spec(training, build(config, **shape), text)
    parts = build_regions(training, sections, fusion)
    digest = identity(
        version=__version__,
        recipe=recipe.model_dump(mode="json"),
        protocol=protocol,
        text=None if text is None else text.digest,
        sections={section.record.sample: section.record.digests for section in sections},
    )
    members: list[Member] = []
    history: dict[int, tuple[Epoch, ...]] = {}
    heldout = np.zeros(labels.shape)
    groups = np.unique(inner.group)
    with Meter(f"train {recipe.method}", total=len(groups) * options.training.epochs, unit="epochs") as meter:
        for number, group in enumerate(groups):
            left_out = inner.group == group
            offset, scale = label_scale(labels[~left_out], standardise=options.standardise_labels)
            data = Data(parts, (labels - offset) / scale, section_index(sections), left_out)
            torch.manual_seed(recipe.seed + number)
            network = build(config, **shape)
            if isinstance(network, Bleep):
                network.remember(torch.from_numpy(data.labels[~left_out]))
            history[number] = train_network(
                network,
                data,
                options=options.training,
                seed=recipe.seed + number,
                identity=f"{digest}-{number}",
                checkpoint=None if workspace is None else workspace / CHECKPOINTS / f"{number}.pt",
                meter=meter,
            )
            heldout[left_out] = predict_regions(network, data)[left_out] * scale + offset
            members.append(Member(network, offset=torch.from_numpy(offset), scale=torch.from_numpy(scale)))
    if workspace is not None:
        write_metrics(workspace / METRICS_FILE, history)
    residual = np.maximum(np.sqrt(np.mean((labels - heldout) ** 2, axis=0)), 1e-6)
    ensemble = Ensemble(
        members, residual_sd=torch.tensor(residual, dtype=torch.float32), panel_text=shape["panel_text"]
    )
    example = training.gather(sections[-1], fusion, fixed=_fixed(text, ensemble))(sections[-1].measured)
    return Fitted(
        module=ensemble.eval(),
        fusion=fusion,
        example=example,
        labels=labels,
        section=section_index(sections),
        heldout_expression=heldout,
        heldout_sd=np.broadcast_to(residual, labels.shape),
        inner=inner,
        choices=_choices(config, history, ensemble),
        gene_text=text if ensemble.takes_genes else None,
    )


def label_scale(labels: NDArray[np.float32], *, standardise: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and sd of every gene, both [gene]; 0 and 1 where labels are learned as they are."""
    if not standardise:
        return np.zeros(labels.shape[1], np.float32), np.ones(labels.shape[1], np.float32)
    sd = labels.std(axis=0)
    # A gene that never varies in training has nothing to scale.
    return labels.mean(axis=0), np.where(sd > 1e-6, sd, 1.0).astype(np.float32)


def build_regions(training: TrainingSet, sections: Sequence[Section], fusion: FusionSpec) -> tuple[TrainingRegion, ...]:
    """Every region of the sections, cut as at prediction, with its measured spots."""
    found: list[TrainingRegion] = []
    start = 0
    for section in sections:
        store = section.store
        place = np.full(len(store), -1, np.int64)
        place[section.measured] = start + np.arange(len(section))
        start += len(section)
        gather = training.gather(section, fusion, fixed={"gene": np.zeros((1, 1), np.float32)})
        for region in regions(
            store.centres_level0_px,
            pitch_level0_px=section.record.pitch_level0_px,
            region_spots=fusion.region_spots,
            halo_spots=fusion.halo_spots,
            among=np.flatnonzero(store.readable),
        ):
            rows = np.flatnonzero(place[region.core] >= 0)
            tensors = {name: torch.from_numpy(value) for name, value in gather(region.spots).items() if name != "gene"}
            if tensors["target"].ndim == 2:
                tensors["target"] = tensors["target"][:, None]
            found.append(TrainingRegion(Spots(**tensors), torch.from_numpy(rows), place[region.core][rows]))
    return tuple(found)


def network_spec(training: TrainingSet, network: Any, text: GeneText | None) -> FusionSpec:
    """The contract of a network's fusion graph."""
    recipe = training.recipe
    dim, points = embedding_dim(training), NEIGHBOUR_SIDE**2
    tensors = {
        "target": TensorSpec(name="target", dtype="float32", shape=("spot", dim)),
        "neighbour": TensorSpec(name="neighbour", dtype="float32", shape=("spot", points, dim)),
        "neighbour_mask": TensorSpec(name="neighbour_mask", dtype="bool", shape=("spot", points)),
        "context": TensorSpec(name="context", dtype="float32", shape=("spot", dim)),
        "grid_xy": TensorSpec(name="grid_xy", dtype="int64", shape=("spot", 2)),
    }
    feeds = dict.fromkeys(("target", "neighbour", "context"), recipe.features)
    genes: int | str = len(training.panel)
    if network.takes_genes and text is not None:
        genes = "gene"
        tensors["gene"] = TensorSpec(name="gene", dtype="float32", shape=("gene", text.dim))
    if network.takes_nuclei:
        tensors["nuclei"], feeds["nuclei"] = _nuclei(training)
    return FusionSpec(
        file=None,
        sha256="",
        inputs=tuple(tensors[name] for name in graph_inputs(network)),
        outputs=tuple(TensorSpec(name=name, dtype="float32", shape=("spot", genes)) for name in OUTPUTS),
        method=recipe.method,
        feeds=feeds,
        region_spots=recipe.region_spots,
        halo_spots=recipe.halo_spots,
        standardise_within_slide=recipe.standardise_within_slide,
    )


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


def _gene_text(training: TrainingSet, config: Config, path: Path | None, *, where: str) -> GeneText | None:
    if not getattr(config, "gene_text", False):
        return None
    if path is None:
        raise ConfigError(
            "no gene descriptions",
            expected="embedded genes",
            where=where,
            advice="give --gene-text, made by 'histocast genes embed', or switch the option model.gene_text off",
        )
    return read_gene_text(path, training.panel, others=training.recipe.unseen_genes)


def _fixed(text: GeneText | None, ensemble: Ensemble) -> dict[str, NDArray[Any]]:
    return {"gene": text.panel} if text is not None and ensemble.takes_genes else {}


def _group(inner: InnerSplit, members: int) -> InnerSplit:
    """Put what is left out in turn into at most ``members`` groups, at least two."""
    number = {group: place % max(members, 2) for place, group in enumerate(np.unique(inner.group))}
    group = np.array([number[value] for value in inner.group.tolist()], np.int64)
    count = len(set(number.values()))
    return InnerSplit(group, f"{inner.description}, in {count} groups; each also stops its network")


def _choices(config: Config, history: Mapping[int, Sequence[Epoch]], ensemble: Ensemble) -> dict[str, Any]:
    best = [max(epochs, key=lambda epoch: epoch.heldout_pearson) for epochs in history.values()]
    return {
        "networks": len(best),
        "parameters": sum(value.numel() for value in ensemble.members[0].parameters()),
        "epochs": [epoch.epoch for epoch in best],
        "scores": [round(epoch.heldout_pearson, 4) for epoch in best],
        "model": config.model_dump(mode="json"),
    }


def write_metrics(path: Path, history: Mapping[int, Sequence[Epoch]]) -> None:
    """A row an epoch of every network."""
    with write_atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["network", *Epoch.__dataclass_fields__])
        writer.writeheader()
        for number, epochs in history.items():
            writer.writerows({"network": number, **asdict(epoch)} for epoch in epochs)
