"""The verb `genes describe`: a text about each gene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from histocast.genes.gene_options import EndpointOptions, RefineOptions, Sources
from histocast.stages.stage import Outdir, Stage

if TYPE_CHECKING:
    from histocast.genes.describe import DescribeFacts


class GenesDescribe(RefineOptions, EndpointOptions, Sources, Stage):
    """Write a text about each gene: <outdir>/gene-texts.parquet."""

    names: Path
    """gene-names.parquet of 'genes resolve'."""
    head: bool = True
    """Begin each text with the gene's symbol and name."""
    model: str | None = None
    """Language model that condenses the texts; default: none."""
    on_refused: Literal["fail", "source"] = "fail"
    """fail where no answer is fit, or take the sources' text."""
    outdir: Outdir = Path()

    def run(self) -> DescribeFacts:
        """Do the work and log what was refused. Raises as `histocast.genes.describe.describe_genes` does."""
        from histocast.genes.describe import describe_genes
        from histocast.genes.endpoint import Endpoint
        from histocast.genes.refine import Refinement

        refinement = None
        if self.model is not None:
            endpoint = Endpoint(model=self.model, **self.part(EndpointOptions))
            refinement = Refinement(endpoint=endpoint, **self.part(RefineOptions))
        facts = describe_genes(
            self.names,
            outdir=self.outdir,
            sources=self,
            head=self.head,
            refinement=refinement,
            on_refused=self.on_refused,
        )
        _log(facts)
        return facts


def _log(facts: DescribeFacts) -> None:
    from histocast.progress import log

    for refused in facts.refused:
        log(f"not taken: {refused}")
    if facts.refinement:
        spent = f"{facts.refinement.prompt_tokens} + {facts.refinement.completion_tokens} tokens (prompt + answer)"
        log(f"{facts.refinement.asked} requests now, {spent} in all; {len(facts.refinement.refused)} genes refused")
    counts = ", ".join(f"{count} from {source}" for source, count in sorted(facts.by_source.items()))
    log(f"{facts.genes} genes described, {counts}: {facts.path}")
