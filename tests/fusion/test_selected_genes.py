"""Genes are asked for by name or by description, and each is told on what its prediction stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from described_bundle import (
    ENCODER,
    NEAR_DISTANCE,
    REVISION,
    SEEN,
    TEXT,
    UNSEEN,
    gene_texts,
    write_described_bundle,
    write_descriptions,
)
from histocast.artifacts import GENE_EMBEDDINGS, METADATA_KEY
from histocast.bundle import Bundle
from histocast.errors import ConfigError, DataError, MissingInputError
from histocast.fusion.selected_genes import ask_genes, find_nearest, near_distance
from histocast.inference import verify_bundle
from sample_bundle import write_bundle

OWN = {f"ENSG{number:011d}": f"GENE{number}" for number in range(SEEN + UNSEEN)}
OTHERS = {"ENSG00000000901": "ZZZ1", "ENSG00000000902": "ZZZ2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_described_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return verify_bundle(folder)


def test_all_genes_of_the_bundle_with_their_evidence(folder: Path, bundle: Bundle) -> None:
    asked = ask_genes(folder, bundle, None)
    assert asked.index.tolist() == list(range(SEEN + UNSEEN))
    assert asked.table["evidence"].to_pylist()[: SEEN + 1] == ["trained"] * SEEN + ["similar_text"]
    assert asked.table["evidence"].to_pylist()[-1] == "dissimilar_text"
    distance = asked.table["text_distance"].to_pylist()
    assert distance[:SEEN] == [None] * SEEN
    assert distance[SEEN] < 0.01
    assert distance[-1] > NEAR_DISTANCE
    assert asked.table["nearest_gene"].to_pylist()[: SEEN + 1] == [""] * SEEN + ["GENE0"]


def test_a_panel_may_name_genes_that_were_never_measured(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    panel = tmp_path / "panel.txt"
    panel.write_text(f"GENE{SEEN}\nGENE2\n")
    asked = ask_genes(folder, bundle, panel)
    assert asked.table["gene_symbol"].to_pylist() == [f"GENE{SEEN}", "GENE2"]
    assert asked.table["seen_in_training"].to_pylist() == [False, True]
    panel.write_text("NOSUCH\n")
    with pytest.raises(DataError, match="histocast genes prepare"):
        ask_genes(folder, bundle, panel)


def test_described_genes_join_those_of_the_bundle_which_keep_their_own_description(
    folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    texts = gene_texts(4, seed=9)
    texts[3] = gene_texts(SEEN + UNSEEN)[5] * 2 + 0.001
    genes = {"ENSG00000000901": "ZZZ1", "ENSG00000000002": "RENAMED", "GENE3": "GENE3", "ENSG00000000902": "ZZZ2"}
    asked = ask_genes(folder, bundle, write_descriptions(tmp_path / "genes.parquet", genes, texts))
    assert asked.table["gene_id"].to_pylist() == [
        *("ENSG00000000901", "ENSG00000000002", "ENSG00000000003", "ENSG00000000902")
    ]
    assert asked.table["gene_symbol"].to_pylist() == ["ZZZ1", "GENE2", "GENE3", "ZZZ2"]
    assert asked.table["seen_in_training"].to_pylist() == [False, True, True, False]
    found = np.array(asked.table["embedding"].to_pylist(), np.float32)
    own = gene_texts(SEEN + UNSEEN)
    np.testing.assert_array_equal(found, [texts[0], own[2], own[3], texts[3]])
    assert asked.table["evidence"].to_pylist()[1:] == ["trained", "trained", "similar_text"]
    assert asked.table["val_pcc"].to_pylist()[0] is None
    assert np.isnan(asked.table["interval_90"].to_pylist()[3])


@pytest.mark.parametrize(
    ("encoder", "revision"), [("minilm/cls/normalised/256", REVISION), (ENCODER, "sha256:others"), ("biobert", "x")]
)
def test_another_encoder_pooling_or_revision_is_refused_naming_both(
    folder: Path, bundle: Bundle, tmp_path: Path, encoder: str, revision: str
) -> None:
    path = write_descriptions(tmp_path / "g.parquet", OTHERS, gene_texts(2), encoder=encoder, revision=revision)
    with pytest.raises(ConfigError) as caught:
        ask_genes(folder, bundle, path)
    assert f"{encoder} of revision {revision}" in caught.value.message
    assert f"{ENCODER} of revision {REVISION}" in caught.value.message
    assert caught.value.exit_code == 78


def test_a_bundle_that_does_not_say_its_encoder_takes_no_other_genes(tmp_path: Path) -> None:
    bundle = write_described_bundle(tmp_path / "bundle", encoder=None)
    path = write_descriptions(tmp_path / "g.parquet", OTHERS, gene_texts(2))
    with pytest.raises(ConfigError, match="does not say which text encoder"):
        ask_genes(tmp_path / "bundle", bundle, path)


def test_a_model_that_knows_its_panel_alone_refuses_others_and_takes_its_own(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    path = write_descriptions(tmp_path / "g.parquet", {**OTHERS, "ENSG00000000003": "GENE3"}, gene_texts(3))
    with pytest.raises(ConfigError, match="2 genes outside the panel: ZZZ1, ZZZ2") as caught:
        ask_genes(tmp_path / "bundle", bundle, path)
    assert caught.value.exit_code == 78
    write_descriptions(path, {"ENSG00000000003": "GENE3"}, gene_texts(1))
    asked = ask_genes(tmp_path / "bundle", bundle, path)
    assert asked.index.tolist() == [3]
    assert asked.table["evidence"].to_pylist() == ["trained"]


def test_one_gene_under_two_names_is_told(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    genes = {"ENSG00000000002": "GENE2", "ENSG00000000777": "GENE2"}
    path = write_descriptions(tmp_path / "g.parquet", genes, gene_texts(2))
    with pytest.raises(DataError, match="the same gene as 'GENE2'"):
        ask_genes(folder, bundle, path)


def test_other_files_and_widths_are_refused(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        ask_genes(folder, bundle, tmp_path / "none.parquet")
    with pytest.raises(DataError, match="gene-embeddings"):
        ask_genes(folder, bundle, folder / "genes.parquet")
    wide = np.ones((2, TEXT + 1), np.float32)
    with pytest.raises(ConfigError, match=f"{TEXT} numbers"):
        ask_genes(folder, bundle, write_descriptions(tmp_path / "wide.parquet", OTHERS, wide))
    bad = gene_texts(2)
    bad[1, 0] = np.nan
    with pytest.raises(ConfigError, match="not finite"):
        ask_genes(folder, bundle, write_descriptions(tmp_path / "bad.parquet", OTHERS, bad))
    empty = pq.read_table(write_descriptions(tmp_path / "g.parquet", OTHERS, gene_texts(2))).slice(0, 0)
    assert METADATA_KEY in empty.schema.metadata
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no gene"):
        ask_genes(folder, bundle, tmp_path / "empty.parquet")


def test_distance_is_one_minus_the_largest_cosine() -> None:
    training = np.array([[1, 0], [0, 3]], np.float32)
    asked = np.array([[5, 0], [1, 1], [-2, 0]], np.float32)
    distance, place = find_nearest(asked, training)
    np.testing.assert_allclose(distance, [0, 1 - 0.5**0.5, 1], atol=1e-6)
    assert place.tolist() == [0, 0, 1]
    np.testing.assert_allclose(find_nearest(training, training, itself=True)[0], [1, 1], atol=1e-6)


def test_the_threshold_is_the_median_distance_among_training_genes() -> None:
    angles = np.deg2rad([0, 10, 30, 90])
    training = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    nearest = 1 - np.cos(np.deg2rad([10, 10, 20, 60]))
    assert near_distance(training) == pytest.approx(np.median(nearest), abs=1e-6)


def test_descriptions_of_the_schema_that_embed_writes_are_what_is_read(tmp_path: Path) -> None:
    found = pq.read_schema(write_descriptions(tmp_path / "g.parquet", OTHERS, gene_texts(2)))
    assert {column.name for column in GENE_EMBEDDINGS.columns} <= set(found.names)
    assert pa.types.is_fixed_size_list(found.field("embedding").type)
