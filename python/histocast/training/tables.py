"""An evaluation as tables: a row a model or control, with the protocol in words above each."""

from __future__ import annotations

from collections.abc import Sequence

from histocast.training.labels import SCALES, Protocol
from histocast.training.summary import MODEL, TABLE_METRICS, Evaluation, Figure, SubjectSummary
from histocast.training.unseen import UNSEEN, UNSEEN_PROTOCOL

SHOWN = 5e-4
"""Tables have three digits."""


def describe_protocol(evaluation: Evaluation, protocol: Protocol) -> str:
    """The facts without which a figure means nothing, in a paragraph."""
    scale = SCALES[protocol]
    return (
        f"Split: {evaluation.split}. Genes: the {evaluation.genes} of the panel {evaluation.recipe}. "
        f"Normalisation: {scale.normalisation}; {scale.transform}. Smoothing: {scale.smoothing}. "
        f"Averaging: within a section, mean over genes, mean over {evaluation.sections} sections. "
        f"In brackets: 95 % bootstrap interval over {evaluation.resampled}."
    )


def render_markdown(evaluation: Evaluation) -> str:
    """The evaluation as tables, one a protocol, with the protocol in words above each."""
    lines = []
    for protocol in dict.fromkeys(summary.protocol for summary in evaluation.summaries):
        lines += [f"### Protocol `{protocol}`", "", describe_protocol(evaluation, protocol), ""]
        lines += [*_table([summary for summary in evaluation.summaries if summary.protocol == protocol]), ""]
    if evaluation.unseen:
        lines += ["### Genes never measured", "", describe_unseen(evaluation), "", *_unseen_table(evaluation), ""]
    return "\n".join(lines)


def name_subjects(summaries: Sequence[SubjectSummary]) -> dict[str, SubjectSummary]:
    """Models, then controls, by the name a table gives them. A control that is alike for all methods stands once."""
    models = [summary for summary in summaries if summary.subject == MODEL]
    named = {summary.method: summary for summary in models}
    for summary in summaries:
        known = named.get(summary.subject)
        if summary.subject == MODEL or (known is not None and _alike(known, summary)):
            continue
        named[summary.subject if known is None else f"{summary.subject} ({summary.method})"] = summary
    return named


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
    """Figures with a row a subject, then Pearson by held-out section."""
    named = {
        f"**{name}**" if summary.subject == MODEL else name: summary
        for name, summary in name_subjects(summaries).items()
    }
    lines = [f"| | {' | '.join(TABLE_METRICS)} |", f"|---|{'---|' * len(TABLE_METRICS)}"]
    for name, summary in named.items():
        cells = (format_figure(summary.figure(metric)) for metric in TABLE_METRICS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    by_section = {name: figure for name, summary in named.items() if (figure := summary.figure("pearson"))}
    samples = [sample for figure in list(by_section.values())[:1] for sample in figure.by_sample]
    lines += ["", f"| pearson by held-out section | {' | '.join(samples)} |", f"|---|{'---|' * len(samples)}"]
    for name, values in by_section.items():
        lines.append(f"| {name} | {_by_section(values, samples)} |")
    return lines


def format_figure(figure: Figure | None) -> str:
    """A figure as tables show it; empty where it is not known."""
    if figure is None or figure.mean is None:
        return ""
    spread = f" [{figure.low:.3f}, {figure.high:.3f}]" if figure.metric == "pearson" and figure.low is not None else ""
    return f"{figure.mean:.3f}{spread}"
