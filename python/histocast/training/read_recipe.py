"""Read a recipe with all that is chosen in place of its own, from its file, by its name or from a plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from histocast.bundle import sha256_of_file
from histocast.errors import ConfigError, MissingInputError, UsageError
from histocast.records import first_fault
from histocast.sections.folds import SEPARATOR
from histocast.sections.gene_table import read_panel
from histocast.training.recipe import Method, Recipe
from histocast.training.variants import add_nuclei, apply_variant


def read_recipe(
    name: str | Path,
    *,
    panel: Path | None = None,
    method: str | None = None,
    options: Sequence[str] = (),
    exported: Sequence[Path] = (),
    encoder_weights: Path | None = None,
    unseen_genes: Path | None = None,
    gene_text: Path | None = None,
) -> Recipe:
    """Read a recipe by file, by the name of one that ships with histocast, or of a plan, which holds resolved ones.

    ``panel``: file with one gene per line, in place of the recipe's panel; some shipped recipes have none of their own.
    ``method``: in place of the recipe's; of a plan that method's recipe is taken. Another method starts from its own
        options, or those under ``options_of``; ``dkan:no-gene-text`` is a method with one idea switched
        (`histocast.training.variants`).
    ``options``: ``key.key=value`` each, the value in JSON or a plain word; they change single options of the method.
    ``exported``: folders of 'export-encoder', besides those the recipe names.
    ``encoder_weights``: file that a trained target encoder starts from, in place of the recipe's.
    ``unseen_genes``: genes to leave out of training, one per line; see `hold_out_genes`, also for what it raises.
    ``gene_text``: embedded genes that the training will read, whose digest goes into the recipe.
    Raises `MissingInputError`: there is no such file and no recipe of that name; `UsageError`: the recipe has no panel
    and none is given, or an option is not ``key=value``; `ConfigError`: the file is not a recipe, there is no such
    method, or a file is another one than a plan was made with.
    """
    content, folder = _read_content(name)
    files: dict[str, Path | None] = {"recipe": Path(name) if Path(name).is_file() else None}
    if "recipes" in content:
        content, method, files = _recipe_of_plan(content["recipes"], method, where=str(name)), None, {}
    _locate_files(content, folder, exported=exported, encoder_weights=encoder_weights)
    if isinstance(content.get("panel"), str):
        panel = panel or folder / content["panel"]
    if panel is not None:
        content["panel"] = read_panel(panel)
    elif content.get("panel") is None:
        raise UsageError(
            "no gene panel",
            expected="a file with one gene per line",
            where=f"recipe {name}",
            advice="give --panel, or 'panel' in the recipe",
        )
    method, _, variant = (method or "").partition(SEPARATOR)
    others = _options_of_others(content, where=str(name))
    if method not in ("", content.get("method", "ridge")):
        content["options"] = others.get(method, {})
    for option in options:
        _change_option(content.setdefault("options", {}), option)
    if method:
        content["method"] = method
    if variant:
        content = apply_variant(content, method, variant)
    content = add_nuclei(content)
    files |= {"genes": panel, "gene_text": gene_text, "unseen_genes": unseen_genes}
    content["given"] = _digests(content.get("given", {}), files, where=str(name))
    recipe = _validate(content, where=str(name))
    return hold_out_genes(recipe, unseen_genes) if unseen_genes else recipe


def read_preparation(
    name: str | Path, *, panel: Path | None = None, exported: Sequence[Path] = ()
) -> tuple[Recipe, tuple[str, ...], bool]:
    """Read what sections are prepared by: the recipe, the encoders, and whether pixels are kept.

    Of a plan these are what all its methods need. Raises as `read_recipe` does.
    """
    plan, _ = _read_content(name)
    if "preparation" not in plan:
        recipe = read_recipe(name, panel=panel, exported=exported)
        return recipe, recipe.prepared_encoders, False
    content = dict(plan["preparation"])
    _locate_files(content, Path(), exported=exported, encoder_weights=None)
    return _validate(content, where=str(name)), tuple(plan["encoders"]), bool(plan["pixels"])


def is_plan(name: str | Path) -> bool:
    """Whether ``name`` is a plan, in which all choices were validated together; raises as `read_recipe` does."""
    return "recipes" in _read_content(name)[0]


def _validate(content: Mapping[str, Any], *, where: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise ConfigError(first_fault(error), expected="a recipe", where=where) from error


def _recipe_of_plan(recipes: Mapping[str, dict[str, Any]], method: str | None, *, where: str) -> dict[str, Any]:
    """The recipe of a method, by its label; of the only one where none is named."""
    label = method or (next(iter(recipes)) if len(recipes) == 1 else "")
    if label not in recipes:
        raise UsageError(
            f"the method {label!r}" if label else "no method",
            expected=f"one of those that were planned: {', '.join(recipes)}",
            where=where,
        )
    return recipes[label]


def _digests(planned: Mapping[str, str], files: Mapping[str, Path | None], *, where: str) -> dict[str, str]:
    """The sha256 of each file that is given; a plan has those it was made with, and takes no other."""
    found = {key: sha256_of_file(path) for key, path in files.items() if path is not None}
    for key, sha256 in found.items():
        if planned.get(key, sha256) != sha256:
            raise ConfigError(
                f"{key} with sha256 {sha256}", expected=f"{planned[key]}, with which it was planned", where=where
            )
    return {**planned, **found}


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

    Raises `MissingInputError`: there is no such file; `DataError`: it names no gene, or one twice; `UsageError`: it
    leaves no gene to train on.
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
