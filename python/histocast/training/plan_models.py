"""What PLAN does: validate a training sheet and what is asked for, and name every model to train, before anything long starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from histocast.errors import ConfigError, DataError, ErrorCollector, MissingInputError, UsageError
from histocast.records import Record
from histocast.sections.folds import ALL, model_name, split_sections
from histocast.sections.protocols import Protocol
from histocast.sections.read_training_sheet import TrainingRow, read_training_sheet
from histocast.slide.companions import companions_version, refuse_in_store, slide_files
from histocast.storage import is_in_s3
from histocast.training.read_recipe import read_recipe
from histocast.training.recipe import LINEAR, Recipe
from histocast.training.section_genes import SectionGenes, measure_row

PLAN_FILE = "plan.json"

Device = Literal["cpu", "cuda", "auto"]


class Needs(NamedTuple):
    """What training a method takes."""

    gene_text: bool = False
    """Whether it reads descriptions of genes."""
    epochs: bool = False
    """Whether it learns step by step, and continues from checkpoints."""
    pixels: bool = False
    """Whether it trains an encoder."""
    device: Device = "cpu"
    threads: int = 1


class PlannedModel(Record):
    """One call of `histocast.stages.train`."""

    id: str
    """Name of the model's folder."""
    method: str
    """With its variant, if any."""
    protocol: Protocol
    fold: str
    """What it leaves out, or ``all``: then it is not scored, and becomes a bundle."""
    bundle: str
    """Name of the bundle it becomes, or empty."""
    device: Device = "cpu"
    """Where it is trained, which decides whether its task asks for a GPU."""
    threads: int = 1
    """Threads it is trained with, and so processors that its task asks for."""


class PlannedSection(Record):
    """One row of the training sheet, which names the files that PREPARE is given."""

    sample: str
    slide: str
    """Absolute path or URI, as are the next two."""
    counts: str
    spots: str | None = None
    files: tuple[str, ...] = ()
    """Local files and folders of the slide: the path it is opened by, then its companions. Empty for an object of a
    store."""
    companions_version: str | None = None
    """What changes when a companion of a slide of several files changes."""
    measured: SectionGenes | None = None
    """What its counts measured of the panel, and its spots; None where PLAN did not look: the row names
    no spots, the counts are not on its disk or are too large to read twice. PREPARE then measures them."""


class Plan(Record):
    """``plan.json``."""

    schema_version: Literal[1] = 1
    recipe: str
    """Its name."""
    preparation: Recipe
    """What sections are prepared by: the recipe without its method, and with every gene."""
    recipes: dict[str, Recipe]
    """The resolved recipe of each method, by the method's name and variant."""
    sections: tuple[PlannedSection, ...]
    """In the order of the sheet."""
    split: str
    """How folds are made, in words."""
    encoders: tuple[str, ...]
    """Encoders that any of the methods, or the controls beside them, takes features of."""
    pixels: bool = False
    """Whether any of the methods trains an encoder, so that sections have to keep the pixels of their tiles."""
    models: tuple[PlannedModel, ...]


def plan_models(
    sheet: Path,
    *,
    recipe: str | Path,
    methods: Sequence[str] = (),
    panel: Path | None = None,
    gene_text: Path | None = None,
    unseen_genes: Path | None = None,
    genes: Path | None = None,
    options: Sequence[str] = (),
) -> Plan:
    """Every model to train: a method on each fold under every protocol, and on all sections for its bundle.

    Parameters are the fields of `histocast.stages.plan.Plan`. A variant becomes no bundle.
    Raises `DataError`: every fault of the sheet, slides without their companions, sections whose counts cannot be used,
    or too few patients or sections to hold one out; `ConfigError`: there is no such method or variant, its options do
    not fit, or it reads gene descriptions and none are given; `UsageError`: a method is asked for twice.
    """
    rows = read_training_sheet(sheet)
    sections = _find_files(rows, sheet)
    recipes = [
        read_recipe(recipe, panel=panel, method=method, options=options, unseen_genes=unseen_genes, gene_text=gene_text)
        for method in methods or (None,)
    ]
    labels = [chosen.label for chosen in recipes]
    if len(set(labels)) < len(labels):
        raise UsageError(f"methods {', '.join(labels)}", expected="each once")
    needs = [_judge_options(chosen, gene_text) for chosen in recipes]
    split = split_sections(rows, by=recipes[0].folds)
    models = []
    for chosen, needed in zip(recipes, needs, strict=True):
        models += [_planned(chosen, needed, p, fold.name) for p in chosen.scored_protocols for fold in split.folds]
        if not chosen.variant:
            models.append(_planned(chosen, needed, chosen.protocol, ALL))
    return Plan(
        recipe=recipes[0].name,
        preparation=read_recipe(recipe, panel=panel).without_method(),
        recipes={chosen.label: chosen for chosen in recipes},
        sections=_measure(rows, sections, recipes[0], genes, sheet),
        split=split.description,
        encoders=tuple(dict.fromkeys(name for chosen in recipes for name in chosen.prepared_encoders)),
        pixels=any(needed.pixels for needed in needs),
        models=tuple(models),
    )


def _measure(
    rows: Sequence[TrainingRow], sections: Sequence[PlannedSection], recipe: Recipe, genes: Path | None, sheet: Path
) -> tuple[PlannedSection, ...]:
    """The sections with what their counts measured; all that cannot be used are refused in one message."""
    faults = ErrorCollector(str(sheet))
    seen = []
    for row, section in zip(rows, sections, strict=True):
        measured = None
        try:
            measured = measure_row(row, recipe, genes=genes)
        except (DataError, MissingInputError) as error:
            faults.add(f"section {row.sample} cannot be used: {error.message}")
        seen.append(section.model_copy(update={"measured": measured}))
    faults.raise_if_any("correct or leave out these sections and run again")
    return tuple(seen)


def _planned(recipe: Recipe, needs: Needs, protocol: Protocol, fold: str) -> PlannedModel:
    return PlannedModel(
        id=model_name(recipe.label, protocol, fold),
        method=recipe.label,
        protocol=protocol,
        fold=fold,
        bundle=recipe.label if fold == ALL else "",
        device=needs.device,
        threads=needs.threads,
    )


def _find_files(rows: Sequence[TrainingRow], sheet: Path) -> tuple[PlannedSection, ...]:
    """The sections with the files of their slides; a slide that is not there is left to who brings it to a task."""
    faults = ErrorCollector(str(sheet))
    sections = []
    for row in rows:
        files: tuple[Path, ...] = ()
        name = f"slide of sample {row.sample}"
        try:
            if is_in_s3(row.slide):
                refuse_in_store(row.slide, name=name)
            else:
                files = slide_files(Path(row.slide), name=name) if Path(row.slide).is_file() else (Path(row.slide),)
        except DataError as error:
            faults.add(f"{name}: {error.found}", column="slide", expected=error.expected, advice=error.advice)
        sections.append(
            PlannedSection(
                **row.model_dump(include={"sample", "slide", "counts", "spots"}),
                files=tuple(map(str, files)),
                companions_version=companions_version(files) if files else None,
            )
        )
    faults.raise_if_any("correct the sheet and run again")
    return tuple(sections)


def _judge_options(recipe: Recipe, gene_text: Path | None) -> Needs:
    """Validate a method's options now rather than after the sections were encoded; what its training takes.

    Raises `ConfigError`: its options do not fit, or it reads gene descriptions and none are given.
    """
    where = f"recipe {recipe.name}, method {recipe.label}"
    if recipe.method in LINEAR:
        from histocast.networks.kernel_ridge import read_linear_options

        read_linear_options(recipe.method, recipe.options, where=where)
        return Needs()
    from histocast.training.registry import read_options, refuse_target

    options, config = read_options(recipe.method, recipe.options, where=where)
    refuse_target(recipe, options, where=where)
    reads = bool(getattr(config, "gene_text", False))
    if reads and gene_text is None:
        raise ConfigError(
            "no gene descriptions",
            expected="embedded genes",
            where=where,
            advice="give --gene-text (--gene_text of the pipeline), made by 'histocast genes embed', "
            f"or take {recipe.method}:no-gene-text",
        )
    return Needs(reads, True, options.encoder.trained, options.training.device, options.training.threads)


def refuse_unused(
    recipes: Sequence[Recipe],
    *,
    gene_text: Path | None,
    encoder_weights: Path | None,
    checkpoints: Path | None = None,
) -> None:
    """Raise `UsageError` where something is given that none of the methods uses; raises as `_judge_options` does too."""
    needs = [_judge_options(recipe, gene_text) for recipe in recipes]
    given = {
        "--gene-text": (gene_text, any(needed.gene_text for needed in needs), "that reads descriptions of genes"),
        "--encoder-weights": (encoder_weights, any(needed.pixels for needed in needs), "that trains its encoder"),
        "--checkpoints": (checkpoints, any(needed.epochs for needed in needs), "that is trained step by step"),
    }
    unused = {name: what for name, (value, used, what) in given.items() if value is not None and not used}
    if unused:
        raise UsageError(
            f"{', '.join(unused)} would change nothing for {', '.join(recipe.label for recipe in recipes)}",
            expected="; ".join(f"{name} with a method {what}" for name, what in unused.items()),
            advice="leave it out, or choose such a method (docs/methods.md)",
        )
