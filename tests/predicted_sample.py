"""A slide's artifacts taken to expression by a bundle, and to its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histocast.bundle import Bundle
from histocast.expression.predict_expression import predict_expression
from histocast.inference import open_predictor
from histocast.report.sample import PageFile, report_sample
from page_parser import Page
from sample_bundle import SlideFiles


def predict(files: SlideFiles, bundle_folder: Path, outdir: Path) -> None:
    bundle = Bundle.model_validate_json((bundle_folder / "bundle.json").read_bytes())
    with open_predictor(bundle_folder, bundle, names=("fusion",), threads=1) as predictor:
        predict_expression(
            record=files.record,
            tiles=files.tiles,
            features=files.features,
            thumbnail=files.thumbnail,
            bundle_folder=bundle_folder,
            bundle=bundle,
            predictor=predictor,
            outdir=outdir,
        )


def write_report(files: SlideFiles, folder: Path, **changes: Any) -> Page:
    known: dict[str, Any] = {
        "expression": folder / f"{files.record.sample}.h5ad",
        "record": files.record,
        "tiles": files.tiles,
        "thumbnail": files.thumbnail,
        "tissue": files.tissue,
    }
    path = changes.pop("outdir", folder) / f"{files.record.sample}.html"
    page = PageFile(path, has_cohort=changes.pop("has_cohort", False))
    report_sample(**{**known, **changes}, page=page)
    return Page(path)
