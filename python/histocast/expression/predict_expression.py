"""What PREDICT writes: the features of one slide through the fusion graph, into AnnData and Parquet."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from histocast.artifacts import EXPRESSION
from histocast.bundle import Bundle, TensorSpec, sha256_of_file
from histocast.errors import MissingInputError
from histocast.expression.anndata_file import SpatialImage, write_anndata
from histocast.expression.prediction import Prediction, predict_spots
from histocast.expression.slide_summary import SlideStatistics, write_slide_summary
from histocast.expression.table_file import write_expression_table, write_gene_table
from histocast.fusion.fusion_inputs import SpotFeatures
from histocast.fusion.selected_genes import ask_genes
from histocast.genes.name_tables import find_other_names
from histocast.inference.predictor import Predictor
from histocast.progress import Clock
from histocast.records import Facts, Provenance, SlideRecord
from histocast.software import software_versions


def predict_expression(  # noqa: PLR0913 - one argument an input file of the stage
    *,
    record: SlideRecord,
    tiles: Path,
    features: Path,
    thumbnail: Path,
    bundle_folder: Path,
    bundle: Bundle,
    predictor: Predictor,
    outdir: Path,
    genes: Path | None = None,
    scratch: Path | None = None,
    clock: Clock | None = None,
) -> Facts:
    """Predict every spot in tissue; write ``<sample>.h5ad``, ``.parquet``, ``.genes.parquet`` and ``.slide.parquet``.

    Memory does not grow with the slide: features and predictions lie in files under ``scratch``.

    ``genes``: file with one gene on each line, or ``genes.parquet`` of ``histocast genes embed``; all genes of the
        bundle by default. See `histocast.fusion.selected_genes`.
    ``scratch``: folder for temporary files, about 8 bytes a spot and gene; one within ``outdir`` by default.
    ``clock``: counts the stage's time, where it began earlier.
    Returns: ``spots``, ``unreadable``, ``genes``, ``unseen_genes``, ``regions``, ``ood_flagged`` and, where known,
        ``mean_val_pcc``; where the time went as `Clock.facts` has it, and what the predictor says of its servers.
    Raises `DataError`: the inputs do not belong together, or an unknown gene is asked for; `ConfigError`: the fusion
    graph, ``genes.parquet`` or descriptions given do not fit the bundle; `OutputError`: an output cannot be written, or
    a disk is full.
    """
    clock = clock or Clock()
    asked = ask_genes(bundle_folder, bundle, genes, other_names=find_other_names)
    genes_digest = f"sha256:{sha256_of_file(genes)}" if genes else None
    provenance = provenance_of(record, bundle, genes_digest=genes_digest)
    image = SpatialImage(_read_image(thumbnail, record.sample), record.thumbnail_um_per_px)
    outdir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".predict-", dir=scratch or outdir) as folder:
        with clock.spent("decode"):
            spots = SpotFeatures.open(tiles, features, columns=_used_columns(bundle), scratch=Path(folder))
            prediction = predict_spots(
                spots,
                bundle=bundle,
                predictor=predictor,
                genes=asked.table,
                gene_index=asked.index,
                pitch_level0_px=record.pitch_um / record.um_per_px,
                scratch=Path(folder),
                clock=clock,
            )
        with clock.spent("writing"):
            write_expression_table(outdir / f"{record.sample}.parquet", prediction, provenance)
            write_gene_table(outdir / f"{record.sample}.genes.parquet", prediction, provenance)
            statistics = SlideStatistics.of(prediction, um_per_px=record.um_per_px)
            write_anndata(
                outdir / f"{record.sample}.h5ad",
                prediction,
                record=record,
                bundle=bundle,
                provenance=provenance,
                image=image,
                statistics=statistics,
            )
            write_slide_summary(
                outdir / f"{record.sample}.slide.parquet",
                prediction,
                statistics,
                record=record,
                bundle=bundle,
                provenance=provenance,
                overview=image.pixels,
            )
        servers = predictor.facts()
        times = clock.facts(len(prediction), unit="spots", on_servers=bool(servers))
        return {**_facts(prediction), **times, **servers}


def _used_columns(bundle: Bundle) -> dict[str, TensorSpec]:
    """Feature columns that the fusion graph or the out-of-distribution score reads; others stay on disk."""
    used = {bundle.ood.column, *(column for fed in bundle.fusion.feeds.values() for column in fed)}
    return {name: spec for name, spec in bundle.feature_columns().items() if name in used}


def _read_image(path: Path, sample: str) -> NDArray[np.uint8]:
    """RGB [row, column, 3]."""
    import cv2

    if not path.is_file():
        raise MissingInputError("no thumbnail", expected="thumbnail.png of the tile stage", where=f"sample {sample}")
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise MissingInputError("an unreadable thumbnail", expected="a PNG image", where=f"sample {sample}")
    return np.asarray(pixels[..., ::-1], np.uint8)


def _facts(prediction: Prediction) -> Facts:
    facts: Facts = {
        "spots": len(prediction),
        "unreadable": int((~prediction.spots.readable).sum()),
        "genes": prediction.genes.num_rows,
        "unseen_genes": int((~prediction.genes.column("seen_in_training").to_numpy()).sum()),
        "regions": prediction.region_count,
        "ood_flagged": int(prediction.ood_flag.sum()),
    }
    known = prediction.genes.column("val_pcc").drop_null().to_numpy()
    if len(known := known[np.isfinite(known)]):
        facts["mean_val_pcc"] = round(float(known.mean()), 4)
    return facts


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
            "comparable_between_slides": bundle.comparable_between_slides,
            "coverage_percent": bundle.calibration.coverage_percent,
        },
        software=software_versions(),
    )
