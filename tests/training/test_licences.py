"""A model's licence names that of every part it was made of."""

from __future__ import annotations

import numpy as np
import pytest

from histocast.bundle import EncoderSpec
from histocast.encoders.encoder_cards import find_card
from histocast.training.gene_text import GeneText
from histocast.training.licences import NOT_STATED, join_licences, licence_parts


def encoder(name: str, licence: str) -> EncoderSpec:
    return EncoderSpec(
        file=None, sha256="0", inputs=(), outputs=(), name=name, version="1", licence=licence, gated=False
    )


def text(label: str | None, *sources: str) -> GeneText:
    nothing = np.zeros((1, 2), np.float32)
    return GeneText(nothing, (), (), nothing, digest="", encoder=label, sources=sources)


def test_one_licence_of_all_parts_stands_alone() -> None:
    parts = licence_parts([encoder("morphology", "Apache-2.0")], data_licence="Apache-2.0", text=None)
    assert join_licences(parts) == "Apache-2.0"


def test_every_other_licence_is_named_with_its_parts() -> None:
    uni = encoder("uni", find_card("uni").licence)
    parts = licence_parts([uni], data_licence="CC BY-NC-SA 4.0", text=text("conch/own/normalised/127", "go", "ncbi"))
    assert join_licences(parts) == (
        "Apache-2.0 (histocast); CC BY-NC-ND 4.0 (encoder uni, gene text encoder); CC BY-NC-SA 4.0 (training data); "
        "CC BY 4.0 (gene texts (go)); public domain (gene texts (ncbi))"
    )


@pytest.mark.parametrize(("label", "licence"), [("minilm/mean/normalised/256", "Apache-2.0"), (None, NOT_STATED), ("hf:own/model/mean/raw/512", NOT_STATED)])  # fmt: skip
def test_what_nobody_stated_is_said_not_to_be(label: str | None, licence: str) -> None:
    parts = licence_parts([], data_licence="", text=text(label, "refined"))
    assert parts["gene text encoder"] == licence
    assert parts["training data"] == parts["gene texts (refined)"] == NOT_STATED
