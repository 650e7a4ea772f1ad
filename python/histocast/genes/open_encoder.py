"""Opens a text encoder of this machine by its name."""

from __future__ import annotations

from pathlib import Path

from histocast.errors import UsageError
from histocast.genes.text_encoders import CONCH, Pooling, SentenceEncoder, TextEncoder, choose_encoder


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
        from histocast.genes.conch import ConchEncoder

        return ConchEncoder(weights)
    choice = choose_encoder(
        name, pooling=pooling, normalise=normalise, max_tokens=max_tokens, revision=revision, folder=weights
    )
    return SentenceEncoder(choice, device=device)
