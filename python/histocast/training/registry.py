"""The networks that can be trained, their configurations, and the options of a recipe that decide both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from histocast.encoders.target_encoder import EncoderOptions
from histocast.errors import ConfigError
from histocast.networks.alignst import AlignSt, AlignStConfig, faithful_alignst
from histocast.networks.baselines import Bleep, BleepConfig, StNet, StNetConfig
from histocast.networks.dkan import Dkan, DkanConfig, faithful_dkan
from histocast.networks.domainst import DomainSt, DomainStConfig, faithful_domainst
from histocast.networks.layers import Config
from histocast.networks.network import Network
from histocast.records import first_fault
from histocast.training.loop import LoopOptions
from histocast.training.recipe import Recipe

Configuration = Literal["default", "her2st", "cscc", "stnet"]


class Published(NamedTuple):
    """What is published of a method."""

    data_sets: tuple[str, ...]
    """Those it is published for."""
    model: Callable[[str], Config]
    """Its configuration for one of them."""
    options: Mapping[str, Any]
    """How it is trained, as `NetworkOptions`; what is not stated stays as it is here."""


MULTI_SCALE_TRAINING: Mapping[str, Any] = {
    "standardise_labels": False,
    "seed": 2021,
    "training": {
        "epochs": 200,
        # The release stops on the test fold. Here the best of all epochs on held-out training spots is kept.
        "patience": 200,
        "optimiser": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "schedule": "step",
        "average": 0.0,
        "spots_per_step": 128,
        "genes_per_step": None,
    },
}
"""DKAN and DomainST: Adam, 0.9 times the rate every 50 epochs, batches of 128 spots, all genes."""

ALIGN_ST_TRAINING: Mapping[str, Any] = {
    "standardise_labels": "range",
    "training": {
        "optimiser": "adamw",
        "learning_rate": 5e-4,
        "weight_decay": 1e-4,
        # [I] No schedule and no averaging are spoken of.
        "schedule": "constant",
        "average": 0.0,
        "genes_per_step": 64,
    },
}
"""ALIGN-ST: AdamW, 64 random genes a step, labels of each gene from 0 to 1. Epochs and batch are not stated."""


class Design(NamedTuple):
    """A network and its configurations."""

    build: Callable[..., Network]
    config: type[Config]
    published: Published | None = None
    """``None`` where nothing is published by data set."""
    own_target: bool = True
    """Whether a spot's prediction looks at no other spot's target, which can then differ in kind from its neighbours'
    features: be made by an encoder that is trained, or be tokens."""


DESIGNS: dict[str, Design] = {
    "dkan": Design(Dkan, DkanConfig, Published(("her2st", "cscc", "stnet"), faithful_dkan, MULTI_SCALE_TRAINING)),
    "domainst": Design(
        DomainSt, DomainStConfig, Published(("her2st", "cscc", "stnet"), faithful_domainst, MULTI_SCALE_TRAINING)
    ),
    "alignst": Design(
        AlignSt,
        AlignStConfig,
        Published(("her2st", "cscc"), lambda _: faithful_alignst(), ALIGN_ST_TRAINING),
        own_target=False,
    ),
    "stnet": Design(StNet, StNetConfig),
    "bleep": Design(Bleep, BleepConfig),
}


class NetworkOptions(Config):
    """Options of a method that is a network."""

    configuration: Configuration = "default"
    """``default`` fixes known defects; a data set's name takes what was published for it, model and training, under
    the options given here."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Parts to change in the configuration, such as ``{"contrastive": false}``."""
    training: LoopOptions = LoopOptions()
    encoder: EncoderOptions = EncoderOptions()
    """The encoder of the target tile, where it is trained with the network."""
    standardise_labels: bool | Literal["range"] = True
    """Learn each gene in units of its sd, so that all weigh alike, as they do in the mean Pearson; ``range``: from 0 at
    its least to 1 at its most; false: as it is."""
    seed: int | None = None
    """In place of the recipe's."""


def read_options(method: str, options: Mapping[str, Any], *, where: str) -> tuple[NetworkOptions, Config]:
    """Options and the network's configuration.

    Raises `ConfigError`: an option is unknown or out of range, or nothing is published of the method for the data set.
    """
    try:
        found = NetworkOptions.model_validate(dict(options))
        design = DESIGNS[method]
        base = design.config()
        if found.configuration != "default":
            published = _published(method, found.configuration, where=where)
            base = published.model(found.configuration)
            found = NetworkOptions.model_validate(_merge(dict(published.options), options))
        config = design.config.model_validate(_merge(base.model_dump(), found.model))
    except ValidationError as error:
        raise ConfigError(first_fault(error), expected=f"options of {method}", where=where) from error
    found = _with_published_encoder(found, config)
    return found, config


def _published(method: str, data_set: str, *, where: str) -> Published:
    published = DESIGNS[method].published
    known = () if published is None else published.data_sets
    if published is None or data_set not in known:
        raise ConfigError(
            f"configuration {data_set!r} of {method}",
            expected=f"default{''.join(f', {name}' for name in known)}: no other is published",
            where=where,
        )
    return published


def refuse_target(recipe: Recipe, options: NetworkOptions, *, where: str) -> None:
    """Validate where the target's features come from.

    Raises `ConfigError`: not from the recipe's features, though the method has to take those; or from two places.
    """
    trained, tokens = options.encoder.trained, recipe.target_tokens
    if trained and tokens is not None:
        raise ConfigError(
            f"target tokens from {tokens!r} and from the encoder {options.encoder.name}, trained from pixels",
            expected="one of them",
            where=where,
            advice="leave out target_tokens, or set encoder.name to frozen",
        )
    if (trained or tokens is not None) and not DESIGNS[recipe.method].own_target:
        raise ConfigError(
            f"{recipe.method} with "
            + (
                f"the encoder {options.encoder.name} trained from pixels"
                if trained
                else f"target tokens from {tokens!r}"
            ),
            expected="the recipe's features: its graph of spots looks at the targets of a whole region",
            where=where,
            advice="take domainst, dkan, stnet or bleep, or leave the target to the recipe's features",
        )


def _with_published_encoder(options: NetworkOptions, config: Config) -> NetworkOptions:
    """A published configuration names its encoder, and gives every patch of it."""
    named = getattr(getattr(config, "trunk", None), "target_encoder", "frozen")
    given = options.encoder.model_fields_set
    if named == "frozen" or "name" in given:
        return options
    changes = {"name": named, **({} if "tokens_side" in given else {"tokens_side": None})}
    return options.model_copy(update={"encoder": options.encoder.model_copy(update=changes)})


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return base | {
        name: _merge(base[name], value) if isinstance(value, Mapping) and isinstance(base.get(name), dict) else value
        for name, value in changes.items()
    }
