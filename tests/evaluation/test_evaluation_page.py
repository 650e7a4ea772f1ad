"""The page says what the figures say, shows measured beside predicted, and needs nothing from outside."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from histocast.evaluation.evaluation_plots import Bar, Example, draw_bars, draw_example
from histocast.evaluation.score_models import choose_shown
from histocast.evaluation.scores import GENE_SCHEMA, SECTION_SCHEMA
from histocast.evaluation.summary import Evaluation
from histocast.sections.protocols import PROTOCOLS


@pytest.fixture(scope="module")
def page(made_folds: tuple[Path, Evaluation]) -> str:
    return (made_folds[0] / "evaluation.html").read_text()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_has_its_facts_figures_and_controls(
    page: str, made_folds: tuple[Path, Evaluation], protocol: str
) -> None:
    part = page.split(f"<code>{protocol}</code>")[1].split("</section>", maxsplit=1)[0]
    figure = made_folds[1].summary(protocol).figure("pearson")

    assert f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]" in part
    assert all(fact in part for fact in ("Split: leave one patient out", "Normalisation: ", "Smoothing: "))
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>', part)
    controls = {s.subject: s.figure("pearson").mean for s in made_folds[1].summaries if s.protocol == protocol}
    assert rows == ["ridge", *sorted(controls.keys() - {"model"}, key=lambda name: -controls[name])]
    assert len(re.findall(r"<h4>", part)) == 4


def test_the_page_is_whole_in_itself(page: str) -> None:
    sources = re.findall(r'src="(.{10})', page)

    assert len(sources) == len(PROTOCOLS) * (1 + 1 + 4)
    assert all(source.startswith("data:image") for source in sources)
    assert not re.search(r"https?:", page)


def test_genes_shown_are_not_the_best_alone() -> None:
    pearson = np.linspace(0.5, -0.1, 40)
    pearson[3] = np.nan

    assert choose_shown(pearson) == [0, 1, 21, 37]
    assert choose_shown(np.array([0.3])) == [0]


def test_the_same_figures_draw_the_same_picture() -> None:
    bars = [Bar("dkan", 0.3, 0.2, 0.4, is_control=False), Bar("training mean", 0.0, None, None, is_control=True)]
    random = np.random.default_rng(0)
    values = random.normal(size=(30, 2))
    example = Example("dkan", "strict", "A1", ("ERBB2", "KRT8"), random.uniform(0, 900, (30, 2)), values, values / 2)

    assert draw_bars(bars) == draw_bars(bars)
    assert draw_example(example, 1) == draw_example(example, 1)
    assert draw_example(example, 0) != draw_example(example, 1)
    assert "KRT8" in draw_example(example, 1).alt


def test_tables_hold_a_row_a_figure_and_a_gene_in_the_types_that_the_manual_gives(
    made_folds: tuple[Path, Evaluation],
) -> None:
    outdir, evaluation = made_folds
    sections, genes = (pq.read_table(outdir / name) for name in ("sections.parquet", "genes.parquet"))

    assert tuple(sections.column_names) == tuple(SECTION_SCHEMA)
    assert tuple(genes.column_names) == tuple(GENE_SCHEMA)
    for table in (sections, genes):
        assert {str(field.type) for field in table.schema} == {"string", "double"}
    assert set(sections["sample"].to_pylist()) == {"A1", "A2", "B1", "B2"}
    figure = evaluation.summary("strict").figures[0]
    found = {
        row["sample"]: row["value"]
        for row in sections.to_pylist()
        if (row["protocol"], row["subject"], row["metric"]) == ("strict", "model", figure.metric)
    }
    assert found == figure.by_sample
