"""What EVALUATE does: score trained models on the sections they did not see, next to controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from histocast.artifacts import write_json, write_text
from histocast.bundle import Bundle, EncoderSpec, read_bundle
from histocast.errors import UsageError
from histocast.evaluation.controls import FoldDesign
from histocast.evaluation.evaluation_page import write_evaluation_page
from histocast.evaluation.score_models import HeldOut, ModelScorer, TrainedModel
from histocast.evaluation.scores import Scores
from histocast.evaluation.summary import Evaluation, summarise
from histocast.evaluation.tables import render_markdown
from histocast.fusion.fusion_inputs import regions_of_slide
from histocast.fusion.panel import gene_inputs
from histocast.inference.predictor import Predictor
from histocast.progress import log, track
from histocast.records import read_record
from histocast.resources import scratch_folder
from histocast.sections.folds import model_name, split_sections
from histocast.sections.protocols import Protocol
from histocast.sections.section import Section
from histocast.training.recipe import Recipe
from histocast.training.section_genes import describe_sections
from histocast.training.train_fold import train_fold
from histocast.training.train_record import TRAIN_FILE, TrainRecord
from histocast.training.training_set import TrainingSet, open_training_set

Floats = NDArray[np.float64]


def evaluate(set_folder: Path, *, models: Sequence[Path], outdir: Path, threads: int = 1) -> Evaluation:
    """Score model folders of `train` on their held-out sections.

    Writes evaluation.json, evaluation.md, evaluation.html, sections.parquet (one row per section, subject and metric)
    and genes.parquet (one row per gene of a section).

    ``models``: folders of any methods, protocols and folds of this training set.
    Raises `UsageError`: a model saw every section; `DataError`: the sections do not fit a model's recipe.
    """
    found = [
        TrainedModel(folder, read_record(folder / TRAIN_FILE, TrainRecord), read_bundle(folder)) for folder in models
    ]
    _refuse_unfit(found)
    scores = Scores()
    with _Sets(set_folder) as sets:
        for model in track(found, label="evaluate", total=len(found), unit="models"):
            scores.add(_score(sets, model, threads=threads))
        measured = describe_sections(sets.open(found[0].record.recipe))
    evaluation = summarise(scores, [model.record for model in found], measured=measured)
    outdir.mkdir(parents=True, exist_ok=True)
    scores.write(outdir)
    write_text(outdir / "evaluation.md", render_markdown(evaluation))
    write_evaluation_page(outdir / "evaluation.html", evaluation, scores)
    write_json(outdir / "evaluation.json", evaluation)
    return evaluation


def cross_validate(
    set_folder: Path,
    *,
    recipe: Recipe,
    outdir: Path,
    threads: int = 1,
    gene_text: Path | None = None,
) -> Evaluation:
    """Train every fold under every protocol of the recipe into ``outdir/models`` and evaluate them (see `train`)."""
    models = []
    with open_training_set(set_folder, recipe) as training:
        split = split_sections(training.records, by=recipe.folds)
        log(f"cross-validate {recipe.name}: {split.description}, {len(split.folds)} folds")
        for protocol in recipe.scored_protocols:
            for fold in split.folds:
                models.append(outdir / "models" / model_name(recipe.label, protocol, fold.name))
                train_fold(training, fold=fold.name, protocol=protocol, outdir=models[-1], gene_text=gene_text)
    return evaluate(set_folder, models=models, outdir=outdir, threads=threads)


def predict_section(
    training: TrainingSet, section: Section, *, bundle: Bundle, genes: pa.Table, predictor: Predictor
) -> tuple[Floats, Floats]:
    """Expression and sd of the measured spots, both [measured, gene], region by region as PREDICT does.

    ``genes``: the genes to predict, rows of the model's genes.parquet.
    """
    store = section.store
    gather = training.gather(section, bundle.fusion, fixed=gene_inputs(bundle.fusion, genes))
    expression = np.full((len(store), genes.num_rows), np.nan)
    sd = np.full_like(expression, np.nan)
    for region in regions_of_slide(store, bundle.fusion, pitch_level0_px=section.record.pitch_level0_px):
        outputs = predictor.infer("fusion", gather(region.spots))
        expression[region.core] = outputs["expression"][: region.core_count]
        sd[region.core] = outputs["sd"][: region.core_count]
    return expression[section.measured], sd[section.measured]


@contextmanager
def encoded_section(section: Section, trained: EncoderSpec | None, predictor: Predictor) -> Iterator[Section]:
    """Yield the section with what a model's own encoder makes of its tiles, if it has one."""
    if trained is None:
        yield section
        return
    from histocast.training.trained_encoder import TOKENS, with_tokens

    def encode(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predictor.infer(trained.name, {"tiles": tiles})[TOKENS]

    shape = tuple(int(size) for size in trained.outputs[0].shape[1:])
    with scratch_folder() as folder:
        yield with_tokens(section, encode, shape=shape, folder=folder)


def _refuse_unfit(models: Sequence[TrainedModel]) -> None:
    if not models:
        raise UsageError("no model", expected="folders of trained folds")
    for model in models:
        if not model.record.test:
            raise UsageError(
                "a model that saw every section",
                expected="models of folds",
                where=str(model.folder),
                advice="train with --fold, and export the model of all sections afterwards",
            )
    seen: dict[tuple[str, ...], Path] = {}
    for model in models:
        key = (model.record.recipe.label, model.record.protocol, model.record.fold)
        if seen.setdefault(key, model.folder) != model.folder:
            raise UsageError(
                f"two models of {' '.join(key)}", expected="one a method, protocol and fold", where=str(model.folder)
            )
    names = {model.record.recipe.name for model in models}
    if len(names) > 1:
        raise UsageError(
            f"models of the recipes {', '.join(sorted(names))}",
            expected="models of one recipe, whose figures can stand in one table",
            advice="evaluate each recipe into a folder of its own",
        )


class _Sets:
    """Prepared sections and the folds of them, each made once for all the methods that are scored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._opened: dict[str, TrainingSet] = {}
        self._folds: dict[tuple[str, str], FoldDesign] = {}
        self._held: dict[tuple[str, str, Protocol], HeldOut] = {}

    def __enter__(self) -> _Sets:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self, recipe: Recipe) -> TrainingSet:
        """The sections with the recipe's features and panel."""
        shared = recipe.without_method()
        key = shared.model_dump_json()
        if key not in self._opened:
            self._opened[key] = self._stack.enter_context(open_training_set(self._folder, shared))
        return self._opened[key]

    def hold_out(self, record: TrainRecord) -> HeldOut:
        """The fold that a model left out."""
        training, fold = self.open(record.recipe), (record.recipe.without_method().model_dump_json(), record.fold)
        if fold not in self._folds:
            by = split_sections(training.records, by=record.recipe.folds).by
            self._folds[fold] = FoldDesign.of(training, record.train, record.test, by=by)
        key = (*fold, record.protocol)
        if key not in self._held:
            self._held[key] = HeldOut(training, self._folds[fold], record.protocol)
        return self._held[key]


def _score(sets: _Sets, model: TrainedModel, *, threads: int) -> Scores:
    from histocast.inference import open_predictor

    held = sets.hold_out(model.record)
    scorer = ModelScorer(model, held)
    # Encoders it did not train are not in its folder: their features stand in the prepared sections.
    trained = next((encoder for encoder in model.bundle.encoders if encoder.file is not None), None)
    names = ("fusion",) if trained is None else ("fusion", trained.name)
    with open_predictor(model.folder, model.bundle, names=names, threads=threads) as predictor:

        def predict(section: Section) -> tuple[Floats, Floats]:
            return predict_section(held.training, section, bundle=model.bundle, genes=scorer.asked, predictor=predictor)

        for section in held.sections:
            with encoded_section(section, trained, predictor) as seen:
                expression, sd = predict(seen)
                scorer.score_model(seen, expression, sd, predict=lambda window: predict(window)[0])
    scorer.score_controls()
    return scorer.scores
