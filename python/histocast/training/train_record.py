"""``train.json``: how a model came about."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from histocast.records import Record
from histocast.sections.protocols import Protocol
from histocast.training.recipe import Recipe

TRAIN_FILE = "train.json"

TOP_GENES = 50
"""Size of the HPG, HEG and HVG lists (as published)."""


class TopGenes(Record):
    """The genes that averages over the best are taken of, all chosen on training sections."""

    predicted: tuple[str, ...]
    """HPG: highest mean Pearson on held-out training spots."""
    expressed: tuple[str, ...]
    """HEG: highest mean label."""
    variable: tuple[str, ...]
    """HVG: highest variance of the label."""


class TrainRecord(Record):
    """``train.json``: how a model came about."""

    schema_version: Literal[1] = 1
    recipe: Recipe
    protocol: Protocol
    fold: str
    split: str
    """How folds are made, in words."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    """Samples held out, empty where the model saw all."""
    train_patients: int
    train_spots: int
    test_spots: int
    inner_split: str
    """What every choice, the sd and the intervals were made on."""
    choices: dict[str, Any]
    heldout_pearson: float
    """Mean over genes of Pearson within held-out training sections."""
    onnx_difference: float
    """Largest relative difference between torch and ONNX on a real section and on random inputs, of either graph."""
    top: TopGenes
    sections: dict[str, dict[str, str]]
    """Digests of every training section."""
    software: dict[str, str] = Field(default_factory=dict)
    """Versions of what trained it, by name; see `histocast.software`."""
