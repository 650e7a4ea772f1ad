"""One method trained on one fold, written as a bundle whose encoders are named and not shipped, but one it trained."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from histocast import __version__
from histocast.artifacts import GENE_EMBEDDING, GENE_P90, GENES, write_json, write_table
from histocast.bundle import (
    Bundle,
    Calibration,
    EncoderSpec,
    GeneTextSpec,
    OutOfDistribution,
    sha256_of_file,
)
from histocast.fusion.selected_genes import near_distance
from histocast.networks.measured import over_measured
from histocast.progress import log
from histocast.sections.folds import Fold, model_name, split_sections
from histocast.sections.labels import SCALES
from histocast.sections.protocols import Protocol
from histocast.sections.section import Section
from histocast.software import TRAINING_LIBRARIES, software_versions
from histocast.training.calibration import conformal_half_widths, fit_out_of_distribution
from histocast.training.checkpoint import CHECKPOINTS
from histocast.training.fit import OUTPUTS, Fitted, Workspace, fit
from histocast.training.gene_text import GeneText
from histocast.training.licences import join_licences, licence_parts
from histocast.training.recipe import Recipe
from histocast.training.train_record import TOP_GENES, TRAIN_FILE, TopGenes, TrainRecord
from histocast.training.training_set import TrainingSet, open_training_set

INTENDED_USE = (
    "Research use only: an estimate of spatial gene expression from H&E morphology. "
    "Not a measurement, not a medical device, not for diagnosis or treatment decisions."
)


def train(
    set_folder: Path,
    *,
    recipe: Recipe,
    outdir: Path,
    fold: str | None = None,
    protocol: Protocol | None = None,
    gene_text: Path | None = None,
    checkpoints: Path | None = None,
) -> TrainRecord:
    """Train on every section outside ``fold`` and write the model folder ``outdir``.

    The folder holds bundle.json, fusion.onnx, genes.parquet and train.json: a bundle without its encoders'
    files, which EVALUATE scores and EXPORT completes.

    Parameters are the fields of `histocast.stages.train.Train`; besides:
    ``gene_text``: embedded genes, as ``histocast genes embed`` writes them, for a method that reads descriptions. Those
        outside the panel are put into the model too, marked as not seen in training.
    ``checkpoints``: folder in which a folder of the model's name holds what a training goes on from after a stop, until
        the model stands; in ``outdir`` by default. One that outlives ``outdir`` serves tasks that are run again
        elsewhere.
    Raises `UsageError`: there is no such fold; `DataError`: the sections do not fit together or the recipe.
    """
    with open_training_set(set_folder, recipe) as training:
        return train_fold(
            training,
            fold=fold,
            protocol=protocol or recipe.protocol,
            outdir=outdir,
            gene_text=gene_text,
            checkpoints=checkpoints,
        )


def train_fold(
    training: TrainingSet,
    *,
    fold: str | None,
    protocol: Protocol,
    outdir: Path,
    gene_text: Path | None = None,
    checkpoints: Path | None = None,
) -> TrainRecord:
    """`train` on a set that is open already."""
    recipe = training.recipe
    split = split_sections(training.records, by=recipe.folds)
    part = split.fold(fold)
    sections = training.choose(part.train)
    if recipe.missing_genes == "mask":
        training.panel.refuse_unmeasured(part.train, where=f"recipe {recipe.name}, fold {part.name}")
    kept = outdir / CHECKPOINTS
    if checkpoints is not None:
        kept = checkpoints / model_name(recipe.label, protocol, part.name)
    workspace = Workspace(metrics=outdir, checkpoints=kept)
    fitted = fit(training, sections, protocol=protocol, by=split.by, gene_text=gene_text, workspace=workspace)
    record = _write_model(training, sections, fitted, part, protocol, split.description, outdir)
    # Kept until the model stands, so that a kill while it is exported costs no training.
    shutil.rmtree(kept, ignore_errors=True)
    log(
        f"train {recipe.name} {recipe.label} {protocol}, fold {part.name}: {record.train_spots} spots, "
        f"held-out Pearson {record.heldout_pearson:.3f}"
    )
    return record


def _write_model(
    training: TrainingSet,
    sections: tuple[Section, ...],
    fitted: Fitted,
    fold: Fold,
    protocol: Protocol,
    split: str,
    outdir: Path,
) -> TrainRecord:
    from histocast.networks.correlation import mean_section_pearson
    from histocast.networks.onnx_file import check_against_torch, check_on_drawn_inputs, write_onnx

    outdir.mkdir(parents=True, exist_ok=True)
    graph = outdir / "fusion.onnx"
    axes = {name: "gene" if name == "gene" else "spot" for name in fitted.example}
    write_onnx(fitted.module, graph, inputs=fitted.example, outputs=OUTPUTS, axis=axes)
    difference = max(
        check_against_torch(fitted.module, graph, inputs=fitted.example, outputs=OUTPUTS),
        check_on_drawn_inputs(fitted.module, graph, outputs=OUTPUTS),
    )
    encoder, encoder_difference = fitted.encoder.write(outdir) if fitted.encoder else (None, 0.0)
    scored = fitted.scored
    pearson = mean_section_pearson(fitted.labels[scored], fitted.heldout_expression[scored], fitted.section[scored])
    _write_genes(outdir / "genes.parquet", training, fitted, pearson, patient=_number_patients(sections, fitted))
    record = TrainRecord(
        recipe=training.recipe.model_copy(update={"protocol": protocol}),
        protocol=protocol,
        fold=fold.name,
        split=split,
        train=fold.train,
        test=fold.test,
        train_patients=len({section.record.patient for section in sections}),
        train_spots=len(fitted.labels),
        test_spots=sum(len(section) for section in training.choose(fold.test)),
        inner_split=fitted.inner.description,
        choices=fitted.choices,
        heldout_pearson=float(np.nanmean(pearson)),
        onnx_difference=max(difference, encoder_difference),
        top=_top_genes(training.panel.gene_ids, fitted.labels, pearson),
        sections={section.record.sample: section.record.digests for section in sections},
        software=software_versions(*TRAINING_LIBRARIES),
    )
    bundle = _describe(training, sections, fitted, record, outdir=outdir, encoder=encoder)
    write_json(outdir / TRAIN_FILE, record)
    write_json(outdir / "bundle.json", bundle)
    return record


def _number_patients(sections: tuple[Section, ...], fitted: Fitted) -> NDArray[np.int64]:
    """Number of the patient of every training spot: [spot]."""
    _, number = np.unique([section.record.patient for section in sections], return_inverse=True)
    return np.asarray(number[fitted.section], np.int64)


def _write_genes(
    path: Path,
    training: TrainingSet,
    fitted: Fitted,
    pearson: NDArray[np.float64],
    *,
    patient: NDArray[np.int64],
) -> None:
    """The panel, then genes that are described and were not measured, whose figures nobody knows (NaN)."""
    panel, text = training.panel, fitted.gene_text
    others = 0 if text is None else len(text.other_ids)

    def column(values: NDArray[np.floating], *, missing: float | None = None) -> pa.Array:
        filled = np.concatenate([values.astype(np.float32), np.full(others, np.nan, np.float32)])
        return pa.array(filled, pa.float32(), from_pandas=missing is None)

    def width(coverage: float) -> pa.Array:
        heldout = (fitted.labels, fitted.heldout_expression, fitted.heldout_sd)
        known = (values[fitted.scored] for values in heldout)
        widths = conformal_half_widths(*known, coverage=coverage, patient=patient[fitted.scored])
        return column(widths, missing=np.nan)

    columns = {
        "gene_id": [*panel.gene_ids, *(() if text is None else text.other_ids)],
        "gene_symbol": [*panel.gene_symbols, *(() if text is None else text.other_symbols)],
        "seen_in_training": [True] * len(panel) + [False] * others,
        "val_pcc": column(pearson),
        "mean": column(over_measured(np.mean, fitted.labels), missing=np.nan),
        "interval_80": width(0.8),
        "interval_90": width(0.9),
    }
    columns[GENE_P90] = column(over_measured(partial(np.percentile, q=90), fitted.labels))
    extra = [pa.field(GENE_P90, pa.float32())]
    if text is not None:
        embedding = np.concatenate([text.panel, text.others])
        columns[GENE_EMBEDDING] = pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), text.dim)
        extra.append(pa.field(GENE_EMBEDDING, columns[GENE_EMBEDDING].type))
    table = pa.table(columns, schema=GENES.arrow(*extra))
    write_table(path, table, GENES.provenance("bundle"))


def _top_genes(genes: tuple[str, ...], labels: NDArray[np.float32], pearson: NDArray[np.float64]) -> TopGenes:
    def best(values: NDArray[np.floating]) -> tuple[str, ...]:
        order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")[:TOP_GENES]
        return tuple(genes[gene] for gene in order)

    mean, variance = over_measured(np.mean, labels), over_measured(np.var, labels)
    return TopGenes(predicted=best(pearson), expressed=best(mean), variable=best(variance))


def _describe(
    training: TrainingSet,
    sections: tuple[Section, ...],
    fitted: Fitted,
    record: TrainRecord,
    *,
    outdir: Path,
    encoder: EncoderSpec | None,
) -> Bundle:
    recipe = training.recipe
    shared = training.records[0]
    encoders = (
        *(each.model_copy(update={"file": None}) for each in training.encoders),
        *(() if encoder is None else (encoder,)),
    )
    graph = {"file": "fusion.onnx", "sha256": sha256_of_file(outdir / "fusion.onnx")}
    licences = licence_parts(encoders, data_licence=recipe.data_licence, text=fitted.learned_text)
    return Bundle(
        name=f"{recipe.name}-{recipe.method}",
        version="0",
        created_by=__version__,
        description=recipe.description or f"{recipe.method} on {recipe.name}",
        intended_use=INTENDED_USE,
        licence=join_licences(licences),
        geometry=shared.geometry,
        encoders=encoders,
        fusion=fitted.fusion.model_copy(update=graph),
        genes_sha256=sha256_of_file(outdir / "genes.parquet"),
        gene_count=len(training.panel) + (0 if fitted.gene_text is None else len(fitted.gene_text.other_ids)),
        gene_text=_describe_text(fitted.gene_text),
        scale=SCALES[record.protocol],
        calibration=Calibration(
            method=f"split conformal on held-out training spots ({record.inner_split})",
            sections=len(sections),
            patients=record.train_patients,
        ),
        ood=_out_of_distribution(sections, fitted, column=recipe.features[0]),
        training_data={
            "recipe": recipe.name,
            "samples": list(record.train),
            "patients": record.train_patients,
            "spots": record.train_spots,
            "held_out": list(record.test),
            "source": recipe.data_source,
            "licence": recipe.data_licence,
            "licences": licences,
        },
    )


def _describe_text(text: GeneText | None) -> GeneTextSpec | None:
    if text is None:
        return None
    return GeneTextSpec(
        encoder=text.encoder, encoder_revision=text.encoder_revision, near_distance=near_distance(text.panel)
    )


def _out_of_distribution(sections: tuple[Section, ...], fitted: Fitted, *, column: str) -> OutOfDistribution:
    features = np.concatenate([section.store.columns[column][section.measured] for section in sections])
    return fit_out_of_distribution(features, fitted.inner.group, column=column)
