"""What a user chooses about genes and texts; `histocast.stages` shows each field as an option of its verb."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from histocast.records import Options


class Sources(Options):
    """Where texts are from; each is optional."""

    ncbi: Path | None = None
    """NCBI Gene records, one JSON object per line."""
    entrez_email: str | None = None
    """Ask NCBI's Entrez for summaries, as this person."""
    uniprot: Path | None = None
    """UniProt's export, JSON or TSV, with the function."""
    go: Path | None = None
    """GO annotations: GAF, or a table symbol,qualifier,term,aspect."""
    go_terms: Path | None = None
    """go-basic.obo, for a GAF newer than the shipped terms."""
    keep_expression_evidence: bool = False
    """Keep GO annotations inferred from expression."""
    refined: Path | None = None
    """Published descriptions, taken as they are: a table symbol,description."""


class EndpointOptions(Options):
    """An endpoint that speaks OpenAI's API, and how patiently it is asked."""

    base_url: str | None = None
    """Endpoint that speaks OpenAI's API; default: OpenAI's own. OPENAI_API_KEY is read."""
    timeout_s: float = Field(default=120.0, ge=0.1)
    """Seconds to wait for one answer; a model of 70 B parameters writes 200 tokens in some 20 s."""
    tries: int = Field(default=4, ge=1)
    """Requests for one answer when the endpoint fails or stalls, with growing pauses between."""


class RefineOptions(Options):
    """How a language model condenses texts."""

    context: str = "cancer"
    """Cancer or tissue whose phenotype the model is asked for, such as 'HER2-positive breast cancer'."""
    max_words: int = Field(default=90, ge=10)
    """Most words the model is asked for: 90 as for DomainST; for DKAN 120."""
    attempts: int = Field(default=3, ge=1)
    """Answers to one question before it is given up."""
    concurrency: int = Field(default=8, ge=1)
    """Questions under way at once."""
    max_answer_tokens: int = Field(default=600, ge=50)
    """Tokens of an answer; models that think aloud need thousands."""
    json_mode: bool = True
    """Ask the endpoint to constrain answers to JSON; some servers refuse that."""
