"""The README of a bundle: what it is, what it was trained on, how good it is, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Iterator

from histocast.bundle import Bundle, GeneTextSpec, Metric
from histocast.evaluation.summary import MODEL
from histocast.expression.scope import describe_scope
from histocast.training.calibration import OOD_QUANTILE
from histocast.training.train_record import TrainRecord

SHOWN = (
    "pearson", "ceiling", "ceiling_share", "pearson_partial", "pearson_median", "pearson_share_above_0.2", "pearson_hpg50", "pearson_heg50", "pearson_hvg50",
    "spearman", "mse", "mae", "rvd", "ssim", "coverage_80", "coverage_90", "crop_slope",
    "slide_means_pearson", "slide_means_slope",
)  # fmt: skip


def render_model_card(bundle: Bundle, record: TrainRecord) -> str:
    """Markdown; every figure comes with split, genes, normalisation, smoothing and averaging."""
    return (
        "\n".join([*_head(bundle), *_scope(bundle), *_training(bundle, record), *_figures(bundle), *_files(bundle)])
        + "\n"
    )


def _head(bundle: Bundle) -> Iterator[str]:
    scale, geometry = bundle.scale, bundle.geometry
    yield from (f"# {bundle.name} {bundle.version}", "", bundle.description, "")
    yield from (f"**Intended use.** {bundle.intended_use}", "")
    yield (
        f"Predicts {bundle.gene_count} genes from tiles of {geometry.tile_px} px at {geometry.um_per_px:g} um/px, "
        f"by `{bundle.fusion.method}`. A predicted number is {scale.description} ({scale.normalisation}; "
        f"smoothing: {scale.smoothing}). {_other_genes(bundle)}"
    )
    yield ""


def _scope(bundle: Bundle) -> Iterator[str]:
    scope = describe_scope(bundle)
    yield from ("## For what it holds", "")
    yield f"- **Values** are {scope['slides']}."
    yield f"- **Intervals** (`lower`, `upper`) are {scope['intervals']}."
    yield f"- **`val_pcc`** of a gene: {scope['val_pcc']}."
    yield ""


def _other_genes(bundle: Bundle) -> str:
    if all(tensor.name != "gene" for tensor in bundle.fusion.inputs):
        return "Other genes are refused."
    return (
        "Genes come in by their descriptions: genes.parquet marks those whose measured values did not train the "
        "model (`seen_in_training`), for which no interval and no held-out figure is known. "
        + _other_descriptions(bundle.gene_text)
    )


def _other_descriptions(text: GeneTextSpec | None) -> str:
    if text is None or text.encoder is None:
        return "Genes it does not describe are refused."
    return (
        f"Other genes are taken with descriptions embedded by `{text.encoder}`, revision `{text.encoder_revision}`. "
        f"A gene that was not measured is `similar_text` where its description is within {text.near_distance:.3g} "
        "(1 - cosine) of a measured one's, else `dissimilar_text`."
    )


def _training(bundle: Bundle, record: TrainRecord) -> Iterator[str]:
    data = bundle.training_data
    yield from ("## Training data", "")
    yield (
        f"{len(record.train)} sections of {record.train_patients} patient{'s' if record.train_patients != 1 else ''}, "
        f"{record.train_spots} spots: {', '.join(record.train)}."
        + (f" Held out: {', '.join(record.test)}." if record.test else "")
    )
    yield from (
        f"{label}: {data[key]}" for key, label in (("source", "Source"), ("licence", "Licence")) if data.get(key)
    )
    yield ""
    if bundle.fusion.precision == "fp16":
        from histocast.release.half_precision import TOLERANCE

        yield f"The fusion graph computes in half precision, within {TOLERANCE:g} of single, relative to 1 + the value. "
    yield (
        f"Choices were made on held-out training spots ({record.inner_split}): {', '.join(_choices(record))}. "
        f"A tile is flagged as unlike the training tiles (`ood_flag`) above an `ood_score` of "
        f"{bundle.ood.threshold:.3g}, the {100 * OOD_QUANTILE:.0f}th percentile of held-out training tiles in `{bundle.ood.column}`."
    )
    yield ""


def _choices(record: TrainRecord) -> Iterator[str]:
    """What was chosen, as far as it is a number or some."""
    for name, value in record.choices.items():
        values = value if isinstance(value, list) else [value]
        if values and all(isinstance(one, int | float) for one in values):
            yield f"{name} {'/'.join(f'{one:.6g}' for one in values)}"


def _figures(bundle: Bundle) -> Iterator[str]:
    yield from ("## Measured", "")
    if not bundle.metrics:
        yield from ("No figures: the folds were not evaluated.", "")
        return
    first = bundle.metrics[0]
    yield (
        f"Split: {first.split}. Normalisation: {first.normalisation}. Smoothing: {first.smoothing}. "
        f"Averaging: {first.averaging}. Genes: as stated in each row."
    )
    subjects = list(dict.fromkeys(metric.subject for metric in bundle.metrics))
    values = {(metric.name, metric.subject): metric.value for metric in bundle.metrics}
    genes: dict[str, Metric] = {metric.name: metric for metric in bundle.metrics}
    yield from ("", f"| figure | genes | {' | '.join(subjects)} |", f"|---|---|{'---|' * len(subjects)}")
    for name in (name for name in SHOWN if (name, MODEL) in values):
        cells = [f"{values[name, subject]:.3f}" if (name, subject) in values else "" for subject in subjects]
        yield f"| {name} | {genes[name].genes} | {' | '.join(cells)} |"
    yield ""


def _files(bundle: Bundle) -> Iterator[str]:
    yield from ("## Files and licences", "", f"The bundle: {bundle.licence}.", "")
    if parts := bundle.training_data.get("licences"):
        yield "What it is made of; who uses it or passes it on has to keep the terms of each:"
        yield from ("", "| part | licence |", "|---|---|")
        yield from (f"| {part} | {licence} |" for part, licence in parts.items())
        yield ""
    yield from ("| graph | licence | sha256 |", "|---|---|---|")
    for encoder in bundle.encoders:
        yield f"| {encoder.file or encoder.name + ' (not shipped)'} | {encoder.licence} | `{encoder.sha256}` |"
    yield f"| {bundle.fusion.file} | {bundle.licence} | `{bundle.fusion.sha256}` |"
    for encoder in bundle.encoders:
        if encoder.source:
            yield ""
            yield f"The weights of `{encoder.name}` are from {encoder.source} ({encoder.licence})." + (
                " Access to them is granted person by person: do not pass this bundle on to those who have none."
                if encoder.gated
                else ""
            )
