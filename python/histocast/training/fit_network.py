"""Fit an ensemble of networks: one a held-out group of patients or sections, all in one fusion graph.

Where the target encoder is trained too, it is one network, which leaves the first group out (see `histocast.training.trained_encoder`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from histocast import __version__
from histocast.bundle import FusionSpec, sha256_of_file
from histocast.encoders.target_encoder import FromPixels
from histocast.errors import ConfigError, DataError
from histocast.networks.baselines import Bleep
from histocast.networks.ensemble import Ensemble, Member
from histocast.networks.layers import Config
from histocast.networks.measured import heldout_sd, over_measured
from histocast.networks.network import Network
from histocast.progress import Meter
from histocast.sections.folds import By
from histocast.sections.protocols import Protocol
from histocast.sections.section import Section
from histocast.training.checkpoint import identity
from histocast.training.fit import Fitted, InnerSplit, Workspace, embedding_dim, inner_split
from histocast.training.gene_text import GeneText, read_gene_text
from histocast.training.history import History
from histocast.training.loop import Epoch, train_network
from histocast.training.network_inputs import build_regions, network_spec, target_tokens
from histocast.training.recipe import Recipe
from histocast.training.registry import DESIGNS, NetworkOptions, read_options, refuse_target
from histocast.training.trained_encoder import (
    TrainedEncoder,
    build_encoder,
    encode_with,
    open_pixels,
    without_target,
)
from histocast.training.training_regions import Data, predict_regions
from histocast.training.training_set import TrainingSet, section_index

SHOWN_TILES = 16
"""Tiles of the training set that an exported encoder is compared with torch on."""


def fit_network(
    training: TrainingSet,
    sections: Sequence[Section],
    *,
    protocol: Protocol,
    by: By,
    gene_text: Path | None = None,
    workspace: Workspace | None = None,
) -> Fitted:
    """Train the recipe's network once for every held-out group and join them.

    ``gene_text``: embedded genes, for a method that reads descriptions.
    ``workspace``: folders for checkpoints and the metrics of every epoch; a training that was stopped goes on from
        there.
    Raises `ConfigError`: options do not fit the method, a description is wanted and not given, or the loss is not
    finite; `DataError`: the features or descriptions do not fit.
    """
    recipe = training.recipe
    where = f"recipe {recipe.name}, method {recipe.method}"
    options, config = read_options(recipe.method, recipe.options, where=where)
    refuse_target(recipe, options, where=where)
    text = _gene_text(training, config, gene_text, where=where)
    labels = np.concatenate([training.labels(section, protocol) for section in sections])
    trained = options.encoder.trained
    inner = _group(inner_split(sections, by=by), options.training.members, one_network=trained)
    maker = _Maker(training, options, config, text)
    fusion = network_spec(training, sections, maker.make(0), text)
    data = Data(build_regions(training, sections, fusion), labels, section_index(sections), inner.group < 0)
    digest = identity(
        version=__version__,
        recipe=recipe.model_dump(mode="json"),
        protocol=protocol,
        text=None if text is None else text.digest,
        sections={section.record.sample: section.record.digests for section in sections},
        encoder_weights=None if recipe.encoder_weights is None else sha256_of_file(recipe.encoder_weights),
    )
    networks: list[Network] = []
    members: list[Member] = []
    history = History(None if workspace is None else workspace.metrics)
    heldout = np.full(labels.shape, np.nan)
    groups = np.unique(inner.group)[: 1 if trained else None]
    _refuse_unlearned(training, labels, inner.group, groups, where=where)
    with Meter(f"train {recipe.method}", total=len(groups) * options.training.epochs, unit="epochs") as meter:
        for number, group in enumerate(groups):
            left_out = inner.group == group
            offset, scale = label_scale(labels[~left_out], how=options.standardise_labels)
            learned = ~np.isnan(labels[~left_out]).all(axis=0)
            seen = replace(data, labels=(labels - offset) / scale, heldout=left_out)
            network = maker.make(number, known=seen.labels[~left_out])
            train_network(
                network,
                seen,
                options=options.training,
                seed=maker.seed + number,
                identity=f"{digest}-{number}",
                checkpoint=None if workspace is None else workspace.checkpoints / f"{number}.pt",
                meter=meter,
                watch=partial(history.keep, number),
            )
            heldout[left_out] = predict_regions(network, seen.held())[left_out] * scale + offset
            heldout[np.ix_(left_out, ~learned)] = np.nan
            networks.append(network)
            alone = network.network if isinstance(network, FromPixels) else network
            members.append(
                Member(
                    alone,
                    offset=torch.from_numpy(offset),
                    scale=torch.from_numpy(scale),
                    learned=None if learned.all() else torch.from_numpy(learned),
                )
            )
    scored = np.isin(inner.group, groups)
    residual = np.maximum(heldout_sd(labels[scored], heldout[scored]), 1e-6)
    ensemble = Ensemble(members, residual_sd=torch.tensor(residual, dtype=torch.float32), panel_text=maker.panel_text)
    encoder = _encoder_of(networks[0], sections[-1], recipe)
    fixed = {"gene": text.panel} if text is not None and ensemble.takes_genes else {}
    return Fitted(
        module=ensemble.eval(),
        fusion=fusion,
        example=_example(training, sections[-1], fusion, fixed=fixed, encoder=encoder),
        labels=labels,
        section=section_index(sections),
        heldout_expression=heldout,
        heldout_sd=np.broadcast_to(residual, labels.shape),
        scored=scored,
        inner=inner,
        choices=_choices(config, history.networks, ensemble, None if encoder is None else encoder.describe()),
        gene_text=text if ensemble.takes_genes else None,
        learned_text=text,
        encoder=encoder,
    )


@dataclass(frozen=True)
class _Maker:
    """Makes the networks of an ensemble, all alike but for their random numbers."""

    training: TrainingSet
    options: NetworkOptions
    config: Config
    text: GeneText | None

    @property
    def seed(self) -> int:
        """Of the first network; the others count on from it."""
        return self.training.recipe.seed if self.options.seed is None else self.options.seed

    @property
    def panel_text(self) -> torch.Tensor | None:
        return None if self.text is None else torch.from_numpy(self.text.panel)

    def make(self, number: int, *, known: NDArray[np.float32] | None = None) -> Network:
        """A network, with its encoder where that is trained; ``known`` are labels it may retrieve."""
        recipe = self.training.recipe
        torch.manual_seed(self.seed + number)
        shape: dict[str, Any] = {
            "features": embedding_dim(self.training),
            "genes": len(self.training.panel),
            "panel_text": self.panel_text,
        }
        build = DESIGNS[recipe.method].build
        encoder = build_encoder(self.training, self.options.encoder) if self.options.encoder.trained else None
        if encoder is not None:
            shape["target_features"] = encoder.width
        elif recipe.target_tokens is not None:
            shape["target_features"] = int(target_tokens(self.training).shape[-1])
        network = build(self.config, **shape)
        if isinstance(network, Bleep) and known is not None:
            network.remember(torch.from_numpy(known))
        return network if encoder is None else FromPixels(encoder, network)


def _encoder_of(network: Network, section: Section, recipe: Recipe) -> TrainedEncoder | None:
    if not isinstance(network, FromPixels):
        return None
    tiles = open_pixels(section)[section.measured[:SHOWN_TILES]]
    return TrainedEncoder(network.encoder, np.ascontiguousarray(tiles), recipe.encoder_weights)


def _example(
    training: TrainingSet,
    section: Section,
    fusion: FusionSpec,
    *,
    fixed: Mapping[str, NDArray[Any]],
    encoder: TrainedEncoder | None,
) -> dict[str, NDArray[Any]]:
    """Inputs of the graph on measured spots of a section; of a few where their tiles have to be encoded."""
    if encoder is None:
        return training.gather(section, fusion, fixed=fixed)(section.measured)
    spots = section.measured[: len(encoder.tiles)]
    found = training.gather(section, without_target(fusion), fixed=fixed)(spots)
    target = encode_with(encoder.module)(encoder.tiles)
    return {each.name: target if each.name == "target" else found[each.name] for each in fusion.inputs}


def label_scale(
    labels: NDArray[np.float32], *, how: bool | Literal["range"]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is taken from the labels of every gene and what they are then divided by, both [gene].

    Mean and sd; least and range for ``range``; 0 and 1 where labels are learned as they are.
    """
    if not how:
        return np.zeros(labels.shape[1], np.float32), np.ones(labels.shape[1], np.float32)
    if how == "range":
        offset, scale = over_measured(np.min, labels), over_measured(np.ptp, labels)
    else:
        offset, scale = over_measured(np.mean, labels), over_measured(np.std, labels)
    # A gene that never varies in training, or that no spot measured, has nothing to scale.
    offset = np.where(np.isnan(offset), np.float32(0.0), offset)
    return offset, np.where(scale > 1e-6, scale, 1.0).astype(np.float32)


def _refuse_unlearned(
    training: TrainingSet,
    labels: NDArray[np.float32],
    group: NDArray[np.int64],
    left_out: NDArray[np.int64],
    *,
    where: str,
) -> None:
    """Raise `DataError` for genes that were measured only in spots that all networks leave out."""
    learned = np.any([~np.isnan(labels[group != number]).all(axis=0) for number in left_out], axis=0)
    if not learned.all():
        genes = [training.panel.gene_symbols[gene] for gene in np.flatnonzero(~learned)]
        raise DataError(
            f"{len(genes)} panel genes were measured in no section that the network learns from: {', '.join(genes[:10])}",
            expected="every panel gene in sections besides those that stop the training",
            where=where,
            advice="take them from the panel, or train on more sections that measured them",
        )


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


def _group(inner: InnerSplit, members: int, *, one_network: bool) -> InnerSplit:
    """Put what is left out in turn into at most ``members`` groups, at least two."""
    number = {group: place % max(members, 2) for place, group in enumerate(np.unique(inner.group))}
    group = np.array([number[value] for value in inner.group.tolist()], np.int64)
    count = len(set(number.values()))
    use = "the first is held out of the one network, and stops it" if one_network else "each also stops its network"
    return InnerSplit(group, f"{inner.description}, in {count} groups; {use}")


def _choices(
    config: Config, history: Mapping[int, Sequence[Epoch]], ensemble: Ensemble, encoder: dict[str, Any] | None
) -> dict[str, Any]:
    best = [max(epochs, key=lambda epoch: epoch.heldout_pearson) for epochs in history.values()]
    return {
        "networks": len(best),
        "parameters": sum(value.numel() for value in ensemble.members[0].parameters()),
        "epochs": [epoch.epoch for epoch in best],
        "scores": [round(epoch.heldout_pearson, 4) for epoch in best],
        "model": config.model_dump(mode="json"),
        **({} if encoder is None else {"encoder": encoder}),
    }
