"""Results of a run, made without slides: slide summaries with known differences, and the summary of every row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from histocast.artifacts import METADATA_PREFIX, SLIDE_FACTS_KEY, SLIDE_SUMMARY, SUMMARY, write_table
from histocast.expression.slide_summary import SlideFacts
from histocast.records import Provenance

BUNDLE = "sha256:" + "b" * 64
DIM = 8

# A grey square of 8 x 8 pixels.
PICTURE = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBkeFxlZ2P/wAAL"
    "CAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAABv/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AJ//Z"
)


@dataclass(frozen=True)
class Made:
    """One slide."""

    sample: str
    mean: np.ndarray | None = None
    """[gene] its mean expression; None where it has no spot like the training tissue."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    failed: str | None = None
    """Stage in which it failed: then there is no summary of it, but after REPORT."""
    digest: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of the slide, in place of ordinary ones."""
    bundle: str = BUNDLE
    genes_digest: str | None = None


def write_results(folder: Path, slides: Sequence[Made], *, seed: int = 0, summary: bool = True) -> Path:
    """Write ``<sample>/<sample>.slide.parquet`` and ``summary.parquet`` as a run does."""
    random = np.random.default_rng(seed)
    for slide in slides:
        (folder / slide.sample).mkdir(parents=True, exist_ok=True)
        if slide.failed in (None, "report"):
            write_summary_of(folder / slide.sample / f"{slide.sample}.slide.parquet", slide, random)
    if summary:
        write_run_summary(folder / "summary.parquet", slides)
    return folder


def gene_columns(genes: int) -> dict[str, pa.Array]:
    return {
        "gene_id": pa.array([f"ENSG{number:011d}" for number in range(genes)]),
        "gene_symbol": pa.array([f"GENE{number}" for number in range(genes)]),
        "evidence": pa.array(["trained"] * genes),
        "val_pcc": pa.array(np.linspace(0.5, 0.05, genes), pa.float32()),
        "training_mean": pa.array(np.full(genes, 1.0), pa.float32()),
    }


def write_summary_of(
    path: Path, slide: Made, random: np.random.Generator, *, known: dict[str, pa.Array] | None = None
) -> None:
    genes = 40 if slide.mean is None else len(slide.mean)
    columns = known or gene_columns(genes)
    mean = np.full(genes, np.nan) if slide.mean is None else slide.mean
    spread = {"mean": 0, "median": -0.02, "p10": -0.5, "p90": 0.6}
    measured = {f"in_distribution_{name}": mean + shift for name, shift in spread.items()}
    measured |= {name: np.nan_to_num(mean, nan=1.0) + shift for name, shift in spread.items()}
    measured |= {"sd": np.full(genes, 0.4), "in_distribution_sd": mean * 0 + 0.4}
    measured |= {"mean_se": np.full(genes, 0.03), "in_distribution_mean_se": mean * 0 + 0.03}
    measured["high_fraction"] = mean * 0 + 0.1
    made = {name: pa.array(values.astype(np.float32), from_pandas=True) for name, values in measured.items()}
    facts = facts_of(slide, random)
    schema = SLIDE_SUMMARY.arrow().with_metadata({SLIDE_FACTS_KEY: facts.model_dump_json().encode()})
    table = pa.table([{**columns, **made}[column.name] for column in SLIDE_SUMMARY.columns], schema=schema)
    inputs = {"slide": slide.digest or f"sampled-sha256:{slide.sample}", "bundle": slide.bundle}
    inputs |= {"genes": slide.genes_digest} if slide.genes_digest else {}
    write_table(
        path,
        table,
        Provenance(
            artifact=SLIDE_SUMMARY.artifact, schema_version=SLIDE_SUMMARY.version, sample=slide.sample, inputs=inputs
        ),
    )


def facts_of(slide: Made, random: np.random.Generator) -> SlideFacts:
    known = {
        "bundle_name": "tiny",
        "bundle_version": "1.2.0",
        "method": "ridge",
        "scale": "log1p_cp10k",
        "comparable_between_slides": True,
        "reader": "tiff",
        "vendor": "aperio",
        "objective_power": 20.0,
        "um_per_px": 0.5,
        "um_per_px_source": "file",
        "layout": "grid",
        "tissue_area_mm2": float(random.lognormal(4, 0.2)),
        "pen_fraction": 0.0,
        "unreadable_fraction": 0.0,
        "stain_absorbance": float(random.normal(0.3, 0.01)),
        "colourless": False,
        "spots": 1200,
        "readable_spots": 1198,
        "in_distribution_spots": 0 if slide.mean is None else 1100,
        "ood_fraction": 1.0 if slide.mean is None else float(random.uniform(0, 0.02)),
        "blurred_fraction": 0.0,
        "inked_fraction": 0.0,
        "block_um": 1000.0,
        "blocks": 0 if slide.mean is None else 15,
        "embedding_column": "morphology.embedding",
        "embedding": [] if slide.mean is None else [round(float(value), 4) for value in random.normal(size=DIM)],
        "picture_jpeg": PICTURE,
    }
    return SlideFacts(**{**known, **slide.facts})


def write_run_summary(path: Path, slides: Sequence[Made]) -> None:
    names = dict.fromkeys(name for slide in slides for name in slide.metadata)
    empty = dict.fromkeys(column.name for column in SUMMARY.columns)
    rows = [
        {
            **empty,
            "sample": slide.sample,
            "outcome": "failed" if slide.failed else "ok",
            "verdict": None if slide.failed else "good",
            "reservations": None if slide.failed else [],
            "failed_stage": slide.failed,
            "error_kind": "DataError" if slide.failed else None,
            "message": f"slide of sample {slide.sample}: no resolution" if slide.failed else None,
            "advice": "state it in column mpp" if slide.failed else None,
            **{f"{METADATA_PREFIX}{name}": slide.metadata.get(name) for name in names},
        }
        for slide in slides
    ]
    schema = SUMMARY.arrow(*(pa.field(f"{METADATA_PREFIX}{name}", pa.string()) for name in names))
    provenance = Provenance(artifact=SUMMARY.artifact, schema_version=SUMMARY.version, sample="*")
    write_table(path, pa.Table.from_pylist(rows, schema=schema), provenance)


def make_slides(
    count: int,
    *,
    genes: int = 40,
    seed: int = 1,
    metadata: Callable[[int], Mapping[str, str]] | None = None,
    prefix: str = "S",
) -> list[Made]:
    """Ordinary slides, whose means differ by chance along a few directions."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(3, genes))
    means = 1.5 + 0.2 * random.normal(size=(count, 3)) @ directions + 0.05 * random.normal(size=(count, genes))
    return [Made(f"{prefix}{number}", mean, metadata(number) if metadata else {}) for number, mean in enumerate(means)]
