"""Endpoints that speak OpenAI's API: hosted ones, or vLLM, llama.cpp, Ollama and the like in one's own room."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from histocast.errors import ConfigError, DataError, DeadlineExceeded, HistocastError, ServingUnavailable
from histocast.genes.gene_options import EndpointOptions

# Servers of one's own ask for no key, but the client insists on one.
NO_KEY = "none"


class Endpoint(EndpointOptions):
    """Where a model answers, and how patiently it is asked. The key is read from ``OPENAI_API_KEY``."""

    model: str

    def connect(self) -> Connection:
        """Open a client; no request is made.

        Raises `ConfigError`: the extra ``genes`` is not installed, or no key is there for OpenAI's own endpoint.
        """
        try:
            import openai
        except ImportError as error:
            raise ConfigError("openai is not installed", advice="pip install 'histocast[genes]'") from error
        key = os.environ.get("OPENAI_API_KEY")
        if self.base_url is None and not key:
            raise ConfigError(
                "no key for the endpoint",
                expected="OPENAI_API_KEY",
                advice="set it, or name an endpoint with --base-url",
            )
        client = openai.OpenAI(
            base_url=self.base_url, api_key=key or NO_KEY, timeout=self.timeout_s, max_retries=self.tries - 1
        )
        return Connection(self, client)


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and what it took."""

    text: str
    whole: bool
    """False where the model was cut off."""
    prompt_tokens: int
    completion_tokens: int


class Connection:
    """A client of one endpoint, which threads may share; use as a context manager."""

    def __init__(self, endpoint: Endpoint, client: Any) -> None:
        self._endpoint = endpoint
        self._client = client

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def complete(self, request: Mapping[str, Any]) -> Answer:
        """Ask for a chat completion.

        Raises `ServingUnavailable` or `DeadlineExceeded`: the endpoint failed or stalled, at every try; `ConfigError`:
        it refuses the key, the model or the request; `DataError`: what it answers is no completion.
        """
        with self._errors_mapped():
            completion = self._client.chat.completions.create(**request)
            try:
                choice, usage = completion.choices[0], completion.usage
                return Answer(
                    text=choice.message.content or "",
                    whole=choice.finish_reason != "length",
                    prompt_tokens=usage.prompt_tokens if usage else 0,
                    completion_tokens=usage.completion_tokens if usage else 0,
                )
            except (AttributeError, IndexError, TypeError) as error:
                raise DataError("an answer without choices", expected="a chat completion", where=self._where) from error

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """Ask for embeddings; return them in the order of ``texts``, and the tokens it took.

        Raises `HistocastError`: as `complete` does.
        """
        with self._errors_mapped():
            answer = self._client.embeddings.create(
                model=self._endpoint.model, input=list(texts), encoding_format="float"
            )
            try:
                rows = sorted(answer.data, key=lambda row: row.index)
                vectors = [row.embedding for row in rows]
            except (AttributeError, TypeError) as error:
                raise DataError("an answer without data", expected="embeddings", where=self._where) from error
            if len(vectors) != len(texts):
                raise DataError(f"{len(vectors)} embeddings", expected=f"{len(texts)}", where=self._where)
            return vectors, answer.usage.prompt_tokens if answer.usage else 0

    @property
    def _where(self) -> str:
        return f"model {self._endpoint.model!r} at {self._endpoint.base_url or 'OpenAI'}"

    @contextmanager
    def _errors_mapped(self) -> Iterator[None]:
        import openai

        again = "run it again: what was answered is kept"
        try:
            yield
        except HistocastError:
            raise
        except openai.APITimeoutError as error:
            raise DeadlineExceeded(
                f"no answer within {self._endpoint.timeout_s:g} s", where=self._where, advice=again
            ) from error
        except openai.APIConnectionError as error:
            raise ServingUnavailable(
                f"no connection: {error.__cause__ or error}", where=self._where, advice=again
            ) from error
        except openai.APIStatusError as error:
            found = f"HTTP {error.status_code}: {str(error.message)[:300]}"
            if error.status_code in {408, 409, 429} or error.status_code >= 500:
                raise ServingUnavailable(found, where=self._where, advice=again) from error
            raise ConfigError(
                found, where=self._where, advice="look at the model's name, the key and the options"
            ) from error
        except (openai.APIError, ValueError) as error:
            raise ServingUnavailable(f"no readable answer: {error}", where=self._where, advice=again) from error
