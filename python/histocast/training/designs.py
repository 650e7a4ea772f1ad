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
from histocast.training.loop import LoopOptions

Configuration = Literal["default", "her2st", "cscc", "stnet"]


class Design(NamedTuple):
    """A network and its configurations."""

    build: Callable[..., Any]
    config: type[Config]
    faithful: Callable[[str], Config]


DESIGNS: dict[str, Design] = {
    "dkan": Design(Dkan, DkanConfig, faithful_dkan),
    "domainst": Design(DomainSt, DomainStConfig, faithful_domainst),
    "alignst": Design(AlignSt, AlignStConfig, lambda _: faithful_alignst()),
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
    standardise_labels: bool = True
    """Learn each gene in units of its sd, so that all weigh alike, as they do in the mean Pearson."""


def read_options(method: str, options: Mapping[str, Any], *, where: str) -> tuple[NetworkOptions, Config]:
    """Options and the network's configuration.

    Raises
    ------
    ConfigError
        An option is unknown or out of range, or the configuration cannot be trained on frozen features.
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
    trunk = getattr(config, "trunk", None)
    if trunk is not None and trunk.target_encoder != "frozen":
        raise ConfigError(
            f"a {trunk.target_encoder} trained from pixels",
            expected="frozen features: prepared sections hold no pixels",
            where=where,
            advice="set model.trunk.target_encoder to frozen",
        )
    return found, config


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return base | {
        name: _merge(base[name], value) if isinstance(value, Mapping) and isinstance(base.get(name), dict) else value
        for name, value in changes.items()
    }
