"""What made a prediction and what it is worth, as both outputs carry it."""

from __future__ import annotations

import json
from typing import Any

from histocast import __version__
from histocast.artifacts import EXPRESSION, Provenance
from histocast.bundle import Bundle, Metric
from histocast.records import SlideRecord
from histocast.software import software_versions


def provenance_of(record: SlideRecord, bundle: Bundle, *, genes_digest: str | None) -> Provenance:
    """The provenance both files carry: digests of the inputs, and every parameter that decided a value."""
    inputs = {"slide": record.slide_digest, "bundle": record.bundle_digest}
    if genes_digest:
        inputs["genes"] = genes_digest
    return Provenance(
        artifact=EXPRESSION.artifact,
        schema_version=EXPRESSION.version,
        sample=record.sample,
        inputs=inputs,
        parameters={
            "layout": record.layout,
            "um_per_px": record.um_per_px,
            "um_per_px_source": record.um_per_px_source,
            "tile_px": record.tile_px,
            "requested_um_per_px": record.requested_um_per_px,
            "pitch_um": record.pitch_um,
            "region_spots": bundle.fusion.region_spots,
            "halo_spots": bundle.fusion.halo_spots,
            "standardise_within_slide": bundle.fusion.standardise_within_slide,
            "coverage_percent": bundle.calibration.coverage_percent,
        },
        software=software_versions(),
    )


def provenance_tree(provenance: Provenance, bundle: Bundle) -> dict[str, Any]:
    """``uns['histocast']``: nested mappings of strings, numbers and tables, which AnnData can hold."""
    import pandas as pd

    metrics = [metric.model_dump() for metric in bundle.metrics]
    encoders = [
        {"name": e.name, "version": e.version, "licence": e.licence, "sha256": e.sha256} for e in bundle.encoders
    ]
    return {
        "schema_version": provenance.schema_version,
        "histocast_version": __version__,
        "sample": provenance.sample,
        "inputs": provenance.inputs,
        "parameters": provenance.parameters,
        "software": provenance.software,
        "bundle": {
            "name": bundle.name,
            "version": bundle.version,
            "created_by": bundle.created_by,
            "method": bundle.fusion.method,
            "description": bundle.description,
            "intended_use": bundle.intended_use,
            "licence": bundle.licence,
            "fusion_sha256": bundle.fusion.sha256,
            "training_data": json.dumps(bundle.training_data),
        },
        "encoders": pd.DataFrame(encoders),
        "scale": bundle.scale.model_dump(exclude_none=True),
        "calibration": bundle.calibration.model_dump(),
        "ood": {"column": bundle.ood.column, "threshold": bundle.ood.threshold},
        "metrics": pd.DataFrame(metrics, columns=list(Metric.model_fields)),
    }
