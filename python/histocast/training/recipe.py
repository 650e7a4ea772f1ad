"""A recipe: every choice that decides a trained model, in one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, field_validator

from histocast.bundle import Spec, TileGeometry
from histocast.errors import ConfigError, MissingInputError, UsageError
from histocast.sections.folds import SEPARATOR
from histocast.sections.gene_table import read_panel
from histocast.sections.labels import MissingGenes
from histocast.sections.protocols import PROTOCOLS, Protocol
from histocast.training.variants import add_nuclei, apply_variant

STAIN_COLUMN = "morphology.embedding"
"""Feature column that the control stain area reads, whatever the method's own features are."""

Method = Literal["ridge", "dkan", "domainst", "alignst", "stnet", "bleep"]


class Recipe(Spec):
    """What is trained, on what, and how it is judged."""

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
    """Genes to predict, as symbols or Ensembl ids. In a recipe file also the path of a file with a gene a line,
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
    standardise_within_slide: bool = True
    """Bring features to mean 0 and sd 1 over each slide: needs no labels and removes part of the section effect."""
    controls: tuple[Literal["ridge", "extra trees"], ...] = ("ridge", "extra trees")
    """Anchors without a network to judge beside the model, besides the controls that always are. They see the same
    features; extra trees take seconds a fold, and cannot be deployed. An empty list leaves them out."""
    folds: Literal["patient", "section", "auto"] | Annotated[int, Field(ge=2)] = "auto"
    """What is left out together; ``auto`` takes patients where there are two or more, else sections. A number is that of
    groups of patients, as many sections in each as can be, alike for the same patients."""
    region_spots: int = Field(default=1024, gt=0)
    halo_spots: int = Field(default=4, ge=0)
    seed: int = 0
    data_source: str = ""
    """Where the training data come from, for the model card."""
    data_licence: str = ""

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


def read_recipe(
    name: str | Path,
    *,
    panel: Path | None = None,
    protocol: Protocol | None = None,
    method: str | None = None,
    options: Sequence[str] = (),
    exported: Sequence[Path] = (),
    encoder_weights: Path | None = None,
    unseen_genes: Path | None = None,
) -> Recipe:
    """Read a recipe by file, or by the name of one that ships with histocast.

    Parameters
    ----------
    panel:
        File with a gene a line, in place of the recipe's panel; some shipped recipes have none of their own.
    protocol, method:
        In place of the recipe's. Another method starts from its own options, or those under ``options_of``;
        ``dkan:no-gene-text`` is a method with one idea switched (`histocast.training.variants`).
    options:
        ``key.key=value`` each, the value in JSON or a plain word; they change single options of the method.
    exported:
        Folders of 'export-encoder', besides those the recipe names.
    encoder_weights:
        File that a trained target encoder starts from, in place of the recipe's.
    unseen_genes:
        Genes to leave out of training, a line each; see `hold_out_genes`, also for what it raises.

    Raises
    ------
    MissingInputError
        There is no such file and no recipe of that name.
    UsageError
        The recipe has no panel and none is given, or an option is not ``key=value``.
    ConfigError
        The file is not a recipe, or there is no such method.
    """
    content, folder = _read_content(name)
    _locate_files(content, folder, exported=exported, encoder_weights=encoder_weights)
    given = content.get("panel")
    if panel is not None:
        content["panel"] = read_panel(panel)
    elif isinstance(given, str):
        content["panel"] = read_panel(folder / given)
    elif given is None:
        raise UsageError(
            "no gene panel",
            expected="a file with a gene a line",
            where=f"recipe {name}",
            advice="give --panel, or 'panel' in the recipe",
        )
    method, _, variant = (method or "").partition(SEPARATOR)
    others = _options_of_others(content, where=str(name))
    if method not in ("", content.get("method", "ridge")):
        content["options"] = others.get(method, {})
    for option in options:
        _change_option(content.setdefault("options", {}), option)
    content |= {key: value for key, value in (("protocol", protocol), ("method", method)) if value}
    if variant:
        content = apply_variant(content, method, variant)
    content = add_nuclei(content)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise ConfigError(f"{place or 'content'}: {fault['msg']}", expected="a recipe", where=str(name)) from error
    return hold_out_genes(recipe, unseen_genes) if unseen_genes else recipe


def _options_of_others(content: dict[str, Any], *, where: str) -> dict[str, dict[str, Any]]:
    """Take ``options_of`` from a recipe: options of other methods than its own, by method."""
    others = content.pop("options_of", {})
    if not isinstance(others, dict) or (unknown := set(others) - set(get_args(Method))):
        found = ", ".join(sorted(unknown)) if isinstance(others, dict) else type(others).__name__
        raise ConfigError(
            f"options_of: {found}", expected=f"options by method: {', '.join(get_args(Method))}", where=where
        )
    return others


def hold_out_genes(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the genes of a file (one a line) taken from its panel, to be predicted by their descriptions.

    Raises
    ------
    MissingInputError
        There is no such file.
    DataError
        It names no gene, or one twice.
    UsageError
        It leaves no gene to train on.
    """
    unseen = read_panel(path)
    panel = tuple(gene for gene in recipe.panel if gene not in unseen)
    if not panel:
        raise UsageError(
            "every gene of the panel is left out of training", expected="some to train on", where=str(path)
        )
    return recipe.model_copy(update={"panel": panel, "unseen_genes": unseen})


def _locate_files(
    content: dict[str, Any], folder: Path, *, exported: Sequence[Path], encoder_weights: Path | None
) -> None:
    """Turn what a recipe names relative to itself into paths, and add what is given beside it."""
    if isinstance(content.get("exported"), dict):
        content["exported"] = {encoder: folder / str(place) for encoder, place in content["exported"].items()}
    if isinstance(content.get("encoder_weights"), str):
        content["encoder_weights"] = folder / content["encoder_weights"]
    if encoder_weights is not None:
        content["encoder_weights"] = encoder_weights
    if exported:
        from histocast.encoders.exported_encoder import read_exported

        content["exported"] = {
            **content.get("exported", {}),
            **{read_exported(place).encoder.name: place for place in exported},
        }


def _change_option(content: dict[str, Any], option: str) -> None:
    path, equals, text = option.partition("=")
    *parents, last = path.split(".")
    if not equals or not all((*parents, last)):
        raise UsageError(f"option {option!r}", expected="key=value, such as model.contrastive=false")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise UsageError(f"option {option!r}: {parent!r} is one value", expected="a group of options")
    try:
        content[last] = json.loads(text)
    except (ValueError, RecursionError):
        content[last] = text


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that ship with histocast."""
    folder = resources.files(__package__) / "recipes"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")))


def _read_content(name: str | Path) -> tuple[dict[str, Any], Path]:
    path = Path(name)
    if path.is_file():
        text, folder = path.read_bytes(), path.resolve().parent
    elif str(name) in shipped_recipes():
        text = (resources.files(__package__) / "recipes" / f"{name}.json").read_bytes()
        folder = Path()
    else:
        raise MissingInputError(
            "no such recipe", expected=f"a JSON file, or one of {', '.join(shipped_recipes())}", where=str(name)
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}", expected="a recipe", where=str(name)) from error
    if not isinstance(content, dict):
        raise ConfigError("no JSON object", expected="a recipe", where=str(name))
    return content, folder
