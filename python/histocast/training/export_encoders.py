"""The encoders of a recipe as a bundle without a model, which sections are prepared with and EXPORT ships."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histocast import __version__
from histocast.artifacts import write_json
from histocast.bundle import Bundle, Calibration, EncoderSpec, FusionSpec, OutOfDistribution
from histocast.errors import UsageError
from histocast.sections.labels import SCALES
from histocast.training.recipe import Recipe


def export_encoders(recipe: Recipe, *, outdir: Path, names: Sequence[str] | None = None) -> Bundle:
    """Write the encoders of a recipe as a bundle without a model, to tile and encode sections with.

    The same recipe gives the same bytes, so sections prepared apart fit together. Encoders with weights are taken
    from the folders of 'export-encoder' that the recipe names.

    ``names``: encoders in place of the recipe's own, for sections that several methods will take features of.
    Raises `UsageError`: the recipe names an encoder that histocast cannot write; `MissingInputError` or `ConfigError`:
    an exported encoder is absent, or takes other tiles.
    """
    specs = tuple(_encoder(name, recipe, outdir) for name in names or recipe.prepared_encoders)
    bundle = Bundle(
        name=f"{recipe.name}-encoders",
        version="0",
        created_by=__version__,
        description=f"The encoders of the recipe {recipe.name}, without a model.",
        intended_use="Preparing training sections.",
        licence="; ".join(dict.fromkeys(spec.licence for spec in specs)),
        geometry=recipe.geometry,
        encoders=specs,
        fusion=FusionSpec(file=None, sha256="", inputs=(), outputs=(), method="none", feeds={}),
        genes_sha256="",
        gene_count=0,
        scale=SCALES[recipe.protocol],
        calibration=Calibration(method="none", sections=0),
        ood=OutOfDistribution(column=recipe.features[0], mean=(), sd=(), threshold=0.0),
    )
    write_json(outdir / "bundle.json", bundle)
    return bundle


def _encoder(name: str, recipe: Recipe, outdir: Path) -> EncoderSpec:
    geometry = recipe.geometry
    if name in recipe.exported:
        from histocast.encoders.exported_encoder import take_exported

        return take_exported(recipe.exported[name], name=name, geometry=geometry, outdir=outdir)
    from histocast.encoders.encoder_cards import card_names
    from histocast.encoders.write_encoder import export_encoder

    if name in card_names():
        raise UsageError(
            f"the encoder {name!r} needs weights",
            expected="a folder of 'export-encoder'",
            where=f"recipe {recipe.name}",
            advice=f"run histocast export-encoder --name {name} --weights FILE --outdir DIR, and give DIR as "
            "'exported' in the recipe or by --exported",
        )
    return export_encoder(name, tile_px=geometry.tile_px, um_per_px=geometry.um_per_px, folder=outdir)
