"""Genes that a bundle was never told of, described and embedded as its own were, to be asked of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from histocast.bundle import Bundle, read_bundle
from histocast.errors import ConfigError, UsageError
from histocast.fusion.selected_genes import takes_descriptions
from histocast.genes import text_encoders
from histocast.genes.catalogue import Species
from histocast.genes.describe import describe_genes
from histocast.genes.embed import EmbedFacts, embed_genes
from histocast.genes.gene_options import Sources
from histocast.genes.name_tables import open_catalogue
from histocast.genes.open_encoder import open_encoder
from histocast.genes.resolve import resolve_genes

if TYPE_CHECKING:
    from histocast.genes.text_encoders import TextEncoder

_COMMIT = re.compile(r"[0-9a-f]{40}")


def prepare_genes(
    genes: Path,
    *,
    bundle: Path,
    outdir: Path,
    sources: Sources,
    species: Species = "human",
    names: Sequence[Path] = (),
    weights: Path | None = None,
    device: str = "cpu",
) -> EmbedFacts:
    """Resolve, describe and embed genes with a bundle's text encoder: ``genes.parquet`` for ``predict --genes``.

    ``genes``: one gene per line, or a table; see `resolve_genes`.
    ``bundle``: its folder.
    ``sources``: what the texts are made of; those of the bundle's own genes, for texts alike.
    ``names``: name tables in place of the shipped one.
    ``weights``: of the text encoder, as for `choose_encoder` and CONCH.
    Raises `ConfigError`: the bundle's method knows its panel alone, does not say which encoder it takes, or the encoder
    at hand is another; `MissingInputError` or `DataError`: genes, names, sources or weights are absent or faulty.
    """
    encoder = encoder_of(read_bundle(bundle), weights=weights, device=device)
    found = resolve_genes(genes, catalogue=open_catalogue(names, species=species), outdir=outdir)
    described = describe_genes(found.path, outdir=outdir, sources=sources)
    return embed_genes(described.path, encoder=encoder, outdir=outdir)


def encoder_of(bundle: Bundle, *, weights: Path | None, device: str = "cpu") -> TextEncoder:
    """The text encoder that a bundle's own genes went through, and no other; see `prepare_genes`."""
    text, where = bundle.gene_text, f"bundle {bundle.name}"
    if not takes_descriptions(bundle):
        raise ConfigError(
            f"{bundle.fusion.method} predicts the genes it was trained on alone",
            expected="a method that takes genes by description (dkan, alignst)",
            where=where,
        )
    if text is None or text.encoder is None or text.encoder.count("/") < 3:
        raise ConfigError(
            "no word of the text encoder",
            expected="its name, pooling and length",
            where=where,
            advice="export it again",
        )
    name, pooling, length, tokens = text.encoder.rsplit("/", 3)
    if name.startswith(text_encoders.ENDPOINT):
        raise UsageError(
            f"texts embedded by {name!r}",
            expected="an encoder on this machine",
            where=where,
            advice=f"run 'histocast genes resolve', 'describe' and 'embed --encoder {name}'",
        )
    encoder = open_encoder(
        name,
        pooling=cast("text_encoders.Pooling", pooling),
        normalise=length == "normalised",
        max_tokens=int(tokens),
        revision=text.encoder_revision if _COMMIT.fullmatch(text.encoder_revision or "") else None,
        weights=weights,
        device=device,
    )
    if (encoder.label, encoder.revision) != (text.encoder, text.encoder_revision):
        raise ConfigError(
            f"text encoder {encoder.label} of revision {encoder.revision}",
            expected=f"{text.encoder} of revision {text.encoder_revision}, as that of its own genes",
            where=where,
            advice="give the weights of that revision by --weights",
        )
    return encoder
