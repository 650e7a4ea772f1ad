"""What EXPORT writes: a trained model as a bundle to deploy."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from histocast.artifacts import write_atomically, write_json, write_text
from histocast.bundle import Bundle, EncoderSpec, FusionSpec, read_bundle, sha256_of_file
from histocast.errors import ConfigError, MissingInputError, UsageError
from histocast.evaluation.summary import Evaluation
from histocast.inference import verify_bundle
from histocast.progress import log
from histocast.records import read_record
from histocast.release.model_card import render_model_card
from histocast.training.train_fold import INTENDED_USE
from histocast.training.train_record import TRAIN_FILE, TrainRecord

EVALUATION_FILE = "evaluation.json"

Precision = Literal["fp32", "fp16"]


def export_bundle(
    model: Path,
    *,
    encoders: Path,
    outdir: Path,
    evaluation: Path | None = None,
    name: str | None = None,
    version: str = "1",
    description: str | None = None,
    precision: Precision = "fp32",
) -> Bundle:
    """Complete a trained model to a bundle: encoders, measured figures and a model card.

    Parameters are the fields of `histocast.stages.export.Export`.
    Raises `ConfigError`: an encoder is not the one the model was trained on, the bundle does not hold together, or the
    graph says something else in half precision; `UsageError`: the evaluation does not score this method and protocol.
    """
    record = read_record(model / TRAIN_FILE, TrainRecord)
    trained = read_bundle(model)
    fusion = _write_fusion(trained.fusion, model, outdir, precision)
    # A file that the model's folder holds is that of an encoder it trained itself.
    specs = tuple(_copy_encoder(spec, encoders if spec.file is None else model, outdir) for spec in trained.encoders)
    with write_atomically(outdir / "genes.parquet") as temporary:
        shutil.copyfile(model / "genes.parquet", temporary)
    changes: Mapping[str, object] = {
        "encoders": specs,
        "fusion": fusion,
        "version": version,
        "name": name or trained.name,
        "description": description or trained.description,
        "intended_use": INTENDED_USE,
        "metrics": _figures(evaluation, record) if evaluation else (),
    }
    bundle = Bundle.model_validate({**trained.model_dump(), **changes})
    write_text(outdir / "README.md", render_model_card(bundle, record))
    write_json(outdir / "bundle.json", bundle)
    verify_bundle(outdir)
    log(f"export {bundle.name} {bundle.version}: {bundle.gene_count} genes, {len(bundle.metrics)} figures")
    return bundle


def _write_fusion(fusion: FusionSpec, model: Path, outdir: Path, precision: Precision) -> FusionSpec:
    """Put the fusion graph into the bundle and return its contract."""
    file = "fusion.onnx"
    if precision == "fp32":
        with write_atomically(outdir / file) as temporary:
            shutil.copyfile(model / file, temporary)
        return fusion
    from histocast.release.half_precision import write_half_precision

    difference = write_half_precision(model / file, outdir / file)
    log(f"fusion graph in half precision: at most {difference:.1e} from single, relative to 1 + the value")
    return fusion.model_copy(update={"sha256": sha256_of_file(outdir / file), "precision": precision})


def _copy_encoder(spec: EncoderSpec, encoders: Path, outdir: Path) -> EncoderSpec:
    """Copy one encoder's file and return its contract with the file's place; its digest must be the trained one."""
    shipped = {encoder.name: encoder for encoder in read_bundle(encoders).encoders}
    found = shipped.get(spec.name)
    if found is None:
        raise MissingInputError(f"no encoder {spec.name!r}", expected="the encoders of the recipe", where=str(encoders))
    if found.file is None:
        return spec
    if (found.sha256, found.weights_sha256) != (spec.sha256, spec.weights_sha256):
        raise _other_encoder(spec, f"sha256 {found.sha256}", encoders)
    for file, expected in found.files().items():
        source = encoders / file
        digest = sha256_of_file(source) if source.is_file() else "absent"
        if digest != expected:
            raise _other_encoder(spec, f"{file} with sha256 {digest}", encoders)
        with write_atomically(outdir / file) as temporary:
            shutil.copyfile(source, temporary)
    return spec.model_copy(update={"file": found.file, "weights_file": found.weights_file})


def _other_encoder(spec: EncoderSpec, found: str, encoders: Path) -> ConfigError:
    return ConfigError(
        f"encoder {spec.name!r} has {found}",
        expected=f"{spec.sha256}, with which the sections were encoded",
        where=str(encoders),
        advice="give the folder of encoders that prepare used, or prepare and train again",
    )


def _figures(path: Path, record: TrainRecord) -> tuple[object, ...]:
    file = path / EVALUATION_FILE if path.is_dir() else path
    evaluation = read_record(file, Evaluation)
    metrics = evaluation.metrics(record.protocol, method=record.recipe.label)
    if not metrics or evaluation.recipe != record.recipe.name:
        raise UsageError(
            f"an evaluation of {evaluation.recipe} without figures for {record.recipe.label}, {record.protocol}",
            expected=f"folds of {record.recipe.name}, {record.recipe.label}, {record.protocol}",
            where=str(file),
            advice="evaluate the folds of this recipe, or export without figures",
        )
    return metrics
