"""Turn the texts about genes into vectors."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histocast.artifacts import GENE_EMBEDDINGS, GENE_TEXTS, read_table, write_table
from histocast.errors import DataError
from histocast.genes.digests import digest_of, digest_of_file
from histocast.genes.journal import Journal
from histocast.genes.text_encoders import Encoded, TextEncoder
from histocast.progress import Meter
from histocast.records import Provenance

EMBEDDINGS_FILE = "genes.parquet"
JOURNAL_FILE = "embed.journal.jsonl"


@dataclass(frozen=True)
class EmbedFacts:
    """What `embed_genes` did."""

    path: Path
    genes: int
    dim: int
    encoded: int
    """Texts encoded now; the others stood in the journal."""
    truncated: int
    """Texts of which the encoder read the beginning only."""


def embed_genes(texts: Path, *, encoder: TextEncoder, outdir: Path) -> EmbedFacts:
    """Embed ``gene-texts.parquet`` and write ``genes.parquet``.

    A text has the same embedding, to the byte, whatever else is embedded with it. What was embedded stands in a
    journal beside the output, by text and encoder, and is not embedded again.

    Raises `MissingInputError` or `DataError`: the texts are absent or another file, or the encoder gives something that
    is no embedding; `TransientError` or `ConfigError`: an endpoint fails; what it answered until then is kept.
    """
    table, _ = read_table(texts, GENE_TEXTS)
    rows = table.to_pylist()
    if not rows:
        raise DataError("no gene", expected="texts of genes", where=str(texts))
    with Journal(outdir / JOURNAL_FILE) as journal:
        by_text, encoded = _encode(list(dict.fromkeys(row["text"] for row in rows)), encoder=encoder, journal=journal)
    vectors = _stack([by_text[row["text"]] for row in rows], [row["gene_symbol"] for row in rows], where=encoder.label)
    path = outdir / EMBEDDINGS_FILE
    provenance = GENE_EMBEDDINGS.provenance(
        "genes",
        inputs={"texts": digest_of_file(texts)},
        parameters={"encoder": encoder.label, "encoder_revision": encoder.revision, "dim": vectors.shape[1]},
    )
    _write(path, rows, [by_text[row["text"]] for row in rows], encoder=encoder, provenance=provenance)
    truncated = sum(bool(by_text[row["text"]].truncated) for row in rows)
    return EmbedFacts(path, len(rows), vectors.shape[1], encoded, truncated)


def _encode(texts: Sequence[str], *, encoder: TextEncoder, journal: Journal) -> tuple[dict[str, Encoded], int]:
    questions = {
        text: digest_of({"text": text, "encoder": encoder.label, "revision": encoder.revision}) for text in texts
    }
    waiting = [text for text in texts if questions[text] not in journal]
    with Meter("embed", total=len(waiting), unit="texts") as meter:
        for start in range(0, len(waiting), encoder.batch_texts):
            batch = waiting[start : start + encoder.batch_texts]
            for text, one in zip(batch, encoder.encode(batch), strict=True):
                journal.add(questions[text], _kept(one))
            meter.advance(len(batch))
    return {text: _from_kept(journal[question]) for text, question in questions.items()}, len(waiting)


def _kept(one: Encoded) -> dict[str, Any]:
    packed = base64.b64encode(one.vector.astype("<f4").tobytes()).decode()
    return {"f32": packed, "tokens": one.tokens, "truncated": one.truncated}


def _from_kept(kept: Mapping[str, Any]) -> Encoded:
    vector = np.frombuffer(base64.b64decode(kept["f32"]), "<f4").astype(np.float32)
    return Encoded(vector, kept["tokens"], kept["truncated"])


def _stack(encoded: Sequence[Encoded], symbols: Sequence[str], *, where: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Embeddings as float32 [gene, dim], refused where one is none."""
    shapes = {one.vector.shape for one in encoded}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        raise DataError(f"embeddings of shapes {sorted(shapes)}", expected="one dimension for all genes", where=where)
    vectors = np.stack([one.vector for one in encoded])
    bad = ~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1)
    if bad.any():
        named = ", ".join(np.asarray(symbols)[bad][:5])
        raise DataError(
            f"no finite embedding of {int(bad.sum())} genes: {named}", expected="finite, not all zero", where=where
        )
    return vectors


def _write(
    path: Path,
    rows: Sequence[dict[str, Any]],
    encoded: Sequence[Encoded],
    *,
    encoder: TextEncoder,
    provenance: Provenance,
) -> None:
    import pyarrow as pa

    dim = len(encoded[0].vector)
    schema = GENE_EMBEDDINGS.arrow(pa.field("embedding", pa.list_(pa.float32(), dim), nullable=False))
    written = [
        {
            **{key: row[key] for key in ("gene_id", "gene_symbol", "approved_symbol", "text", "source")},
            "text_sha256": row["digest"],
            "encoder": encoder.label,
            "encoder_revision": encoder.revision,
            "tokens": one.tokens,
            "truncated": one.truncated,
            "digest": digest_of([row["digest"], encoder.label, encoder.revision, _kept(one)["f32"]]),
            "embedding": one.vector,
        }
        for row, one in zip(rows, encoded, strict=True)
    ]
    write_table(path, pa.Table.from_pylist(written, schema=schema), provenance)
