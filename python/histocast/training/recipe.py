"""A recipe: every choice that decides a trained model, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from histocast.bundle import Spec, TileGeometry
from histocast.sections.folds import SEPARATOR
from histocast.sections.labels import MissingGenes
from histocast.sections.protocols import PROTOCOLS, Protocol

STAIN_COLUMN = "morphology.embedding"
"""Feature column that the control stain area reads, whatever the method's own features are."""

Anchor = Literal["ridge", "kernel ridge", "extra trees"]
"""Controls that need no network."""

RIDGE: Anchor = "ridge"
KERNEL_RIDGE: Anchor = "kernel ridge"
EXTRA_TREES: Anchor = "extra trees"

Method = Literal["ridge", "kernel-ridge", "dkan", "domainst", "alignst", "stnet", "bleep"]

LINEAR: tuple[Method, ...] = ("ridge", "kernel-ridge")
"""Methods that are solved in closed form, not trained."""


class Recipe(Spec):
    """What is trained, on what, and how it is scored."""

    name: str
    description: str = ""
    geometry: TileGeometry
    features: tuple[str, ...] = Field(default=("morphology.embedding",), min_length=1)
    """Feature columns ``<encoder>.<output>`` that the method takes, concatenated in this order."""
    nuclei: str | None = None
    """Feature column of a map of nuclei, for a method that looks at one."""
    target_tokens: str | None = None
    """Feature column of several tokens a tile, which a method is given of the target in place of ``features``:
    ``<encoder>.tokens`` of an encoder that was exported with tokens."""
    exported: dict[str, Path] = Field(default_factory=dict, exclude=True)
    """Folders of 'export-encoder' by encoder, for those that need weights; in a recipe file relative to the recipe.
    Where they lie is no part of what is trained: models do not record it."""
    encoder_weights: Path | None = Field(default=None, exclude=True)
    """File of weights that a trained target encoder starts from, in a recipe file relative to the recipe. Models record
    its digest, not its place."""
    panel: tuple[str, ...] = Field(min_length=1)
    """Genes to predict, as symbols or Ensembl ids. In a recipe file also the path of a file with one gene per line,
    relative to the recipe."""
    unseen_genes: tuple[str, ...] | None = None
    """Genes outside the panel, by symbol or id, that the bundle shall predict by their descriptions; all that
    ``--gene-text`` describes by default. No measured value of theirs is looked at."""
    missing_genes: MissingGenes = "mask"
    """What to do where a section did not measure a panel gene: ``mask`` gives it no label there, so that it takes part
    in no loss and no metric of that section; ``zero`` takes it for 0 counts, for tables that leave out genes without
    a count; ``refuse`` ends with an error."""
    least_measured: float = Field(default=0.5, ge=0, le=1)
    """Share of the panel that every section must have measured; a section below it, or without any, is refused."""
    protocol: Protocol = "strict"
    """Labels of the model that becomes a bundle."""
    protocols: tuple[Protocol, ...] = PROTOCOLS
    """Labels that folds are trained and scored under, besides ``protocol``."""
    method: Method = "ridge"
    variant: str = ""
    """Which idea of the method is switched, by its name in `histocast.training.variants`; empty for none."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the method; unknown ones are refused when it starts."""
    standardise_within_slide: bool = False
    """Bring features to mean 0 and sd 1 over each slide, in place of the training set's statistics. It removes part of
    what stain and scanner do, and with it what differs between slides: the bundle is then marked as comparable within a
    slide only."""
    controls: tuple[Anchor, ...] = (RIDGE, KERNEL_RIDGE, EXTRA_TREES)
    """Anchors without a network to score beside the model, besides the controls that always are. They see the same
    features; with all three their average is scored too. Extra trees take seconds per fold, and cannot be deployed. An
    empty list leaves them out."""
    folds: Literal["patient", "section", "auto"] | Annotated[int, Field(ge=2)] = "auto"
    """What is left out together; ``auto`` takes patients where there are two or more, else sections. A number is that of
    groups of patients, as many sections in each as can be, alike for the same patients."""
    region_spots: int = Field(default=1024, gt=0)
    halo_spots: int = Field(default=4, ge=0)
    seed: int = 0
    data_source: str = ""
    """Where the training data come from, for the model card."""
    data_licence: str = ""
    given: dict[str, str] = Field(default_factory=dict)
    """sha256 of the files that decided this recipe, by what they are: ``recipe``, ``genes`` (the panel), ``gene_text``,
    ``unseen_genes``. A recipe that histocast ships has none of its own. Written when the recipe is read."""

    @field_validator("panel")
    @classmethod
    def _unique(cls, panel: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(panel)) != len(panel):
            raise ValueError("a gene appears twice")
        return panel

    @property
    def label(self) -> str:
        """The method as tables name it: ``dkan``, or ``dkan:no-gene-text``."""
        return f"{self.method}{SEPARATOR}{self.variant}" if self.variant else self.method

    @property
    def scored_protocols(self) -> tuple[Protocol, ...]:
        """Protocols that folds are scored under: of a variant one, which shows what its idea is worth."""
        return (self.protocol,) if self.variant else tuple(dict.fromkeys((*self.protocols, self.protocol)))

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders whose outputs are taken, each once."""
        columns = (*self.features, *(each for each in (self.nuclei, self.target_tokens) if each is not None))
        return tuple(dict.fromkeys(column.split(".", 1)[0] for column in columns))

    @property
    def prepared_encoders(self) -> tuple[str, ...]:
        """Names of the encoders that sections are prepared with: the method's, and that of the control stain area."""
        stain = (STAIN_COLUMN.split(".", 1)[0],) if self.shows_stain else ()
        return tuple(dict.fromkeys((*self.encoders, *stain)))

    @property
    def shows_stain(self) -> bool:
        """Whether tiles are large enough for the control stain area."""
        from histocast.encoders.morphology import fits_morphology

        return fits_morphology(tile_px=self.geometry.tile_px, um_per_px=self.geometry.um_per_px)

    def without_method(self) -> Recipe:
        """Return what sections and controls depend on: neither labels nor method, nor what texts say."""
        return self.model_copy(
            update={"protocol": PROTOCOLS[0], "method": "ridge", "variant": "", "options": {}, "given": {}}
        )
