"""Methods with one published idea switched: the ablations, by name.

``dkan:no-gene-text`` is DKAN without gene text. A variant is trained and scored like its method and stands beside it
in every table; it is not exported as a bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from histocast.errors import ConfigError
from histocast.sections.folds import SEPARATOR

NUCLEI_MAP = "nuclei.map"


class Variant(NamedTuple):
    """What a variant changes in a recipe."""

    model: Mapping[str, Any]
    """Parts of the method's configuration."""
    nuclei: str | None = None
    """Feature column with a map of nuclei, for a method that looks at one."""


VARIANTS: dict[str, dict[str, Variant]] = {
    "domainst": {
        "no-multi-scale": Variant({"trunk": {"multi_scale": False}}),
        "no-gene-text": Variant({"gene_text": False}),
        "no-experts": Variant({"experts": []}),
        "no-distillation": Variant({"distillation": 0.0}),
        "no-correlation-loss": Variant({"correlation": 0.0}),
    },
    "dkan": {
        "no-multi-scale": Variant({"trunk": {"multi_scale": False}}),
        "no-gene-text": Variant({"gene_text": False}),
        "no-contrast": Variant({"contrastive": False}),
        "adaptive-weights": Variant({"weights": "adaptive"}),
        "no-distillation": Variant({"distillation": 0.0}),
        "one-key": Variant({"keys": "fused"}),
        "no-direct-path": Variant({"direct": False}),
    },
    "alignst": {
        "no-multi-scale": Variant({"scales": ["target"], "spot_graph": False}),
        "no-spot-graph": Variant({"spot_graph": False}),
        "no-gene-text": Variant({"gene_text": False}),
        "no-prompts": Variant({"prompts": 0}),
        "no-gene-interaction": Variant({"interaction": False}),
        "nuclei": Variant({"nuclei": True}, nuclei=NUCLEI_MAP),
    },
}


def add_nuclei(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's content with the column of nuclei that its method looks at, where it names none.

    ALIGN-ST looks at one where its options say so, or its published configuration, of which it is a part.
    """
    options = content.get("options")
    if content.get("method") != "alignst" or content.get("nuclei") or not isinstance(options, Mapping):
        return content
    model = options.get("model")
    said = model.get("nuclei") if isinstance(model, Mapping) else None
    published = options.get("configuration", "default") != "default"
    return {**content, "nuclei": NUCLEI_MAP} if said or (said is None and published) else content


def apply_variant(content: dict[str, Any], method: str, name: str) -> dict[str, Any]:
    """A recipe's content with the variant of that name switched on.

    Raises `ConfigError`: the method has no such variant.
    """
    known = VARIANTS.get(method, {})
    variant = known.get(name)
    if variant is None:
        close = get_close_matches(name, known, n=1)
        raise ConfigError(
            f"variant {name!r} of {method}",
            expected=f"one of {', '.join(known)}" if known else f"{method} alone, which has no variants",
            where="method",
            advice=f"did you mean {method}{SEPARATOR}{close[0]}?" if close else None,
        )
    options = dict(content.get("options", {}))
    model = {**options.get("model", {})}
    for key, value in variant.model.items():
        model[key] = {**model.get(key, {}), **value} if isinstance(value, Mapping) else value
    changed = {"options": options | {"model": model}, "variant": name}
    return content | changed | ({"nuclei": variant.nuclei} if variant.nuclei else {})
