"""A tiny bundle whose fusion graph is known arithmetic, and the artifacts of a slide that suit it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from histocast.artifacts import GENE_P90, GENES, write_json, write_table
from histocast.bundle import Bundle, sha256_of_file
from histocast.records import LevelRecord, Provenance, SlideRecord
from spot_files import SLIDE_DIGEST, square_array, write_features, write_tiles

DIM = 6
UM_PER_PX = 0.5
PITCH_PX = 200.0
THUMBNAIL_UM_PER_PX = 8.0


def gene_weights(gene_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the target and of the neighbourhood mean, each [dim, gene]."""
    random = np.random.default_rng(11)
    return (
        random.normal(scale=0.3, size=(DIM, gene_count)).astype(np.float32),
        random.normal(scale=0.3, size=(DIM, gene_count)).astype(np.float32),
    )


def write_fusion_graph(path: Path, gene_count: int) -> None:
    """``expression = 1 + target @ W + mean of neighbours @ V``, ``sd = 0.2 + 0.1 |target @ W|``."""
    target_weights, neighbour_weights = gene_weights(gene_count)
    constants = {
        "w": target_weights,
        "v": neighbour_weights,
        "one": np.float32(1),
        "sd0": np.float32(0.2),
        "sd1": np.float32(0.1),
        "axis1": np.array([1], np.int64),
        "axis2": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["neighbour_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["m", "axis1"], ["n"], keepdims=1),
        helper.make_node("Unsqueeze", ["m", "axis2"], ["m3"]),
        helper.make_node("Mul", ["neighbour", "m3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis1"], ["total"], keepdims=0),
        helper.make_node("Div", ["total", "n"], ["around"]),
        helper.make_node("MatMul", ["target", "w"], ["own"]),
        helper.make_node("MatMul", ["around", "v"], ["theirs"]),
        helper.make_node("Add", ["own", "theirs"], ["both"]),
        helper.make_node("Add", ["both", "one"], ["expression"]),
        helper.make_node("Abs", ["own"], ["size"]),
        helper.make_node("Mul", ["size", "sd1"], ["scaled"]),
        helper.make_node("Add", ["scaled", "sd0"], ["sd"]),
    ]
    graph = helper.make_graph(
        nodes,
        "fusion",
        [
            helper.make_tensor_value_info("target", TensorProto.FLOAT, ["spot", DIM]),
            helper.make_tensor_value_info("neighbour", TensorProto.FLOAT, ["spot", 25, DIM]),
            helper.make_tensor_value_info("neighbour_mask", TensorProto.BOOL, ["spot", 25]),
        ],
        [
            helper.make_tensor_value_info("expression", TensorProto.FLOAT, ["spot", gene_count]),
            helper.make_tensor_value_info("sd", TensorProto.FLOAT, ["spot", gene_count]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_bundle(folder: Path, *, gene_count: int = 30, **changes: object) -> Bundle:
    """Write ``bundle.json``, ``fusion.onnx`` and ``genes.parquet``; ``changes`` go into the fusion spec."""
    folder.mkdir(parents=True, exist_ok=True)
    write_fusion_graph(folder / "fusion.onnx", gene_count)
    random = np.random.default_rng(3)
    pcc = random.uniform(0.05, 0.6, gene_count)
    table = pa.table(
        {
            "gene_id": [f"ENSG{number:011d}" for number in range(gene_count)],
            "gene_symbol": [f"GENE{number}" for number in range(gene_count)],
            "seen_in_training": [True] * gene_count,
            "val_pcc": pa.array([None if number == 4 else pcc[number] for number in range(gene_count)], pa.float32()),
            "mean": pa.array(random.uniform(0.1, 2, gene_count), pa.float32()),
            "interval_80": pa.array(np.full(gene_count, 1.2), pa.float32()),
            "interval_90": pa.array(random.uniform(1.5, 1.8, gene_count), pa.float32()),
            GENE_P90: pa.array(np.full(gene_count, 1.1), pa.float32()),
        },
        schema=GENES.arrow(pa.field(GENE_P90, pa.float32())),
    )
    write_table(
        folder / "genes.parquet", table, Provenance(artifact="genes", schema_version=GENES.version, sample="bundle")
    )
    spot = {"dtype": "float32"}
    five_facts = {
        "genes": "the 30 of the panel",
        "split": "leave one section out, one patient",
        "normalisation": "library size over all genes, log1p of counts per 10k",
        "smoothing": "none",
        "averaging": "Pearson over a section's spots, mean over genes",
    }
    known = {
        "name": "tiny",
        "version": "1.2.0",
        "created_by": "0.1.0",
        "description": "Known arithmetic for tests.",
        "intended_use": "Research use only. Not for diagnosis.",
        "licence": "Apache-2.0",
        "geometry": {"tile_px": 224, "um_per_px": 0.5, "pitch_um": PITCH_PX * UM_PER_PX},
        "encoders": [
            {
                "name": "morphology",
                "version": "1",
                "licence": "Apache-2.0",
                "file": None,
                "sha256": hashlib.sha256(b"morphology").hexdigest(),
                "inputs": [{"name": "tiles", "dtype": "uint8", "shape": ("tile", 224, 224, 3)}],
                "outputs": [{"name": "embedding", "dtype": "float32", "shape": ("tile", DIM)}],
            }
        ],
        "fusion": {
            "file": "fusion.onnx",
            "sha256": sha256_of_file(folder / "fusion.onnx"),
            "inputs": [
                {"name": "target", "shape": ("spot", DIM), **spot},
                {"name": "neighbour", "shape": ("spot", 25, DIM), **spot},
                {"name": "neighbour_mask", "shape": ("spot", 25), "dtype": "bool"},
            ],
            "outputs": [
                {"name": "expression", "shape": ("spot", gene_count), **spot},
                {"name": "sd", "shape": ("spot", gene_count), **spot},
            ],
            "method": "test",
            "feeds": {"target": ["morphology.embedding"], "neighbour": ["morphology.embedding"]},
            **changes,
        },
        "genes_sha256": sha256_of_file(folder / "genes.parquet"),
        "gene_count": gene_count,
        "scale": {
            "name": "log1p_cp10k",
            "description": "natural logarithm of 1 + counts per 10,000",
            "normalisation": "library size over all genes, 10,000",
            "transform": "log1p",
            "smoothing": "none",
            "minimum": 0.0,
        },
        "calibration": {
            "coverage_percent": 90,
            "method": "split conformal on held-out sections",
            "sections": 4,
            "patients": 4,
        },
        "ood": {
            "column": "morphology.embedding",
            "mean": [0.0] * DIM,
            "sd": [1.0] * DIM,
            "threshold": 1.6,
        },
        "metrics": [
            {"name": "pearson", "value": 0.2441, **five_facts},
            {
                "name": "pearson_hpg50",
                "value": 0.3712,
                **five_facts,
                "genes": "50 best predicted (HPG), chosen on held-out training spots",
            },
            {"name": "coverage_90", "value": 0.893, **five_facts},
            {"name": "pearson", "value": 0.1312, "subject": "stain area", **five_facts},
            {"name": "pearson", "value": 0.0021, "subject": "shuffled spots", **five_facts},
        ],
    }
    bundle = Bundle.model_validate(known)
    write_json(folder / "bundle.json", bundle)
    return bundle


@dataclass(frozen=True)
class SlideFiles:
    """Artifacts of TILE and ENCODE for one made-up slide."""

    record: SlideRecord
    tiles: Path
    features: Path
    thumbnail: Path
    tissue: Path
    values: np.ndarray
    """Features [tile, dim] as written, half precision."""


def draw_thumbnail(width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A pink blob with darker nests and a blue pen stroke on white glass: RGB, tissue mask, pen mask."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - height / 2, x - width / 2)
    radius = np.hypot((x - width / 2) / width, (y - height / 2) / height)
    tissue = radius < 0.36 + 0.05 * np.sin(3 * angle) + 0.03 * np.cos(5 * angle)
    noise = cv2.GaussianBlur(random.normal(size=(height, width)).astype(np.float32), (0, 0), width / 40)
    nests = noise / noise.std() > 0.5
    image = np.full((height, width, 3), 243, np.uint8)
    image[tissue] = (222, 160, 196)
    image[tissue & nests] = (150, 92, 160)
    grain = random.normal(scale=9, size=(height, width, 1))
    image = np.clip(image + grain * tissue[..., None], 0, 255).astype(np.uint8)
    pen = np.zeros((height, width), np.uint8)
    cv2.line(
        pen, (int(width * 0.05), int(height * 0.1)), (int(width * 0.3), int(height * 0.06)), 1, max(width // 60, 2)
    )
    image[pen > 0] = (40, 60, 170)
    return image, tissue, pen > 0


def write_slide_files(
    folder: Path,
    bundle_digest: str,
    *,
    columns: int = 12,
    rows: int = 10,
    unreadable: tuple[int, ...] = (),
    empty: bool = False,
    sample: str = "S1",
    seed: int = 0,
) -> SlideFiles:
    """A grid over an ellipse of tissue; tiles outside it are not in tissue."""
    folder.mkdir(parents=True, exist_ok=True)
    centres, row, col = square_array(columns, rows, pitch_px=PITCH_PX)
    width_px, height_px = int(columns * PITCH_PX), int(rows * PITCH_PX)
    scale = UM_PER_PX / THUMBNAIL_UM_PER_PX
    image, tissue, pen = draw_thumbnail(max(int(width_px * scale), 8), max(int(height_px * scale), 8))
    at = np.clip((centres * scale).astype(int), 0, np.array(tissue.shape[::-1]) - 1)
    in_tissue = np.zeros(len(centres), bool) if empty else tissue[at[:, 1], at[:, 0]]
    tiles = write_tiles(
        folder / "tiles.parquet", centres, array_row=row, array_col=col, in_tissue=in_tissue, sample=sample
    )
    values = smooth_features(rows, columns, seed=seed)
    ids = np.flatnonzero(in_tissue)
    features = write_features(
        folder / "features.parquet",
        ids,
        {"morphology.embedding": values[ids]},
        unreadable=unreadable,
        sample=sample,
    )
    cv2.imwrite(str(folder / "thumbnail.png"), image[..., ::-1])
    cv2.imwrite(str(folder / "tissue.png"), np.where(pen, 2, 0 if empty else tissue).astype(np.uint8))
    record = SlideRecord(
        sample=sample,
        slide_digest=SLIDE_DIGEST,
        reader="tiff",
        width_px=width_px,
        height_px=height_px,
        levels=(LevelRecord(width_px=width_px, height_px=height_px, downsample=1.0),),
        um_per_px=UM_PER_PX,
        um_per_px_source="file",
        vendor="aperio",
        objective_power=20,
        tile_px=224,
        requested_um_per_px=0.5,
        pitch_um=PITCH_PX * UM_PER_PX,
        layout="grid",
        tile_count=int(in_tissue.sum()),
        tissue_area_mm2=float(in_tissue.sum()) * (PITCH_PX * UM_PER_PX / 1000) ** 2,
        pen_fraction=float(pen.mean()),
        thumbnail_um_per_px=THUMBNAIL_UM_PER_PX,
        bundle_digest=bundle_digest,
    )
    write_json(folder / "slide.json", record)
    return SlideFiles(
        record, tiles, features, folder / "thumbnail.png", folder / "tissue.png", values.astype(np.float16)
    )


def smooth_features(rows: int, columns: int, *, seed: int) -> np.ndarray:
    """Features that vary smoothly over the slide, as tissue does: [tile, dim], about mean 0 and sd 1."""
    random = np.random.default_rng(seed)
    field = random.normal(size=(rows, columns, DIM)).astype(np.float32)
    field = np.stack([cv2.GaussianBlur(field[..., dim], (0, 0), max(columns / 14, 0.8)) for dim in range(DIM)], axis=-1)
    field = (field - field.mean(axis=(0, 1))) / np.maximum(field.std(axis=(0, 1)), 1e-6)
    return field.reshape(-1, DIM)
