"""A tiny bundle whose fusion graph takes genes by their descriptions, and files of descriptions beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from histocast.artifacts import GENE_EMBEDDINGS, GENES, write_json, write_table
from histocast.bundle import Bundle, GeneTextSpec, sha256_of_file
from histocast.records import Provenance
from sample_bundle import DIM, write_bundle

TEXT = 4
ENCODER, REVISION = "minilm/mean/normalised/256", "sha256:weights"
SEEN, UNSEEN = 8, 3
NEAR_DISTANCE = 0.02


def gene_texts(count: int, *, seed: int = 1) -> np.ndarray:
    """Embeddings [gene, TEXT] that point anywhere."""
    return np.random.default_rng(seed).normal(size=(count, TEXT)).astype(np.float32)


def projection() -> np.ndarray:
    """[dim, TEXT]: what a spot's features are multiplied by before they meet a gene."""
    return np.random.default_rng(2).normal(scale=0.3, size=(DIM, TEXT)).astype(np.float32)


def write_described_graph(path: Path) -> None:
    """``expression = 1 + target @ P @ gene.T``, ``sd = 0.5 + 0 * expression``."""
    constants = {"p": projection(), "one": np.float32(1), "half": np.float32(0.5), "nought": np.float32(0)}
    nodes = [
        helper.make_node("MatMul", ["target", "p"], ["image"]),
        helper.make_node("Transpose", ["gene"], ["text"], perm=[1, 0]),
        helper.make_node("MatMul", ["image", "text"], ["met"]),
        helper.make_node("Add", ["met", "one"], ["expression"]),
        helper.make_node("Mul", ["met", "nought"], ["empty"]),
        helper.make_node("Add", ["empty", "half"], ["sd"]),
    ]
    graph = helper.make_graph(
        nodes,
        "fusion",
        [
            helper.make_tensor_value_info("target", TensorProto.FLOAT, ["spot", DIM]),
            helper.make_tensor_value_info("gene", TensorProto.FLOAT, ["gene", TEXT]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["spot", "gene"]) for name in ("expression", "sd")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_described_bundle(folder: Path, *, encoder: str | None = ENCODER) -> Bundle:
    """`write_bundle` with `SEEN` genes that were measured and `UNSEEN` that were not.

    Of these the first is described almost as GENE0 is, the last as nothing else.
    """
    plain = write_bundle(folder, gene_count=SEEN + UNSEEN)
    write_described_graph(folder / "fusion.onnx")
    texts = gene_texts(SEEN + UNSEEN)
    texts[SEEN] = texts[0] + 0.01
    texts[-1] = -texts[:SEEN].sum(axis=0)
    table = pa.table(
        {
            "gene_id": [f"ENSG{number:011d}" for number in range(SEEN + UNSEEN)],
            "gene_symbol": [f"GENE{number}" for number in range(SEEN + UNSEEN)],
            "seen_in_training": [True] * SEEN + [False] * UNSEEN,
            "val_pcc": pa.array([0.3] * SEEN + [None] * UNSEEN, pa.float32()),
            **{
                name: pa.array([1.0] * SEEN + [float("nan")] * UNSEEN, pa.float32())
                for name in ("mean", "interval_80", "interval_90")
            },
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(texts.reshape(-1)), TEXT),
        },
        schema=GENES.arrow(pa.field("embedding", pa.list_(pa.float32(), TEXT))),
    )
    provenance = Provenance(artifact="genes", schema_version=GENES.version, sample="bundle")
    write_table(folder / "genes.parquet", table, provenance)
    tensor = {"dtype": "float32"}
    fusion = {
        **plain.fusion.model_dump(),
        "sha256": sha256_of_file(folder / "fusion.onnx"),
        "inputs": [
            {"name": "target", "shape": ("spot", DIM), **tensor},
            {"name": "gene", "shape": ("gene", TEXT), **tensor},
        ],
        "outputs": [{"name": name, "shape": ("spot", "gene"), **tensor} for name in ("expression", "sd")],
        "feeds": {"target": ["morphology.embedding"]},
    }
    text = GeneTextSpec(encoder=encoder, encoder_revision=REVISION, near_distance=NEAR_DISTANCE)
    changes = {"fusion": fusion, "genes_sha256": sha256_of_file(folder / "genes.parquet"), "gene_text": text}
    bundle = Bundle.model_validate({**plain.model_dump(), **changes})
    write_json(folder / "bundle.json", bundle)
    return bundle


def write_descriptions(
    path: Path, genes: dict[str, str], texts: np.ndarray, *, encoder: str = ENCODER, revision: str = REVISION
) -> Path:
    """What ``histocast genes embed`` writes, of symbols by id."""
    fields = pa.field("embedding", pa.list_(pa.float32(), texts.shape[1]), nullable=False)
    rows = [
        {
            "gene_id": gene_id,
            "gene_symbol": symbol,
            "approved_symbol": symbol,
            "text": f"gene symbol: {symbol}",
            "source": "test",
            "text_sha256": "sha256:text",
            "encoder": encoder,
            "encoder_revision": revision,
            "tokens": 4,
            "truncated": False,
            "digest": "sha256:row",
            "embedding": text,
        }
        for (gene_id, symbol), text in zip(genes.items(), texts, strict=True)
    ]
    provenance = Provenance(artifact="gene-embeddings", schema_version=GENE_EMBEDDINGS.version, sample="genes")
    write_table(path, pa.Table.from_pylist(rows, schema=GENE_EMBEDDINGS.arrow(fields)), provenance)
    return path
