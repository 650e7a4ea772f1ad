"""Score a finished prediction by counts measured on the same slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError, MissingInputError
from histocast.evaluation.metrics import gene_metrics, section_metrics
from histocast.evaluation.truth import measure_truth
from histocast.sections.labels import SCALES
from histocast.sections.protocols import Protocol
from histocast.sections.section import Section
from histocast.training.recipe import Recipe
from histocast.training.training_set import open_training_set


def compare_expression(expression: Path, *, set_folder: Path, recipe: Recipe) -> dict[str, float]:
    """Metrics of ``<sample>.h5ad``, as PREDICT wrote it, against the prepared section of the same sample.

    The labels are made on the scale that the prediction says it is on.

    ``expression``: predictions at the section's measured spots; any other spots are left out.
    ``set_folder``: training set that holds the section.
    ``recipe``: its panel names the genes to compare, all of which must be predicted.
    Raises `MissingInputError`: the set does not hold the sample; `DataError`: the prediction is on an unknown scale,
    lacks a gene, or was made at other spots.
    """
    import anndata

    data = anndata.read_h5ad(expression)
    provenance = data.uns["histocast"]
    sample, protocol = str(provenance["sample"]), _protocol(str(provenance["scale"]["name"]), where=expression.name)
    with open_training_set(set_folder, recipe) as training:
        section = next((one for one in training.sections if one.record.sample == sample), None)
        if section is None:
            raise MissingInputError(f"no section {sample}", expected="the predicted sample", where=str(set_folder))
        row_of = {int(tile): row for row, tile in enumerate(data.obs["tile_id"])}
        rows = _rows(section, row_of, np.asarray(data.obsm["spatial"]))
        columns = data.var_names.get_indexer(list(training.panel.gene_ids))
        if (columns < 0).any():
            raise DataError(
                f"{int((columns < 0).sum())} panel genes are not predicted",
                expected=f"the panel of the recipe {recipe.name}",
                where=expression.name,
            )
        predicted = np.asarray(data.X)[np.ix_(rows, columns)]
        panel = training.panel.columns[sample]
        truth = measure_truth(section, protocol=protocol, panel=panel, missing=recipe.missing_genes)
        return section_metrics(gene_metrics(truth, predicted), {})


def _protocol(scale: str, *, where: str) -> Protocol:
    for protocol, known in SCALES.items():
        if known.name == scale:
            return protocol
    raise DataError(f"the scale {scale!r}", expected=", ".join(known.name for known in SCALES.values()), where=where)


def _rows(section: Section, row_of: dict[int, int], centres_level0_px: NDArray[np.floating]) -> NDArray[np.int64]:
    """Row of the prediction for every measured spot, which must lie at the same place."""
    tiles = section.store.tile_id[section.measured].tolist()
    if missing := [tile for tile in tiles if tile not in row_of]:
        raise DataError(
            f"{len(missing)} measured spots are not predicted",
            expected=f"the {len(tiles)} spots of the section",
            where=f"sample {section.record.sample}",
            advice="predict at the section's spot table",
        )
    rows = np.array([row_of[tile] for tile in tiles], np.int64)
    away = np.abs(centres_level0_px[rows] - section.store.centres_level0_px[section.measured]).max()
    if away > 0.5:
        raise DataError(
            f"spots lie up to {away:.1f} px from those measured",
            expected="the same spot table",
            where=f"sample {section.record.sample}",
        )
    return rows
