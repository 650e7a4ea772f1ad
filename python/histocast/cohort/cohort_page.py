"""``cohort.html``: questions across slides in one file that loads nothing, whatever the number of slides.

Every slide is a row of its table. Values of as many genes, and pictures of as many slides, as fit are in it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from histocast import __version__
from histocast.artifacts import METADATA_PREFIX
from histocast.cohort.embed_slides import Embedding
from histocast.cohort.find_outliers import MEASURES
from histocast.cohort.matrix_file import GENES_PER_CHUNK, MatrixFile, number_or_text
from histocast.cohort.read_slides import BATCH, Model
from histocast.report.colour_scale import colour_table
from histocast.report.packing import COARSE_STEPS, FINE_STEPS, choose_digits, pack_column, pack_json
from histocast.report.page import count, data_block, hash_source, plural, read_script, write_page

MODULES = ("payload", "scale", "cohort_columns", "slide_table", "cohort_plots", "cohort_main")
"""Scripts of the page, in the order in which they use each other."""

GENE_BYTES, PICTURE_BYTES = 16_000_000, 5_000_000
"""Most that values of genes and pictures of slides take in the page."""
FINE_SLIDES = 10_000
"""Of more slides values have fewer decimals, so that more genes fit."""
MOST_CAUSES = 50

_NUMBERS = {
    **{measure.column: measure.title for measure in MEASURES},
    "spots": "spots",
    "in_distribution_spots": "spots of the means",
    "um_per_px": "µm per px",
}
_TEXTS = {
    "outcome": "outcome",
    "verdict": "verdict",
    "outlier": "outlier",
    "outlier_in": "outlier in",
    "reservations": "reservations",
    "failed_stage": "failed in",
    "error_kind": "error",
    "vendor": "scanner",
    "layout": "layout",
}


@dataclass(frozen=True)
class Shown:
    """What the page shows."""

    slides: pl.DataFrame
    """Rows of ``slides.parquet`` without pictures."""
    pictures: Path
    """A Parquet file with ``picture_jpeg`` of the same rows."""
    matrix: MatrixFile
    model: Model
    embedding: Embedding
    signatures: Path | None
    """``signatures.parquet``."""
    pages: str | None = None
    """Where the samples' pages lie, relative to the page; None where it is to link to none."""


def write_cohort_page(path: Path, shown: Shown) -> None:
    """Write the page.

    Raises `OutputError`: it cannot be written.
    """
    script = read_script(MODULES)
    slides = shown.slides
    genes = list(_genes(shown))
    outliers = int(slides["outlier"].sum() or 0)
    write_page(
        path,
        "cohort.html",
        headline=plural(len(slides), "slide"),
        figures=[
            ("Slides", count(len(slides))),
            ("With a mean of each gene", count(shown.matrix.slides)),
            ("Failed", count(len(slides.filter(pl.col("outcome") == "failed")))),
            ("Outliers", count(outliers)),
            ("Genes", count(shown.model.genes.num_rows)),
        ],
        genes_left_out=count(shown.model.genes.num_rows - len(genes))
        if len(genes) < shown.model.genes.num_rows
        else "",
        causes=_causes(slides),
        measures=_measures(slides),
        bundle_digest=shown.model.bundle_digest,
        genes_digest=shown.model.genes_digest,
        data=data_block(_scene(shown, genes)),
        script=script,
        script_source=hash_source(script),
        version=__version__,
    )


def _scene(shown: Shown, genes: list[dict[str, Any]]) -> dict[str, Any]:
    """What the script reads."""
    place, found = None, shown.embedding.map
    if found is not None:
        rows = shown.slides["in_matrix"].to_numpy()
        place = {
            name: pack_column(_spread(found[:, axis], rows), digits=choose_digits(found[:, axis], steps=1000))
            for axis, name in enumerate("xy")
        }
    return {
        "count": len(shown.slides),
        "columns": list(_columns(shown)),
        "values": [*_signatures(shown), *genes],
        "map": place,
        "pages": shown.pages,
        "palette": base64.b64encode(colour_table("viridis").tobytes()).decode(),
        "pictures": _pictures(shown),
    }


def _columns(shown: Shown) -> Iterator[dict[str, Any]]:
    """Columns of the table: names, outcome and quality, then clusters and metadata."""
    slides, clusters = shown.slides, shown.embedding.clusters
    yield _text("sample", "sample", slides["sample"])
    for name, title in _TEXTS.items():
        yield _text(name, title, slides[name])
    for name, title in _NUMBERS.items():
        yield _number(name, title, slides[name].cast(pl.Float64).to_numpy())
    if clusters is not None:
        numbers = pl.Series(_spread(clusters, slides["in_matrix"].to_numpy())).fill_nan(None)
        yield _text("cluster", "cluster", numbers.cast(pl.Int32).cast(pl.String))
    for name in slides.columns:
        if name.startswith(METADATA_PREFIX):
            title, values = name.removeprefix(METADATA_PREFIX), number_or_text(slides[name])
            yield _text(name, title, values) if values.dtype == pl.String else _number(name, title, values.to_numpy())


def _number(name: str, title: str, values: NDArray[Any], *, steps: int = FINE_STEPS, note: str = "") -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    digits = 0 if (finite == np.rint(finite)).all() else choose_digits(finite, steps=steps)
    packed = pack_column(values, digits=digits)
    return {"name": name, "title": title, "kind": "number", "packed": packed, "note": note}


def _text(name: str, title: str, values: pl.Series) -> dict[str, Any]:
    """Words as places in a sorted list, so that sorting slides by place sorts them by word."""
    if isinstance(values.dtype, pl.List):
        values = values.list.join(" ").replace("", None)
    if values.dtype == pl.Boolean:
        values = values.replace_strict({True: "yes", False: "no"}, return_dtype=pl.String)
    words = sorted(values.drop_nulls().unique().to_list(), key=_natural)
    places = dict(zip(words, range(len(words)), strict=True))
    codes = values.replace_strict(places, default=None, return_dtype=pl.Float64) if words else values.cast(pl.Float64)
    packed = pack_column(codes.fill_null(np.nan).to_numpy(), digits=0)
    return {"name": name, "title": title, "kind": "text", "packed": packed, "words": pack_json(words)}


def _natural(word: str) -> tuple[list[tuple[int, str]], str]:
    """S2 stands before S10."""
    parts = re.split(r"(\d+)", word.casefold())
    return [(int(part) if part.isdecimal() else -1, part) for part in parts], word


def _spread(values: NDArray[Any], rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values of the matrix's slides at their rows of the table; NaN at the others."""
    spread = np.full(len(rows), np.nan)
    spread[rows] = values
    return spread


def _genes(shown: Shown) -> Iterator[dict[str, Any]]:
    """Genes that fit: those first that differ most between slides and are predicted best. A chunk of them is in memory."""
    genes, rows = shown.model.genes, shown.slides["in_matrix"].to_numpy()
    accuracy = genes["val_pcc"].to_numpy().astype(np.float64)
    _, sd = shown.matrix.moments()
    order = np.argsort(-sd * np.nan_to_num(np.maximum(accuracy, 0.0)), kind="stable")
    steps = FINE_STEPS if len(rows) <= FINE_SLIDES else COARSE_STEPS
    left = GENE_BYTES
    if not shown.matrix.slides:
        return
    for start in range(0, len(order), GENES_PER_CHUNK):
        chosen = np.sort(order[start : start + GENES_PER_CHUNK])
        values = np.concatenate([part[:, chosen] for _, part in shown.matrix.blocks()])
        for gene in order[start : start + GENES_PER_CHUNK]:
            column = _spread(values[:, np.searchsorted(chosen, gene)], rows)
            known = f"accuracy r = {accuracy[gene]:.2f}" if np.isfinite(accuracy[gene]) else "accuracy unknown"
            evidence = genes["evidence"][int(gene)].as_py()
            note = f"Gene, {known}" + ("" if evidence == "trained" else f"; never measured, {evidence}")
            made = _number(
                genes["gene_id"][int(gene)].as_py(),
                genes["gene_symbol"][int(gene)].as_py(),
                column,
                steps=steps,
                note=note,
            )
            left -= len(made["packed"]["data"])
            if left < 0:
                return
            yield made


def _signatures(shown: Shown) -> Iterator[dict[str, Any]]:
    """Scores of gene sets that were scored."""
    if shown.signatures is None:
        return
    table = pl.scan_parquet(shown.signatures)
    rows = shown.slides["in_matrix"].to_numpy()
    for name in table.select(pl.col("signature").unique(maintain_order=True)).collect()["signature"]:
        # Rows are in the order of the matrix.
        found = table.filter(pl.col("signature") == name).collect()
        if found["score"].null_count() < len(found):
            note = f"Gene set, {found['predicted'][0]} of {found['genes'][0]} genes predicted"
            yield _number(name, name, _spread(found["score"].fill_null(np.nan).to_numpy(), rows), note=note)


def _pictures(shown: Shown) -> dict[str, list[Any]]:
    """Rows and pictures of as many slides as fit: outliers, then the first of the others."""
    kept: tuple[list[tuple[int, str]], list[tuple[int, str]]] = ([], [])
    left = [PICTURE_BYTES, PICTURE_BYTES]
    outlier = shown.slides["outlier"].fill_null(value=False).to_list()
    start = 0
    with pq.ParquetFile(shown.pictures) as file:
        for batch in file.iter_batches(BATCH, columns=["picture_jpeg"]):
            for row, picture in enumerate(batch["picture_jpeg"].to_pylist(), start=start):
                group = 0 if outlier[row] else 1
                if picture and left[group] > len(picture):
                    left[group] -= len(picture)
                    kept[group].append((row, picture))
            start += len(batch)
    budget, chosen = PICTURE_BYTES, []
    for row, picture in [*kept[0], *kept[1]]:
        budget -= len(picture)
        if budget < 0:
            break
        chosen.append((row, picture))
    return {"rows": [row for row, _ in chosen], "jpeg": [picture for _, picture in chosen]}


def _causes(slides: pl.DataFrame) -> list[dict[str, str]]:
    """Failures by stage, error and advice; most frequent first."""
    failed = slides.filter(pl.col("outcome") == "failed")
    found = (
        failed.group_by("failed_stage", "error_kind", "advice")
        .len()
        .sort("len", "failed_stage", descending=[True, False])
    )
    return [
        {
            "stage": row["failed_stage"] or "unknown",
            "kind": row["error_kind"] or "",
            "advice": row["advice"] or "",
            "slides": count(row["len"]),
        }
        for row in found.head(MOST_CAUSES).to_dicts()
    ]


def _measures(slides: pl.DataFrame) -> list[dict[str, str]]:
    """How many slides are outliers in what."""
    found = dict(slides["outlier_in"].explode().drop_nulls().value_counts().iter_rows())
    return [
        {"title": measure.title, "slides": count(found[measure.column])}
        for measure in MEASURES
        if found.get(measure.column)
    ]
