"""The state of a training in one file, from which it goes on exactly as if it had not been stopped."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from histocast.artifacts import write_atomically
from histocast.errors import DataError

State = dict[str, Any]

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints within a model's."""


FORMAT = 2
"""Of what a checkpoint holds; one of another is not resumed."""


def identity(**facts: object) -> str:
    """Digest of everything that decides a training: only a checkpoint of the same identity is resumed."""
    content = json.dumps({"format": FORMAT, **facts}, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def save_checkpoint(path: Path, state: State, *, identity: str) -> None:
    """Write the state whole or not at all: a kill leaves the one before it."""
    with write_atomically(path) as temporary:
        torch.save({"identity": identity, "random": torch.get_rng_state(), **state}, temporary)


def load_checkpoint(path: Path, *, identity: str) -> State | None:
    """The state, with torch's random numbers set back to where they stood; ``None`` where there is none of it.

    A checkpoint of another identity (other data, options or versions) is not resumed.

    Raises `DataError`: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        found, drawn = state["identity"], state["random"]
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise DataError(
            "a damaged checkpoint", where=str(path), advice="remove it: the training then starts over"
        ) from error
    if found != identity:
        return None
    torch.set_rng_state(drawn)
    return state
