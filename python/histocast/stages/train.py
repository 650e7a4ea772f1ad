"""TRAIN: one method on one fold, written as a bundle whose encoders are named and not shipped, but one it trained."""

from __future__ import annotations

from pathlib import Path

from histocast.sections.labels import Protocol
from histocast.training.recipe import Recipe
from histocast.training.train_fold import TrainRecord, train_fold
from histocast.training.training_set import open_training_set


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
    files, which `evaluate` judges and `export_bundle` completes.

    Parameters
    ----------
    set_folder:
        Folder of prepared sections.
    fold:
        The patient or section to hold out; ``None`` or ``all`` trains on everything.
    protocol:
        Labels, in place of the recipe's.
    gene_text:
        Embedded genes, as ``histocast genes embed`` writes them, for a method that reads descriptions. Those
        outside the panel are put into the model too, marked as not seen in training.
    checkpoints:
        Folder in which a folder of the model's name holds what a training goes on from after a stop, until the model
        stands; in ``outdir`` by default. One that outlives ``outdir`` serves tasks that are run again elsewhere.

    Raises
    ------
    UsageError
        There is no such fold.
    DataError
        The sections do not fit together or the recipe.
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
