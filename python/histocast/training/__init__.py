"""Plan, prepare sections, train on folds, evaluate and export.

plan_models       a training sheet and methods -> every model to train
export_encoders   the encoders of a recipe as a bundle to tile and encode sections with
prepare_section   an encoded section and its counts -> <set>/<sample>/
train             one fold -> a model folder
evaluate          model folders -> figures beside controls
export_bundle     a model folder and its figures -> a bundle to deploy
"""

from __future__ import annotations

from histocast.training.compare import compare_expression
from histocast.training.evaluate import cross_validate, evaluate
from histocast.training.export import export_bundle, export_encoders
from histocast.training.recipe import Recipe, hold_out_genes, read_recipe
from histocast.training.section import SectionRecord, prepare_section
from histocast.training.sheet import TrainingRow, read_training_sheet
from histocast.training.summary import Evaluation
from histocast.training.train import TrainRecord, train

__all__ = [
    "Evaluation",
    "Recipe",
    "SectionRecord",
    "TrainRecord",
    "TrainingRow",
    "compare_expression",
    "cross_validate",
    "evaluate",
    "export_bundle",
    "export_encoders",
    "hold_out_genes",
    "prepare_section",
    "read_recipe",
    "read_training_sheet",
    "train",
]
