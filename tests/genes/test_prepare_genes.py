"""Any gene that can be described is asked of a bundle by one verb, and with its own text encoder alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from histocast.bundle import read_bundle
from histocast.cli import read_stage
from histocast.errors import ConfigError, UsageError
from histocast.fusion.selected_genes import EVIDENCE, ask_genes
from histocast.genes.prepare_genes import encoder_of
from histocast.genes.text_encoders import SentenceEncoder

KNOWN, OTHERS = "KRT8", ("MYH9", "VWF")


@pytest.fixture
def demo_bundle(root: Path) -> Path:
    return root / "assets" / "demo-bundle"


@pytest.mark.usefixtures("minilm")
def test_genes_a_bundle_never_heard_of_can_be_asked_for(demo_bundle: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "panel.txt").write_text("\n".join((OTHERS[0], KNOWN, OTHERS[1])))
    bundle = read_bundle(demo_bundle)
    own = pq.read_table(demo_bundle / "genes.parquet").column("gene_symbol").to_pylist()
    assert KNOWN in own
    assert not {*OTHERS} & {*own}

    terms = root / "assets" / "demo-genes" / "terms.tsv"
    arguments = ["--genes", tmp_path / "panel.txt", "--bundle", demo_bundle, "--go", terms, "--outdir", tmp_path / "a"]
    read_stage(["genes", "prepare", *map(str, arguments)]).run()

    asked = ask_genes(demo_bundle, bundle, tmp_path / "a" / "genes.parquet").table
    assert asked.column("gene_symbol").to_pylist() == [OTHERS[0], KNOWN, OTHERS[1]]
    assert asked.column("seen_in_training").to_pylist() == [False, True, False]
    assert set(asked.column(EVIDENCE).to_pylist()[::2]) <= {"similar_text", "dissimilar_text"}
    embedded = pq.read_table(tmp_path / "a" / "genes.parquet")
    assert "Gene Ontology" in embedded.column("text").to_pylist()[1]
    # The bundle's own description of a gene it knows was made from the same sources by the same encoder.
    theirs = pq.read_table(demo_bundle / "genes.parquet").to_pylist()[own.index(KNOWN)]["embedding"]
    np.testing.assert_allclose(embedded.column("embedding").to_pylist()[1], theirs, atol=1e-6)


def test_another_encoder_or_none_is_refused(demo_bundle: Path, minilm: SentenceEncoder) -> None:
    bundle = read_bundle(demo_bundle)
    assert bundle.gene_text is not None

    def told(**changes: object) -> None:
        text = bundle.gene_text.model_copy(update=changes)
        encoder_of(bundle.model_copy(update={"gene_text": text}), weights=None)

    assert encoder_of(bundle, weights=None).label == minilm.label == bundle.gene_text.encoder
    with pytest.raises(ConfigError, match=r"(?s)of revision sha256:53aa.*of revision another"):
        told(encoder_revision="another")
    with pytest.raises(ConfigError, match="no word of the text encoder"):
        told(encoder=None)
    with pytest.raises(UsageError, match="--weights"):
        told(encoder="conch/own/normalised/128")
    with pytest.raises(UsageError, match=r"(?s)endpoint:words.*genes resolve"):
        told(encoder="endpoint:words/own/raw/0")
    fusion = bundle.fusion.model_copy(update={"inputs": ()})
    with pytest.raises(ConfigError, match="predicts the genes it was trained on alone"):
        encoder_of(bundle.model_copy(update={"fusion": fusion}), weights=None)
