"""Under which licences a model stands, part by part: code, encoders, training data, gene texts and their encoder.

A fusion graph is made of all of them, so a bundle's licence names each; which of them bind whoever passes it on is for
a reader to decide, not for this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from histocast.bundle import EncoderSpec
from histocast.encoders.encoder_cards import card_names, find_card
from histocast.training.gene_text import GeneText

OWN = "Apache-2.0"
"""Of histocast's code, and of what it makes of nobody's data."""

NOT_STATED = "not stated"

TEXT_ENCODERS = {"minilm": "Apache-2.0", "pubmedbert": "MIT"}
"""Licences of text encoders whose name is not on a card of an image encoder, as far as they are known here."""

TEXT_SOURCES = {
    "ncbi": "public domain",
    "go": "CC BY 4.0",
    "uniprot": "CC BY 4.0",
    "name": "CC0",
    "symbol": "CC0",
}
"""Licences of what `histocast genes describe` takes texts from; names are HGNC's."""


def licence_parts(encoders: Sequence[EncoderSpec], *, data_licence: str, text: GeneText | None) -> dict[str, str]:
    """Licence by part of a model, in the order a card lists them.

    ``encoders``: all whose outputs it was trained on, shipped or not.
    ``data_licence``: as the recipe states it; may be empty.
    ``text``: gene descriptions it was trained on.
    """
    parts = {"histocast": OWN}
    parts |= {f"encoder {encoder.name}": encoder.licence for encoder in encoders}
    parts["training data"] = data_licence or NOT_STATED
    if text is not None:
        parts |= {f"gene texts ({source})": TEXT_SOURCES.get(source, NOT_STATED) for source in text.sources}
        parts["gene text encoder"] = _text_encoder(text.encoder)
    return parts


def join_licences(parts: Mapping[str, str]) -> str:
    """One line: each licence once, with the parts it is of where there are several."""
    grouped: dict[str, list[str]] = {}
    for part, licence in parts.items():
        grouped.setdefault(licence, []).append(part)
    if len(grouped) == 1:
        return next(iter(grouped))
    return "; ".join(f"{licence} ({', '.join(named)})" for licence, named in grouped.items())


def _text_encoder(label: str | None) -> str:
    """By the name a label starts with: ``minilm/mean/normalised/256``."""
    name = (label or "").split("/", 1)[0]
    if name in card_names():
        return find_card(name).licence
    return TEXT_ENCODERS.get(name, NOT_STATED)
