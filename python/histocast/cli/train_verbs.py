"""Verbs of the train workflow: plan prepare train evaluate export lineage export-encoder training-sheet."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from histocast.cli import options

RecipeName = Annotated[str, typer.Option("--recipe", help="A recipe's JSON file, or the name of a shipped one.")]
Panel = Annotated[Path | None, typer.Option(help="File with a gene a line, in place of the recipe's panel.")]
GeneText = Annotated[
    Path | None,
    typer.Option(help="Embedded genes of 'genes embed', for methods that read descriptions.", show_default=False),
]
UnseenGenes = Annotated[
    Path | None,
    typer.Option(
        help="File with a gene a line: left out of training, predicted from their descriptions, and judged apart.",
        show_default=False,
    ),
]
Option = Annotated[
    list[str] | None,
    typer.Option("--option", help="An option of the method, such as model.contrastive=false; give it often."),
]
GeneTable = Annotated[Path | None, typer.Option(help="Table gene_id,gene_symbol for counts that hold symbols only.")]
Sheet = Annotated[Path, typer.Option("--input", help="Training sheet: sample,slide,counts,patient[,spots][,mpp].")]
Method = Annotated[
    str | None, typer.Option(help="In place of the recipe's method; 'dkan:no-gene-text' is one with an idea switched.")
]
EncoderWeights = Annotated[
    Path | None,
    typer.Option(help="Weights that a trained target encoder starts from.", show_default=False),
]
SetFolder = Annotated[Path, typer.Option("--set", help="Folder of prepared sections.")]


class Precision(StrEnum):
    """What a graph computes in."""

    fp32 = "fp32"
    fp16 = "fp16"


class Layout(StrEnum):
    """Published data sets (docs/training.md)."""

    her2st = "her2st"
    cscc = "cscc"
    stnet = "stnet"
    hest1k = "hest1k"
    visium = "visium"


class ProtocolName(StrEnum):
    """How labels are made (docs/evaluation.md)."""

    strict = "strict"
    paper = "paper"
    residual = "residual"


Protocol = Annotated[ProtocolName | None, typer.Option(help="How labels are made, in place of the recipe's.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (plan, prepare, train, evaluate, export, lineage):
        app.command()(verb)
    app.command("export-encoder")(export_encoder)
    app.command("training-sheet")(training_sheet)


def plan(
    *,
    sheet: Sheet,
    recipe: RecipeName,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method or variant in place of the recipe's method; give it often.", show_default=False),
    ] = None,
    panel: Panel = None,
    gene_text: GeneText = None,
    unseen_genes: UnseenGenes = None,
    genes: GeneTable = None,
    outdir: options.Outdir = Path(),
) -> None:
    """Check a training sheet and list the models to train.

    Writes <outdir>/plan.json.
    """
    from histocast.artifacts import write_json
    from histocast.stages.plan import PLAN_FILE, plan_models

    planned = plan_models(
        sheet,
        recipe=recipe,
        methods=method or (),
        panel=panel,
        gene_text=gene_text,
        unseen_genes=unseen_genes,
        genes=genes,
    )
    outdir.mkdir(parents=True, exist_ok=True)
    write_json(outdir / PLAN_FILE, planned)


def prepare(
    *,
    sheet: Sheet,
    recipe: RecipeName,
    panel: Panel = None,
    sample: Annotated[list[str] | None, typer.Option(help="A row to prepare; all without it. Give it often.")] = None,
    genes: GeneTable = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="An encoder in place of the recipe's; give it often.", show_default=False)
    ] = None,
    exported: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of 'export-encoder', besides those of the recipe. Give it often."),
    ] = None,
    keep_pixels: Annotated[
        bool, typer.Option("--keep-pixels", help="Keep the tiles' pixels, for a method that trains its encoder.")
    ] = False,
    outdir: options.Outdir = Path(),
) -> None:
    """Tile and encode sections, and align their counts.

    Writes <outdir>/<sample>/.
    """
    from histocast.stages.prepare import prepare as run_prepare
    from histocast.training.recipe import read_recipe

    run_prepare(
        sheet,
        recipe=read_recipe(recipe, panel=panel, exported=exported or ()),
        outdir=outdir,
        samples=sample,
        genes=genes,
        encoder_names=encoder,
        keep_pixels=keep_pixels,
    )


def train(
    *,
    set_folder: SetFolder,
    recipe: RecipeName,
    method: Method = None,
    panel: Panel = None,
    protocol: Protocol = None,
    fold: Annotated[str | None, typer.Option(help="Patient or section to hold out; all is trained on without.")] = None,
    gene_text: GeneText = None,
    unseen_genes: UnseenGenes = None,
    encoder_weights: EncoderWeights = None,
    option: Option = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            envvar="HISTOCAST_CHECKPOINTS",
            help="Folder for what a stopped training goes on from; in outdir without it.",
            show_default=False,
        ),
    ] = None,
    outdir: options.Outdir = Path(),
) -> None:
    """Train one method on one fold: a model folder.

    A training that was stopped continues from its last checkpoint.
    """
    from histocast.stages.train import train as train_fold
    from histocast.training.recipe import read_recipe

    chosen = read_recipe(
        recipe,
        panel=panel,
        method=method,
        options=option or (),
        encoder_weights=encoder_weights,
        unseen_genes=unseen_genes,
    )
    train_fold(
        set_folder,
        recipe=chosen,
        fold=fold,
        protocol=protocol.value if protocol else None,
        outdir=outdir,
        gene_text=gene_text,
        checkpoints=checkpoints,
    )


def evaluate(
    *,
    set_folder: SetFolder,
    model: Annotated[list[Path] | None, typer.Option(help="A model folder of 'train'; give it often.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Train and judge every fold of this recipe under every protocol instead.")
    ] = None,
    method: Method = None,
    panel: Panel = None,
    gene_text: GeneText = None,
    unseen_genes: UnseenGenes = None,
    encoder_weights: EncoderWeights = None,
    option: Option = None,
    threads: options.Threads = None,
    outdir: options.Outdir = Path(),
) -> None:
    """Score models on held-out sections, next to controls.

    Writes evaluation.json and evaluation.md.
    """
    from histocast.errors import UsageError
    from histocast.resources import available_threads
    from histocast.stages.evaluate import cross_validate
    from histocast.stages.evaluate import evaluate as score_models
    from histocast.training.recipe import read_recipe

    if (model is None) == (recipe is None):
        raise UsageError("both or none of --model and --recipe", expected="one of them")
    threads = threads or available_threads()
    if recipe is not None:
        chosen = read_recipe(
            recipe,
            panel=panel,
            method=method,
            options=option or (),
            encoder_weights=encoder_weights,
            unseen_genes=unseen_genes,
        )
        cross_validate(set_folder, recipe=chosen, outdir=outdir, threads=threads, gene_text=gene_text)
    elif model:
        score_models(set_folder, models=model, outdir=outdir, threads=threads)


def export(
    *,
    model: Annotated[Path, typer.Option(help="A model folder of 'train', usually trained on every section.")],
    encoders: Annotated[Path, typer.Option(help="The folder 'encoders' of the prepared set.")],
    evaluation: Annotated[Path | None, typer.Option(help="Folder of 'evaluate', whose figures go in.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the bundle; the recipe's without it.")] = None,
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1",
    description: Annotated[str | None, typer.Option(help="One sentence about the bundle.")] = None,
    precision: Annotated[
        Precision, typer.Option(help="What the fusion graph computes in; fp16 departs from fp32 by up to 5e-3.")
    ] = Precision.fp32,
    outdir: options.Outdir,
) -> None:
    """Complete a trained model to a bundle.

    Adds the encoders, the measured figures and a model card.
    """
    from histocast.stages.export import export_bundle

    export_bundle(
        model,
        encoders=encoders,
        evaluation=evaluation,
        name=name,
        version=version,
        description=description,
        precision=precision.value,
        outdir=outdir,
    )


def lineage(
    *,
    run: Annotated[Path, typer.Option(help="run.json: what the workflow engine knows of the run.")],
    parts: Annotated[
        Path, typer.Option(help="Folder with the section.json, train.json and bundle.json of the run, at any depth.")
    ],
    evaluation: Annotated[Path, typer.Option(help="Folder of 'evaluate'.")],
    recipe: RecipeName,
    panel: Panel = None,
    gene_text: GeneText = None,
    unseen_genes: UnseenGenes = None,
    outdir: options.Outdir = Path(),
) -> None:
    """Describe a training run as an RO-Crate.

    Writes provenance.json.
    """
    from histocast.stages.lineage import GivenFiles, write_lineage

    given = GivenFiles(recipe=recipe, panel=panel, gene_text=gene_text, unseen_genes=unseen_genes)
    write_lineage(run, parts=parts, evaluation=evaluation, given=given, outdir=outdir)


def export_encoder(
    *,
    name: Annotated[str, typer.Option(help="The encoder: uni, uni2-h, conch, virchow2 ... (docs/training.md).")],
    weights: Annotated[Path, typer.Option(help="Its weights as published: .safetensors, .bin, .pt or .pth.")],
    tile_px: Annotated[
        int | None, typer.Option(min=1, help="Side of the tiles it will get; the network's own without it.")
    ] = None,
    um_per_px: Annotated[
        float | None, typer.Option(help="Their resolution; the one it is published for without.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=0, help="Tokens a side to give besides the embedding; 0 for none.")] = 0,
    precision: Annotated[Precision, typer.Option(help="fp16 is half as large, and made for GPUs.")] = Precision.fp32,
    outdir: options.Outdir,
) -> None:
    """Export a foundation encoder with your own weights.

    Writes encoders/ (ONNX, compared with torch) and encoder.json.
    """
    from histocast.encoders.encoder_cards import find_card
    from histocast.units import check_um_per_px

    card = find_card(name)
    if um_per_px is not None:
        check_um_per_px(um_per_px, where="--um-per-px")
    from histocast.encoders.foundation_export import export_foundation

    export_foundation(
        card,
        weights=weights,
        outdir=outdir,
        tile_px=tile_px,
        um_per_px=um_per_px,
        tokens_side=tokens,
        precision=precision.value,
    )


def training_sheet(
    *,
    layout: Annotated[Layout, typer.Option(help="Data set whose published layout the folder has.")],
    folder: Annotated[Path, typer.Option(help="The data set as downloaded.")],
    sample: Annotated[list[str] | None, typer.Option(help="A section to take; all without it. Give it often.")] = None,
    beside: Annotated[
        list[Layout] | None, typer.Option(help="A data set used together with it, whose patients are left out.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="Table sample,patient, where the data set does not say.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="column=value of the data set's own table (hest1k); give it often.")
    ] = None,
    metadata: Annotated[Path | None, typer.Option(help="The data set's own table, where it lies elsewhere.")] = None,
    slides: Annotated[Path | None, typer.Option(help="Folder of slides <sample>.* (visium).")] = None,
    pitch_um: Annotated[float | None, typer.Option(help="Distance between spots, over the data set's own.")] = None,
    outdir: options.Outdir = Path(),
) -> None:
    """Make the training sheet of a published data set.

    Writes <outdir>/training.csv.
    """
    from histocast.sections.layouts import SheetOptions, make_training_sheet
    from histocast.sections.layouts.choices import read_choices, read_patients

    chosen = SheetOptions(
        samples=tuple(sample or ()),
        patients=read_patients(patients) if patients else {},
        where=read_choices(where or ()),
        metadata=metadata,
        slides=slides,
        pitch_um=pitch_um,
    )
    make_training_sheet(
        folder, layout=layout.value, outdir=outdir, options=chosen, beside=[name.value for name in beside or ()]
    )
