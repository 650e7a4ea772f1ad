"""An evaluation as tables: one row per model or control, with the protocol in words above each."""

from __future__ import annotations

from collections.abc import Sequence

from histocast.evaluation.between_slides import FEW_SECTIONS
from histocast.evaluation.figures import Figure, natural_key
from histocast.evaluation.summary import MODEL, TABLE_METRICS, Evaluation, SubjectSummary, order_summaries
from histocast.evaluation.zero_shot import UNSEEN, UNSEEN_PROTOCOL
from histocast.sections.labels import SCALES
from histocast.sections.protocols import Protocol
from histocast.training.section_genes import SectionGenes

SHOWN_GENES = 5
"""Absent genes that a table names of a section; evaluation.json has all."""

SHOWN = 5e-4
"""Tables have three digits."""


def describe_protocol(evaluation: Evaluation, protocol: Protocol) -> str:
    """The facts without which a figure means nothing, in a paragraph."""
    scale = SCALES[protocol]
    return (
        f"Split: {evaluation.split}. Genes: the {evaluation.genes} of the panel {evaluation.recipe}. "
        f"Normalisation: {scale.normalisation}; {scale.transform}. Smoothing: {scale.smoothing}. "
        f"Averaging: within a section, mean over genes, mean over {evaluation.sections} sections. "
        f"In brackets: 95 % bootstrap interval over {evaluation.resampled}. {_describe_between(evaluation, protocol)}"
    )


def _describe_between(evaluation: Evaluation, protocol: Protocol) -> str:
    """What the figures between slides are of."""
    crop = "Crop slope: contrast between two windows of a section, each predicted as a slide, over that within it."
    if SCALES[protocol].relative_to_section:
        return f"{crop} Slide means: none, values are relative to their section."
    how = "genes taken together" if evaluation.sections < FEW_SECTIONS else "mean over genes"
    caveat = ", all of one patient, which differ little" if evaluation.patients == 1 else ""
    return f"{crop} Slide means: of {evaluation.sections} held-out sections{caveat}, from the training mean, {how}."


def render_markdown(evaluation: Evaluation) -> str:
    """The evaluation as tables, one a protocol, with the protocol in words above each."""
    lines = []
    for protocol in dict.fromkeys(summary.protocol for summary in evaluation.summaries):
        lines += [f"### Protocol `{protocol}`", "", describe_protocol(evaluation, protocol), ""]
        lines += [*_table([summary for summary in evaluation.summaries if summary.protocol == protocol]), ""]
    if evaluation.measured:
        lines += [
            "### Genes and spots by section",
            "",
            describe_measured(evaluation),
            "",
            *_measured_table(evaluation),
            "",
        ]
    if evaluation.unseen:
        lines += ["### Genes never measured", "", describe_unseen(evaluation), "", *_unseen_table(evaluation), ""]
    return "\n".join(lines)


def name_subjects(summaries: Sequence[SubjectSummary]) -> dict[str, SubjectSummary]:
    """Models, then controls, each best first, by the name a table gives them.

    A control that is alike beside all methods stands once; where methods differ in it, it says whose it is.
    """
    ordered = order_summaries(summaries)
    named = {summary.method: summary for summary in ordered if summary.subject == MODEL}
    methods = len(named)
    for group in _group_alike([summary for summary in ordered if summary.subject != MODEL]):
        first = group[0]
        method = named.get(first.subject.replace(" ", "-"))
        if method is None:
            whose = "" if len(group) == methods else f" ({', '.join(each.method for each in group)})"
            named[f"{first.subject}{whose}"] = first
        elif not _alike(method, first):
            # Ridge as a control is mostly ridge as a method, and then stands once.
            named[f"{first.subject} beside {', '.join(each.method for each in group)}"] = first
    return named


def _group_alike(controls: Sequence[SubjectSummary]) -> list[list[SubjectSummary]]:
    groups: list[list[SubjectSummary]] = []
    for control in controls:
        same = (group for group in groups if group[0].subject == control.subject and _alike(group[0], control))
        if (group := next(same, None)) is not None:
            group.append(control)
        else:
            groups.append([control])
    return groups


def _alike(one: SubjectSummary, other: SubjectSummary) -> bool:
    """Whether two subjects are the same to what a table shows.

    Figures over a model's own list of best genes differ all the same, and so do the last digits of ridge as a control
    and ridge as an exported graph.
    """
    first, second = one.figure("pearson"), other.figure("pearson")
    if first is None or second is None or first.by_sample.keys() != second.by_sample.keys():
        return False
    pairs = [(first.by_sample[sample], second.by_sample[sample]) for sample in first.by_sample]
    return all(a == b or (a is not None and b is not None and abs(a - b) < SHOWN) for a, b in pairs)


MEASURED_COLUMNS = (
    "panel genes found", "absent", "under another name", "resolved by alias", "spots matched", "counted without a tile",
    "tiles without counts", "names left out",
)  # fmt: skip


def describe_measured(evaluation: Evaluation) -> str:
    """What the table of sections is of, in a paragraph."""
    tables = sorted({section.tables for section in evaluation.measured if section.tables})
    names = f" Gene names: {', '.join(tables)}." if tables else ""
    return (
        f"Of the {evaluation.genes} genes of the panel, what every section measured. A gene that is absent from a section "
        f"takes part in no loss and no figure of that section, unless the recipe's missing_genes is 'zero'.{names}"
    )


def measured_rows(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    """Cells of `MEASURED_COLUMNS` by section."""
    return [(section.sample, _measured_cells(section)) for section in evaluation.measured]


def _measured_cells(section: SectionGenes) -> list[str]:
    named = ", ".join(section.absent[:SHOWN_GENES]) + (" ..." if len(section.absent) > SHOWN_GENES else "")
    return [
        str(section.found),
        f"{len(section.absent)}: {named}" if section.absent else "0",
        str(section.other_name),
        "" if section.resolved_by_alias is None else str(section.resolved_by_alias),
        str(section.spots),
        str(section.spots_without_tile),
        str(section.tiles_without_counts),
        ", ".join(f"{count} {kind}" for kind, count in section.left_out.items()) or "0",
    ]


def _measured_table(evaluation: Evaluation) -> list[str]:
    lines = [f"| section | {' | '.join(MEASURED_COLUMNS)} |", f"|---|{'---|' * len(MEASURED_COLUMNS)}"]
    return lines + [f"| {sample} | {' | '.join(cells)} |" for sample, cells in measured_rows(evaluation)]


def describe_unseen(evaluation: Evaluation) -> str:
    """What the figures of genes left out of training are of, in a paragraph."""
    scale = SCALES[UNSEEN_PROTOCOL]
    return (
        f"Pearson of {evaluation.unseen_genes} genes that took no part in training, predicted from their descriptions. "
        f"Split: {evaluation.split}. Normalisation: {scale.normalisation}; {scale.transform}. "
        f"Smoothing: {scale.smoothing}. Averaging: within a section, mean over genes, mean over sections. "
        f"In brackets: 95 % bootstrap interval over {evaluation.resampled}."
    )


def unseen_rows(evaluation: Evaluation) -> list[tuple[str, Figure]]:
    """Pearson of unseen genes by method and subject, named as a table does."""
    methods = {summary.method for summary in evaluation.unseen}
    return [
        (subject if len(methods) == 1 else f"{summary.method}, {subject}", figure)
        for summary in evaluation.unseen
        if (figure := summary.figure("pearson")) and (subject := summary.subject.removeprefix(UNSEEN))
    ]


def _unseen_table(evaluation: Evaluation) -> list[str]:
    rows = unseen_rows(evaluation)
    samples = list(rows[0][1].by_sample)
    lines = [f"| pearson | mean | {' | '.join(samples)} |", f"|---|---|{'---|' * len(samples)}"]
    return lines + [f"| {name} | {format_figure(figure)} | {_by_section(figure, samples)} |" for name, figure in rows]


def _by_section(figure: Figure, samples: Sequence[str]) -> str:
    values = (figure.by_sample.get(sample) for sample in samples)
    return " | ".join("" if value is None else f"{value:.3f}" for value in values)


def _table(summaries: Sequence[SubjectSummary]) -> list[str]:
    """Figures with one row per subject, then Pearson by held-out section."""
    named = {
        f"**{name}**" if summary.subject == MODEL else name: summary
        for name, summary in name_subjects(summaries).items()
    }
    lines = [f"| | {' | '.join(TABLE_METRICS)} |", f"|---|{'---|' * len(TABLE_METRICS)}"]
    for name, summary in named.items():
        cells = [format_figure(summary.figure(metric)) for metric in TABLE_METRICS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    by_section = {name: figure for name, summary in named.items() if (figure := summary.figure("pearson"))}
    samples = sorted({sample for figure in by_section.values() for sample in figure.by_sample}, key=natural_key)
    heads = [*samples, "mean over folds (sd)"]
    lines += ["", f"| pearson by held-out section | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for name, figure in by_section.items():
        lines.append(f"| {name} | {_by_section(figure, samples)} | {format_over_folds(figure)} |")
    return lines


def format_over_folds(figure: Figure) -> str:
    """Mean and sd over folds, as the literature has them; empty where they are not known."""
    if figure.fold_mean is None or figure.fold_sd is None:
        return ""
    return f"{figure.fold_mean:.3f} ({figure.fold_sd:.3f})"


def format_figure(figure: Figure | None) -> str:
    """A figure as tables show it; empty where it is not known."""
    if figure is None or figure.mean is None:
        return ""
    spread = f" [{figure.low:.3f}, {figure.high:.3f}]" if figure.metric == "pearson" and figure.low is not None else ""
    return f"{figure.mean:.3f}{spread}"
