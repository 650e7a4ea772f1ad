"""Opens a text encoder of this machine by its name; CONCH's text tower is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from histocast.errors import ConfigError, DataError, MissingInputError, UsageError
from histocast.genes.digests import digest_of_file
from histocast.genes.text_encoders import CONCH, Encoded, Pooling, SentenceEncoder, TextEncoder, choose_encoder

# CONCH reads 127 tokens; the place after them is its class token's, filled with padding until then.
MAX_TOKENS, PLACES = 127, 128


def open_encoder(
    name: str,
    *,
    pooling: Pooling | None = None,
    normalise: bool | None = None,
    max_tokens: int | None = None,
    revision: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> TextEncoder:
    """Open CONCH, whose settings are its own, or a transformer with what is not None in place of its settings.

    ``weights``: CONCH's checkpoint; of the others a folder with their weights.
    Raises `UsageError`: CONCH is asked for without its checkpoint; or as for `choose_encoder`; `ConfigError` or
    `MissingInputError` or `DataError`: as for `ConchEncoder` and `SentenceEncoder`.
    """
    if name == CONCH:
        if weights is None:
            raise UsageError("no checkpoint of CONCH", expected="--weights")
        return ConchEncoder(weights)
    choice = choose_encoder(
        name, pooling=pooling, normalise=normalise, max_tokens=max_tokens, revision=revision, folder=weights
    )
    return SentenceEncoder(choice, device=device)


class ConchEncoder:
    """The text tower of CONCH (Lu et al., Nat Med 30:863, 2024), by its authors' package and the user's checkpoint.

    Raises `ConfigError`: the package ``conch`` is not installed; `MissingInputError` or `DataError`: there is no
    checkpoint, or it is none of CONCH.
    """

    batch_texts = 16

    def __init__(self, weights: Path) -> None:
        try:
            from conch.open_clip_custom import (  # type: ignore[import-not-found]
                create_model_from_pretrained,
                get_tokenizer,
            )
        except ImportError as error:
            raise ConfigError(
                "the package conch is not installed", advice="install it from github.com/mahmoodlab/CONCH"
            ) from error
        if not weights.is_file():
            raise MissingInputError("no such file", expected="CONCH's checkpoint", where=str(weights))
        self.label = f"{CONCH}/own/normalised/{MAX_TOKENS}"
        self.revision = digest_of_file(weights)
        try:
            self._model, _ = create_model_from_pretrained("conch_ViT-B-16", checkpoint_path=str(weights))
        except (RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
            raise DataError(
                f"not readable as weights: {error}", expected="CONCH's checkpoint", where=str(weights)
            ) from error
        self._model.eval()
        self._tokenizer: Any = get_tokenizer()

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Embed each text, in order; one at a time on one thread, as `SentenceEncoder` does."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1):
            return [self._encode_one(text) for text in texts]

    def _encode_one(self, text: str) -> Encoded:
        # The package's own tokenize() calls what transformers 5 has no more; this gives the same ids.
        ids = self._tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        padded = self._tokenizer.pad({"input_ids": [ids]}, padding="max_length", max_length=PLACES, return_tensors="pt")
        vector = self._model.encode_text(padded["input_ids"]).detach().cpu().numpy().astype(np.float32)[0]
        tokens = len(self._tokenizer(text, verbose=False)["input_ids"])
        return Encoded(vector, tokens, tokens > MAX_TOKENS)
