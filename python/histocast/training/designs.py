"""The networks that can be trained, their configurations, and the options of a recipe that decide both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from histocast.errors import ConfigError
from histocast.methods.alignst import AlignSt, AlignStConfig, faithful_alignst
from histocast.methods.baselines import Bleep, BleepConfig, StNet, StNetConfig
from histocast.methods.dkan import Dkan, DkanConfig, faithful_dkan
from histocast.methods.domainst import DomainSt, DomainStConfig, faithful_domainst
from histocast.methods.layers import Config
from histocast.methods.target_encoder import EncoderOptions
from histocast.training.loop import LoopOptions
from histocast.training.recipe import Recipe

Configuration = Literal["default", "her2st", "cscc", "stnet"]


class Design(NamedTuple):
    """A network and its configurations."""

    build: Callable[..., Any]
    config: type[Config]
    faithful: Callable[[str], Config]
    own_target: bool = True
    """Whether a spot's prediction looks at no other spot's target, which can then differ in kind from its neighbours'
    features: be made by an encoder that is trained, or be tokens."""


DESIGNS: dict[str, Design] = {
    "dkan": Design(Dkan, DkanConfig, faithful_dkan),
    "domainst": Design(DomainSt, DomainStConfig, faithful_domainst),
    "alignst": Design(AlignSt, AlignStConfig, lambda _: faithful_alignst(), own_target=False),
    "stnet": Design(StNet, StNetConfig, lambda _: StNetConfig(input_dropout=0.0)),
    "bleep": Design(Bleep, BleepConfig, lambda _: BleepConfig(dim=256)),
}


class NetworkOptions(Config):
    """Options of a method that is a network."""

    configuration: Configuration = "default"
    """``default`` mends what METHODS lists as defects; a data set's name takes what was published for it."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Parts to change in the configuration, such as ``{"contrastive": false}``."""
    training: LoopOptions = LoopOptions()
    encoder: EncoderOptions = EncoderOptions()
    """The encoder of the target tile, where it is trained with the network."""
    standardise_labels: bool = True
    """Learn each gene in units of its sd, so that all weigh alike, as they do in the mean Pearson."""


def read_options(method: str, options: Mapping[str, Any], *, where: str) -> tuple[NetworkOptions, Config]:
    """Options and the network's configuration.

    Raises
    ------
    ConfigError
        An option is unknown or out of range.
    """
    try:
        found = NetworkOptions.model_validate(dict(options))
        design = DESIGNS[method]
        base = design.config() if found.configuration == "default" else design.faithful(found.configuration)
        config = design.config.model_validate(_merge(base.model_dump(), found.model))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ConfigError(f"{place}: {fault['msg']}", expected=f"options of {method}", where=where) from error
    found = _with_published_encoder(found, config)
    return found, config


def refuse_target(recipe: Recipe, options: NetworkOptions, *, where: str) -> None:
    """Judge where the target's features come from.

    Raises
    ------
    ConfigError
        Not from the recipe's features, though the method has to take those; or from two places.
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
