"""Whatever is given for any input of a verb of gene knowledge, a user reads histocast's own error."""

from __future__ import annotations

from pathlib import Path

import pytest

from broken_inputs import MEANT, run, write_broken
from histocast.genes.describe import describe_genes
from histocast.genes.gene_options import Sources
from histocast.genes.name_tables import open_catalogue
from histocast.genes.resolve import resolve_genes


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A panel of one gene, a table of names that holds it, and what 'resolve' and 'describe' write of it."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "panel.txt").write_text("TP53\n")
    (folder / "names.csv").write_text("gene_symbol,gene_id\nTP53,ENSG00000141510\n")
    named = resolve_genes(folder / "panel.txt", catalogue=open_catalogue([folder / "names.csv"]), outdir=folder)
    (folder / "refined.tsv").write_text("symbol\tdescription\nTP53\tA tumour suppressor.\n")
    describe_genes(named.path, outdir=folder, sources=Sources(refined=folder / "refined.tsv"))
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Broken files, each also under a name that a reader chooses by."""
    folder = tmp_path_factory.mktemp("broken")
    found = write_broken(folder)
    named = {}
    for kind in ("random", "parquet", "cut_parquet"):
        named[f"{kind} as Parquet"] = folder / f"{kind}_.parquet"
        named[f"{kind} as Parquet"].write_bytes(found[kind].read_bytes())
    wide = folder / "wide"
    wide.write_text("gene_symbol,gene_id\n" + "A" * 200_000 + ",B\n")
    return {**found, **named, "wide": wide}


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("resolve", ("--genes", "--names")),
        ("describe", ("--names", "--ncbi", "--uniprot", "--go", "--go-terms", "--refined")),
        ("embed", ("--texts", "--weights")),
        ("prepare", ("--genes", "--bundle", "--weights")),
    ],
)
def test_no_foreign_exception_reaches_a_user(
    verb: str,
    options: tuple[str, ...],
    good: Path,
    broken: dict[str, Path],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    right = {
        "resolve": {"--genes": good / "panel.txt", "--names": good / "names.csv"},
        "describe": {"--names": good / "gene-names.parquet", "--refined": good / "refined.tsv"},
        "embed": {"--texts": good / "gene-texts.parquet", "--encoder": "biobert"},
        "prepare": {
            "--genes": good / "panel.txt",
            "--bundle": root / "assets" / "demo-bundle",
        },
    }[verb]
    wrong = {}
    for option in options:
        for kind, path in broken.items():
            if verb == "embed" and option == "--weights" and not path.is_dir():
                continue  # a name that is no folder is looked for on a network
            given = {**right, option: path}
            if verb == "embed" and option == "--texts":
                given["--encoder"] = "minilm"
            line = [part for name, value in given.items() for part in (name, str(value))]
            code, said = run(["genes", verb, *line, "--outdir", str(tmp_path / "out")], capsys)
            if code not in MEANT or "Traceback" in said:
                wrong[option, kind] = (code, said[-300:])
    assert wrong == {}
