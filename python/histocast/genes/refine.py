"""Have a language model condense what the sources say, and hold it to the gene it was asked about.

The prompt is ``prompts/refine-*.jinja``. Each exchange stands in a journal by the digest of all that was sent, so
that nothing is asked twice; an answer that is not what was asked for is sent back with the reason.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from histocast.genes.digests import digest_of
from histocast.genes.endpoint import Answer, Connection, Endpoint
from histocast.genes.gene_options import RefineOptions
from histocast.genes.journal import Journal
from histocast.genes.published import OWN_SYMBOL
from histocast.genes.resolve import NamedGene
from histocast.progress import Meter

PROMPTS = Path(__file__).parent / "prompts"
# Models count words badly: the limit they are told may be passed by as much.
WORDS_OVER = 1.5
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)


class Refinement(RefineOptions):
    """How descriptions are refined, and by which model."""

    endpoint: Endpoint

    @property
    def parameters(self) -> dict[str, Any]:
        """What decides the texts."""
        prompts = digest_of([path.read_text(encoding="utf-8") for path in sorted(PROMPTS.glob("refine-*.jinja"))])
        return {
            "model": self.endpoint.model,
            "context": self.context,
            "max_words": self.max_words,
            "json_mode": self.json_mode,
            "max_answer_tokens": self.max_answer_tokens,
            "prompts": prompts,
        }


@dataclass
class RefineFacts:
    """What refining took."""

    texts: dict[str, str] = field(default_factory=dict)
    """By ``gene_symbol``."""
    refused: dict[str, str] = field(default_factory=dict)
    """Genes of which no answer was fit, with the last one's fault."""
    asked: int = 0
    """Requests sent now; the others stood in the journal."""
    prompt_tokens: int = 0
    """Of all exchanges, those of earlier runs included."""
    completion_tokens: int = 0

    def take(self, outcome: _Outcome) -> None:
        """Add what came of one conversation."""
        self.asked += outcome.asked
        self.prompt_tokens += outcome.prompt_tokens
        self.completion_tokens += outcome.completion_tokens
        if outcome.text is None:
            self.refused[outcome.symbol] = outcome.fault
        else:
            self.texts[outcome.symbol] = outcome.text


def _keywords(value: object) -> object:
    """Models asked for keywords often write a list."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    return value


_Keywords = Annotated[str, BeforeValidator(_keywords), Field(min_length=3)]


class RefinedGene(BaseModel):
    """A model's answer."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    gene_symbol: str
    functionality: _Keywords
    phenotype: _Keywords

    @property
    def text(self) -> str:
        """The answer as the published descriptions are written."""
        parts = (
            f"gene symbol: {self.gene_symbol}",
            f"Functionality: {self.functionality}",
            f"Phenotype: {self.phenotype}",
        )
        return " ".join(f"{part.rstrip(' .')}." for part in parts)


def refine_texts(genes: Sequence[tuple[NamedGene, str]], *, how: Refinement, journal: Journal) -> RefineFacts:
    """Refine the text of each gene.

    Raises `TransientError` or `ConfigError` or `DataError`: the endpoint fails; what was answered until then stands in
    the journal.
    """
    facts = RefineFacts()
    stop = threading.Event()
    with (
        how.endpoint.connect() as connection,
        Meter("refine", total=len(genes), unit="genes") as meter,
        ThreadPoolExecutor(how.concurrency) as pool,
    ):
        conversations = [
            _Conversation(named, text, how=how, connection=connection, journal=journal, stop=stop)
            for named, text in genes
        ]
        try:
            for future in as_completed([pool.submit(conversation.hold) for conversation in conversations]):
                facts.take(future.result())
                meter.advance()
        finally:
            # Answers under way still come into the journal; no new question is sent.
            stop.set()
            pool.shutdown(cancel_futures=True)
    return facts


@dataclass
class _Outcome:
    """What came of one conversation."""

    symbol: str
    text: str | None = None
    fault: str = ""
    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Conversation:
    """The exchange about one gene, until an answer is fit."""

    def __init__(
        self,
        named: NamedGene,
        source_text: str,
        *,
        how: Refinement,
        connection: Connection,
        journal: Journal,
        stop: threading.Event,
    ) -> None:
        self._named = named
        self._symbol = named.gene.symbol if named.gene else named.gene_symbol
        self._how = how
        self._connection = connection
        self._journal = journal
        self._stop = stop
        self._messages = _first_messages(named, source_text, symbol=self._symbol, how=how)

    def hold(self) -> _Outcome:
        """Ask until an answer is fit, or as often as is allowed."""
        outcome = _Outcome(self._named.gene_symbol)
        for _ in range(self._how.attempts):
            if self._stop.is_set():
                break
            answer = self._answer(outcome)
            try:
                outcome.text = self._judge(answer).text
            except ValueError as error:
                outcome.fault = _reason(error)
            else:
                return outcome
            self._messages += [
                {"role": "assistant", "content": answer.text},
                {
                    "role": "user",
                    "content": f"That is refused: {outcome.fault}. Answer again, with the JSON object only.",
                },
            ]
        return outcome

    def _answer(self, outcome: _Outcome) -> Answer:
        request: dict[str, Any] = {
            "model": self._how.endpoint.model,
            "messages": self._messages,
            "temperature": 0,
            "max_tokens": self._how.max_answer_tokens,
        }
        if self._how.json_mode:
            request["response_format"] = {"type": "json_object"}
        question = digest_of(request)
        if question not in self._journal:
            outcome.asked += 1
            self._journal.add(question, {**asdict(self._connection.complete(request)), "gene": self._symbol})
        kept: Mapping[str, Any] = self._journal[question]
        answer = Answer(**{key: kept[key] for key in ("text", "whole", "prompt_tokens", "completion_tokens")})
        outcome.prompt_tokens += answer.prompt_tokens
        outcome.completion_tokens += answer.completion_tokens
        return answer

    def _judge(self, answer: Answer) -> RefinedGene:
        if not answer.whole:
            raise ValueError(f"it was cut off after {answer.completion_tokens} tokens")
        fenced = _FENCE.match(answer.text)
        refined = RefinedGene.model_validate_json(fenced[1] if fenced else answer.text)
        if refined.gene_symbol not in self._named.symbols:
            raise ValueError(f"gene_symbol is {refined.gene_symbol!r}, and the gene asked about is {self._symbol!r}")
        for keywords in (refined.functionality, refined.phenotype):
            if (claimed := OWN_SYMBOL.search(keywords)) and claimed[1] not in self._named.symbols:
                raise ValueError(f"it speaks of {claimed[1]!r}, and the gene asked about is {self._symbol!r}")
        words = len(f"{refined.functionality} {refined.phenotype}".split())
        if words > self._how.max_words * WORDS_OVER:
            raise ValueError(f"{words} words, where fewer than {self._how.max_words} were asked for")
        return refined.model_copy(update={"gene_symbol": self._symbol})


def _first_messages(named: NamedGene, source_text: str, *, symbol: str, how: Refinement) -> list[dict[str, str]]:
    gene = named.gene
    ids = (
        [gene.authority_id, gene.ensembl_id, f"NCBI Gene {gene.ncbi_gene_id}" if gene.ncbi_gene_id else None]
        if gene
        else []
    )
    facts = {
        "symbol": symbol,
        "name": gene.name if gene else "",
        "ids": [known for known in ids if known],
        "source_text": source_text,
        "context": how.context,
        "max_words": how.max_words,
    }
    return [{"role": role, "content": _template(role).render(facts)} for role in ("system", "user")]


@cache
def _template(role: str) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Prompts are plain text: nothing in them is to be escaped as HTML.
    environment = Environment(loader=FileSystemLoader(PROMPTS), undefined=StrictUndefined, autoescape=False)  # noqa: S701
    return environment.get_template(f"refine-{role}.jinja")


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'the answer'}: {fault['msg']}" for fault in error.errors()]
        return "; ".join(faults)
    return str(error)
