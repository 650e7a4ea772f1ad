"""Verbs of gene knowledge: genes resolve|describe|embed|ask."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histocast.cli import options

if TYPE_CHECKING:
    from histocast.genes.describe import DescribeFacts

Names = Annotated[
    list[Path] | None,
    typer.Option(
        help="HGNC complete set, NCBI gene_info, MGI report or a table with gene_symbol; give it often, the surest "
        "first. The shipped HGNC names without it."
    ),
]


class SpeciesName(StrEnum):
    """Whose genes."""

    human = "human"
    mouse = "mouse"


class OnUnknownName(StrEnum):
    """What to do about a gene that is not known."""

    refuse = "refuse"
    keep = "keep"


class OnRefusedName(StrEnum):
    """What to do when no answer of a model is fit."""

    fail = "fail"
    source = "source"


class PoolingName(StrEnum):
    """How tokens become one vector."""

    mean = "mean"
    cls = "cls"
    lasttoken = "lasttoken"
    max = "max"


BaseUrl = Annotated[
    str | None, typer.Option(help="Endpoint that speaks OpenAI's API; OpenAI's own without it. OPENAI_API_KEY is read.")
]
TimeoutS = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for one answer.")]
Tries = Annotated[int, typer.Option(min=1, help="Requests for one answer when the endpoint fails or stalls.")]

Ncbi = Annotated[Path | None, typer.Option(help="NCBI Gene records, a JSON line each.")]
EntrezEmail = Annotated[str | None, typer.Option(help="Ask NCBI's Entrez for summaries, as this person.")]
Uniprot = Annotated[Path | None, typer.Option(help="UniProt's export, JSON or TSV, with the function.")]
GoTerms = Annotated[Path | None, typer.Option(help="go-basic.obo, for a GAF newer than the shipped terms.")]
Refined = Annotated[Path | None, typer.Option(help="Published descriptions: a table symbol,description.")]
Device = Annotated[str, typer.Option(help="Where the encoder runs: cpu, cuda.")]
Go = Annotated[Path | None, typer.Option(help="GO annotations: GAF, or a table symbol,qualifier,term,aspect.")]
KeepExpression = Annotated[
    bool, typer.Option("--keep-expression-evidence", help="Keep GO annotations inferred from expression.")
]
Weights = Annotated[Path | None, typer.Option(help="CONCH's checkpoint; of the others a folder with their weights.")]
Genes = Annotated[Path, typer.Option(help="A gene a line, or a table: symbols, or Ensembl, HGNC or MGI ids.")]
Species = Annotated[SpeciesName, typer.Option(help="Whose genes.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line, under ``genes``."""
    genes = typer.Typer(help="Resolve gene symbols, describe genes, embed the texts.", no_args_is_help=True)
    for verb in (resolve, describe, embed, ask):
        genes.command()(verb)
    app.add_typer(genes, name="genes")


def resolve(
    *,
    genes: Genes,
    species: Species = SpeciesName.human,
    names: Names = None,
    on_unknown: Annotated[
        OnUnknownName, typer.Option(help="refuse genes that are not known, or keep them without ids.")
    ] = OnUnknownName.refuse,
    outdir: options.Outdir = Path(),
) -> None:
    """Find the ids of genes: <outdir>/gene-names.parquet."""
    from histocast.genes.name_tables import open_catalogue
    from histocast.genes.resolve import resolve_genes
    from histocast.progress import log

    catalogue = open_catalogue(names or (), species=species.value)
    facts = resolve_genes(genes, catalogue=catalogue, outdir=outdir, on_unknown=on_unknown.value)
    for match in facts.renamed:
        log(f"{match.query} is {match.gene.label}, {match.matched_by} symbol")
    for refusal in facts.unknown:
        log(f"{refusal.query} is kept without ids: {refusal.found}")
    log(f"{facts.genes} genes, {len(facts.renamed)} under another symbol, {len(facts.unknown)} unknown: {facts.path}")


def describe(
    *,
    names: Annotated[Path, typer.Option(help="gene-names.parquet of 'genes resolve'.")],
    ncbi: Ncbi = None,
    entrez_email: EntrezEmail = None,
    uniprot: Uniprot = None,
    go: Go = None,
    go_terms: GoTerms = None,
    keep_expression_evidence: KeepExpression = False,
    refined: Refined = None,
    head: Annotated[bool, typer.Option(help="Begin each text with the gene's symbol and name.")] = True,
    model: Annotated[str | None, typer.Option(help="Language model that condenses the texts; none without it.")] = None,
    base_url: BaseUrl = None,
    context: Annotated[str, typer.Option(help="Cancer or tissue whose phenotype the model is asked for.")] = "cancer",
    max_words: Annotated[int, typer.Option(min=10, help="Words the model is asked for at most.")] = 90,
    attempts: Annotated[int, typer.Option(min=1, help="Answers to one question before it is given up.")] = 3,
    concurrency: Annotated[int, typer.Option(min=1, help="Questions under way at once.")] = 8,
    timeout_s: TimeoutS = 120.0,
    tries: Tries = 4,
    max_answer_tokens: Annotated[
        int, typer.Option(min=50, help="Tokens of an answer; models that think aloud need thousands.")
    ] = 600,
    json_mode: Annotated[bool, typer.Option(help="Ask the endpoint to constrain answers to JSON.")] = True,
    on_refused: Annotated[
        OnRefusedName, typer.Option(help="fail where no answer is fit, or take the sources' text.")
    ] = OnRefusedName.fail,
    outdir: options.Outdir = Path(),
) -> None:
    """Write a text about each gene: <outdir>/gene-texts.parquet."""
    from histocast.genes.describe import Sources, describe_genes
    from histocast.genes.endpoint import Endpoint
    from histocast.genes.refine import Refinement

    refinement = None
    if model is not None:
        endpoint = Endpoint(model, base_url=base_url, timeout_s=timeout_s, tries=tries)
        refinement = Refinement(
            endpoint,
            context=context,
            max_words=max_words,
            attempts=attempts,
            concurrency=concurrency,
            json_mode=json_mode,
            max_answer_tokens=max_answer_tokens,
        )
    facts = describe_genes(
        names,
        outdir=outdir,
        sources=Sources(
            ncbi=ncbi,
            entrez_email=entrez_email,
            uniprot=uniprot,
            go=go,
            go_terms=go_terms,
            keep_expression_evidence=keep_expression_evidence,
            refined=refined,
        ),
        head=head,
        refinement=refinement,
        on_refused=on_refused.value,
    )
    _tell(facts)


def _tell(facts: DescribeFacts) -> None:
    from histocast.progress import log

    for refused in facts.refused:
        log(f"not taken: {refused}")
    if facts.refinement:
        spent = f"{facts.refinement.prompt_tokens} + {facts.refinement.completion_tokens} tokens (prompt + answer)"
        log(f"{facts.refinement.asked} requests now, {spent} in all; {len(facts.refinement.refused)} genes refused")
    counts = ", ".join(f"{count} from {source}" for source, count in sorted(facts.by_source.items()))
    log(f"{facts.genes} genes described, {counts}: {facts.path}")


def embed(
    *,
    texts: Annotated[Path, typer.Option(help="gene-texts.parquet of 'genes describe'.")],
    encoder: Annotated[
        str, typer.Option(help="minilm, biobert, pubmedbert, conch, hf:<repository or folder>, endpoint:<model>.")
    ] = "minilm",
    pooling: Annotated[PoolingName | None, typer.Option(help="In place of the encoder's own.")] = None,
    normalise: Annotated[bool | None, typer.Option(help="Scale to length 1, in place of the encoder's own.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=8, help="Tokens read, in place of the encoder's own.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of the weights' repository.")] = None,
    weights: Weights = None,
    device: Device = "cpu",
    base_url: BaseUrl = None,
    timeout_s: TimeoutS = 120.0,
    tries: Tries = 4,
    outdir: options.Outdir = Path(),
) -> None:
    """Embed the texts about genes: <outdir>/genes.parquet."""
    from histocast.genes import text_encoders
    from histocast.genes.embed import embed_genes
    from histocast.genes.endpoint import Endpoint
    from histocast.genes.open_encoder import open_encoder
    from histocast.progress import log

    if encoder.startswith(text_encoders.ENDPOINT):
        endpoint = Endpoint(
            encoder.removeprefix(text_encoders.ENDPOINT), base_url=base_url, timeout_s=timeout_s, tries=tries
        )
        with endpoint.connect() as connection:
            facts = embed_genes(texts, encoder=text_encoders.EndpointEncoder(endpoint, connection), outdir=outdir)
    else:
        local = open_encoder(
            encoder,
            pooling=pooling.value if pooling else None,
            normalise=normalise,
            max_tokens=max_tokens,
            revision=revision,
            weights=weights,
            device=device,
        )
        facts = embed_genes(texts, encoder=local, outdir=outdir)
    log(f"{facts.genes} genes in {facts.dim} dimensions, {facts.truncated} texts cut short: {facts.path}")


def ask(
    *,
    genes: Genes,
    bundle: Annotated[Path, typer.Option(help="Bundle that they are to be asked of: its folder.")],
    species: Species = SpeciesName.human,
    names: Names = None,
    ncbi: Ncbi = None,
    entrez_email: EntrezEmail = None,
    uniprot: Uniprot = None,
    go: Go = None,
    go_terms: GoTerms = None,
    keep_expression_evidence: KeepExpression = False,
    refined: Refined = None,
    weights: Weights = None,
    device: Device = "cpu",
    outdir: options.Outdir = Path(),
) -> None:
    """Prepare genes for a bundle, with its text encoder.

    Resolves, describes and embeds them. Writes <outdir>/genes.parquet, for 'predict --genes'.
    """
    from histocast.genes.ask import embed_asked_genes
    from histocast.genes.describe import Sources
    from histocast.progress import log

    facts = embed_asked_genes(
        genes,
        bundle=bundle,
        outdir=outdir,
        sources=Sources(
            ncbi=ncbi,
            entrez_email=entrez_email,
            uniprot=uniprot,
            go=go,
            go_terms=go_terms,
            keep_expression_evidence=keep_expression_evidence,
            refined=refined,
        ),
        species=species.value,
        names=names or (),
        weights=weights,
        device=device,
    )
    log(f"{facts.genes} genes to ask for, {facts.truncated} texts cut short: {facts.path}")
