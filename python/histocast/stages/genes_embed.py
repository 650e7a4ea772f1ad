"""The verb `genes embed`: the texts about genes as vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from histocast.genes.gene_options import EndpointOptions
from histocast.stages.stage import Outdir, Stage

if TYPE_CHECKING:
    from histocast.genes.embed import EmbedFacts

EncoderFiles = Annotated[
    Path | None, Field(description="CONCH's checkpoint; of other encoders a folder with their weights.")
]
Device = Annotated[str, Field(description="Where the encoder runs: cpu, cuda.")]


class GenesEmbed(EndpointOptions, Stage):
    """Embed the texts about genes: <outdir>/genes.parquet."""

    texts: Path
    """gene-texts.parquet of 'genes describe'."""
    encoder: str = "minilm"
    """minilm, biobert, pubmedbert, conch, hf:<repository or folder>, endpoint:<model>."""
    pooling: Literal["mean", "cls", "lasttoken", "max"] | None = None
    """In place of the encoder's own."""
    normalise: bool | None = None
    """Scale to length 1, in place of the encoder's own."""
    max_tokens: int | None = Field(default=None, ge=8)
    """Tokens read, in place of the encoder's own."""
    revision: str | None = None
    """Commit of the weights' repository."""
    weights: EncoderFiles = None
    device: Device = "cpu"
    outdir: Outdir = Path()

    def run(self) -> EmbedFacts:
        """Do the work. Raises as `histocast.genes.embed.embed_genes` and `open_encoder` do."""
        from histocast.genes import text_encoders
        from histocast.genes.embed import embed_genes
        from histocast.genes.endpoint import Endpoint
        from histocast.genes.open_encoder import open_encoder
        from histocast.progress import log

        if self.encoder.startswith(text_encoders.ENDPOINT):
            model = self.encoder.removeprefix(text_encoders.ENDPOINT)
            endpoint = Endpoint(model=model, **self.part(EndpointOptions))
            with endpoint.connect() as connection:
                encoder = text_encoders.EndpointEncoder(endpoint, connection)
                facts = embed_genes(self.texts, encoder=encoder, outdir=self.outdir)
        else:
            local = open_encoder(
                self.encoder,
                pooling=self.pooling,
                normalise=self.normalise,
                max_tokens=self.max_tokens,
                revision=self.revision,
                weights=self.weights,
                device=self.device,
            )
            facts = embed_genes(self.texts, encoder=local, outdir=self.outdir)
        log(f"{facts.genes} genes in {facts.dim} dimensions, {facts.truncated} texts cut short: {facts.path}")
        return facts
