"""Genes are found under every name they come by, name by name, and what is no gene is left out and said."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from histocast import cli
from histocast.errors import DataError
from histocast.genes.name_tables import shipped_names
from histocast.sections.counts import CountMatrix
from histocast.sections.gene_names import name_genes
from histocast.sections.measured_panel import find_panel, gene_columns
from histocast.sections.read_counts import read_counts

# Ensembl id, approved symbol, an old symbol, NCBI Gene and HGNC id of some genes.
GENES = {
    "ENSG00000141736": ("ERBB2", "NGL", "2064", "HGNC:3430"),
    "ENSG00000163041": ("H3-3A", "H3F3A", "3020", "HGNC:4764"),
    "ENSG00000168385": ("SEPTIN2", "SEPT2", "4735", "HGNC:7729"),
    "ENSG00000145416": ("MARCHF1", "MARCH1", "55016", "HGNC:26077"),
    "ENSG00000133794": ("BMAL1", "ARNTL", "406", "HGNC:701"),
}
SPELLINGS = {
    "id": lambda gene: gene,
    "id with version": lambda gene: f"{gene}.14",
    "id of a genome": lambda gene: f"GRCh38_{gene}",
    "approved symbol": lambda gene: GENES[gene][0],
    "old symbol": lambda gene: GENES[gene][1],
    "symbol of a genome": lambda gene: f"hg38___{GENES[gene][0]}",
    "NCBI Gene id": lambda gene: GENES[gene][2],
    "NCBI Gene id read as a number": lambda gene: f"{GENES[gene][2]}.0",
    "HGNC id": lambda gene: GENES[gene][3],
    "id and symbol in one": lambda gene: f"{gene}.14_{GENES[gene][0]}",
    "old symbol and id in one": lambda gene: f"{GENES[gene][1]}|{gene}",
    "symbol of a reference": lambda gene: f"refdata-gex-GRCh38-2020-A_{GENES[gene][0]}",
}


def spelled(spelling: str) -> list[str]:
    return [SPELLINGS[spelling](gene) for gene in GENES]


def section(sample: str, ids: tuple[str, ...], symbols: tuple[str, ...]) -> SimpleNamespace:
    return SimpleNamespace(gene_ids=ids, gene_symbols=symbols, record=SimpleNamespace(sample=sample))


@pytest.mark.parametrize(("panel", "counts"), list(product(SPELLINGS, SPELLINGS)))
def test_a_panel_in_any_spelling_is_found_in_counts_of_any_spelling(panel: str, counts: str) -> None:
    named = name_genes(spelled(counts), spelled(counts), table=None)
    assert named.ids == tuple(GENES)
    # Also in sections that were prepared before names were resolved, which hold what the counts said.
    before = tuple(SPELLINGS[counts](gene) for gene in GENES)
    sections = [section("new", named.ids, named.symbols)]
    if counts in ("id", "approved symbol", "old symbol"):
        sections.append(section("before", before, before))
    found = find_panel(spelled(panel), sections, missing="refuse", least=0.5, where="test")
    assert found.gene_ids == tuple(GENES)
    for one in sections:
        assert found.columns[one.record.sample].tolist() == [0, 1, 2, 3, 4]


def test_every_gene_is_decided_by_itself() -> None:
    ids = ["ENSG00000141736", float("nan"), None, "nan", "", "4735"]
    symbols = ["ERBB2", "H3F3A", "MARCH1", "KRT8", "ARNTL", "an own name"]
    found = name_genes(ids, symbols, table={"KRT8": "ENSG00000000008"})
    assert found.ids == (
        "ENSG00000141736", "ENSG00000163041", "ENSG00000145416", "ENSG00000000008", "ENSG00000133794", "ENSG00000168385",
    )  # fmt: skip
    assert found.symbols == tuple(symbols)
    assert found.record.resolved == {"id": 1, "previous": 3, "table": 1, "ncbi id": 1}
    assert found.record.by_alias == 3
    assert found.record.tables == shipped_names()
    assert "HGNC table of 20" in shipped_names()


def test_an_id_is_given_to_the_surest_name_alone() -> None:
    found = name_genes(["H3-3A", "H3F3A", "ENSG00000168385", "SEPT2"], [""] * 4, table=None)
    assert found.ids == ("ENSG00000163041", "H3F3A", "ENSG00000168385", "SEPT2")
    assert found.record.resolved == {"approved": 1, "nothing": 2, "id": 1}


def test_names_of_another_species_mean_no_human_gene() -> None:
    # C3 and F5 are symbols of human genes too.
    symbols = ["Erbb2", "Krt8", "Col1a1", "Vim", "C3", "F5"]
    assert name_genes(symbols, symbols, table=None).ids == tuple(symbols)
    mouse = section("M", tuple(symbols), tuple(symbols))
    with pytest.raises(DataError, match=r"(?s)sample M.*0 of 2 panel genes.*ERBB2, KRT8.*another species") as refused:
        find_panel(["ERBB2", "KRT8"], [mouse], missing="mask", least=0.5, where="test")
    assert refused.value.exit_code == 65
    ids = ("ENSMUSG00000062312", "ENSMUSG00000049382")
    with pytest.raises(DataError, match=r"(?s)0 of 2.*another species.*ENSMUSG00000062312"):
        find_panel(["ERBB2", "KRT8"], [section("M", ids, ("Erbb2", "Krt8"))], missing="zero", where="test")


def test_an_id_and_a_symbol_that_do_not_belong_together_are_no_name_of_either() -> None:
    names = ["ENSG00000141736_KRT8", "NOSUCH_ENSG00000141736", "HLA-A_ENSG00000206503", "ENSG00000141736"]
    assert name_genes(names, names, table=None).ids == (*names[:2], "ENSG00000206503", "ENSG00000141736")


def test_of_several_genomes_only_the_human_one_is_dropped() -> None:
    names = ["GRCh38_C3", "mm10___C3", "GRCh38_ENSG00000141736"]
    assert name_genes(names, names, table=None).ids == ("ENSG00000125730", "mm10___C3", "ENSG00000141736")


@pytest.mark.parametrize(
    ("least", "count", "accepted"), [(0.5, 2, False), (0.5, 3, True), (0.0, 1, True), (0.0, 0, False)]
)
def test_a_section_below_the_bound_is_refused(least: float, count: int, accepted: bool) -> None:
    symbols = [names[0] for names in GENES.values()]
    found = (*symbols[:count], "COL1A1")
    sections = [section("all", tuple(symbols), tuple(symbols)), section("S", found, found)]
    if accepted:
        panel = find_panel(symbols, sections, missing="mask", least=least, where="recipe made")
        assert panel.measured("S").tolist() == [place < count for place in range(5)]
        return
    with pytest.raises(DataError, match=rf"(?s)sample S, recipe made: {count} of 5 panel genes.*other genes"):
        find_panel(symbols, sections, missing="mask", least=least, where="recipe made")


def test_a_withdrawn_id_in_one_section_is_the_gene_of_the_other() -> None:
    old, now = section("old", ("ENSG00000182584",), ("ACTL10",)), section("now", ("ENSG00000288649",), ("ACTL10",))
    for name in ("ACTL10", "ENSG00000288649"):
        assert find_panel([name], [old, now], missing="refuse", where="test").gene_ids == ("ENSG00000288649",)


SPOTS = [f"{number}x1" for number in range(1, 5)]
COUNTS = np.arange(1, 13).reshape(4, 3)


def write_table(path: Path, columns: dict[str, object]) -> Path:
    table = pd.DataFrame(columns, index=SPOTS)
    if path.suffix == ".parquet":
        table.insert(0, "spot", pd.Categorical(SPOTS))
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, sep="," if path.suffix == ".csv" else "\t")
    return path


NO_GENES: dict[str, object] = {
    "__ambiguous[KRT8+KRT18]": [5, 5, 5, 5],
    "__no_feature": [7, 7, 7, 7],
    "ERCC-00002": [9, 9, 9, 9],
    "2-Sep": [1, 2, 3, 4],
    **{
        name: [3, 3, 3, 3]
        for name in (
            "NegControlProbe_00042",
            "NegControlCodeword_0500",
            "Negative3",
            "NegPrb01",
            "BLANK_0006",
            "Blank-17",
            "antisense_PROKR2",
            "UnassignedCodeword_0001",
            "DeprecatedCodeword_0318",
            "DEPRECATED_ENSG00000170421",
            "SystemControl12",
            "Intergenic_Region_13231",
        )
    },
    "ENSG00000182378.14_PAR_Y": [0, 0, 1, 0],
    "x": [1.5, 2.5, 3.5, 4.5],
    "in_tissue": [True, True, False, True],
    "cluster": ["a", "b", "a", "b"],
}


@pytest.mark.parametrize("name", ["c.tsv", "c.csv", "c.parquet"])
def test_names_that_are_no_genes_are_left_out_said_and_counted_in_no_library(name: str, tmp_path: Path) -> None:
    genes = {"ERBB2": COUNTS[:, 0], "H3F3A": COUNTS[:, 1], "KRT8": COUNTS[:, 2]}
    found = read_counts(write_table(tmp_path / name, {**NO_GENES, **genes}))
    assert found.gene_symbols == ("ERBB2", "H3F3A", "KRT8")
    np.testing.assert_array_equal(found.matrix.toarray(), COUNTS)
    assert found.spots == tuple(SPOTS)
    assert found.names is not None
    assert sum(found.names.left_out.values()) == len(NO_GENES)
    for said in (
        "reads that no one gene has",
        "spike-ins",
        "control probes",
        "spreadsheet",
        "chromosome Y",
        "about spots",
        shipped_names(),
    ):
        assert said in found.names.describe()


def test_counts_without_a_gene_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no gene among 1 names \(1 spike-ins\)"):
        read_counts(write_table(tmp_path / "c.tsv", {"ERCC-00002": [1, 2, 3, 4]}))


@pytest.mark.parametrize("index", [pa.dictionary(pa.int32(), pa.string()), pa.string_view(), pa.large_string()])
def test_spot_names_of_every_kind_of_text_are_read(index: pa.DataType, tmp_path: Path) -> None:
    names = pa.array(SPOTS).dictionary_encode() if pa.types.is_dictionary(index) else pa.array(SPOTS, index)
    pq.write_table(pa.table({"ERBB2": pa.array([1, 2, 3, 4]), "spot": names}), tmp_path / "c.parquet")
    assert read_counts(tmp_path / "c.parquet").spots == tuple(SPOTS)


def write_h5ad(path: Path, var: pd.DataFrame) -> Path:
    matrix = csr_matrix(np.ones((4, len(var)), np.float32))
    anndata.AnnData(X=matrix, obs=pd.DataFrame(index=SPOTS), var=var).write_h5ad(path)
    return path


@pytest.mark.parametrize("gaps", [0, 1, 2])
def test_anndata_is_named_gene_by_gene(gaps: int, tmp_path: Path) -> None:
    symbols, ids = [names[0] for names in GENES.values()], list(GENES)
    # Recent references name a gene without a symbol by its id.
    var = pd.DataFrame({"gene_ids": [*ids, "ENSG00000290826"]}, index=[*symbols, "ENSG00000290826"])
    var.iloc[:gaps, 0] = np.nan
    found = read_counts(write_h5ad(tmp_path / "c.h5ad", var))
    assert found.gene_ids == (*ids, "ENSG00000290826")
    assert found.gene_symbols[:5] == tuple(symbols)


def test_antibodies_are_no_genes_and_alone_are_refused(tmp_path: Path) -> None:
    var = pd.DataFrame({"feature_types": ["Gene Expression", "Antibody Capture"]}, index=["ERBB2", "CD3E"])
    assert read_counts(write_h5ad(tmp_path / "both.h5ad", var)).gene_symbols == ("ERBB2",)
    alone = write_h5ad(tmp_path / "alone.h5ad", var.iloc[1:])
    # Other programs state a biotype in the same column.
    var = pd.DataFrame({"feature_type": ["protein_coding", "lncRNA"]}, index=["ERBB2", "XIST"])
    assert read_counts(write_h5ad(tmp_path / "biotypes.h5ad", var)).gene_symbols == ("ERBB2", "XIST")
    for path in (alone, write_antibodies(tmp_path / "alone.h5")):
        with pytest.raises(DataError, match=r"no gene expression features \(\d Antibody Capture\)"):
            read_counts(path)


def write_antibodies(path: Path) -> Path:
    matrix = csc_matrix(np.ones((2, 4), np.int32))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"], group["barcodes"] = matrix.shape, np.array(SPOTS, "S")
        features = group.create_group("features")
        features["id"] = features["name"] = np.array(["CD3E", "CD4"], "S")
        features["feature_type"] = np.array(["Antibody Capture"] * 2, "S")
    return path


def test_columns_are_found_in_counts_that_were_not_prepared() -> None:
    counts = CountMatrix(("1x1",), ("ENSG00000163041", "own"), ("H3F3A", "own"), csr_matrix([[1, 2]]), "made")
    assert gene_columns(["own", "H3-3A", "KRT8"], counts, sample="S").tolist() == [1, 0, -1]


def write_mouse(path: Path) -> Path:
    symbols = [names[0].capitalize() for names in GENES.values()]
    var = pd.DataFrame({"gene_ids": [f"ENSMUSG{number:011}" for number in range(len(symbols))]}, index=symbols)
    return write_h5ad(path, var)


def write_strange(path: Path) -> Path:
    write_h5ad(path, pd.DataFrame(index=["ERBB2"]))
    with h5py.File(path, "r+") as file:
        file["obs"].attrs["encoding-type"] = "dataframe-next"
    return path


@pytest.mark.parametrize(
    ("counts", "write", "said"),
    [
        ("c.h5ad", write_mouse, ("0 of 5 panel genes", "another species")),
        ("c.h5", write_antibodies, ("no gene expression features (2 Antibody Capture)",)),
        ("c.h5ad", write_strange, ("not a readable AnnData file",)),
        ("c.tsv", lambda path: write_table(path, {"ERBB2": [1, 2, 3, 4]}), ("1 of 5 panel genes", "other genes")),
    ],
)
def test_prepare_refuses_counts_before_it_looks_at_the_slide(
    counts: str,
    write: Callable[[Path], Path],
    said: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / counts)
    (tmp_path / "training.csv").write_text(f"sample,slide,counts,patient\nS1,not-there.tif,{counts},P1\n")
    (tmp_path / "panel.txt").write_text("\n".join(names[0] for names in GENES.values()))
    options = ("--recipe", "visium", "--panel", tmp_path / "panel.txt", "--outdir", tmp_path / "set")
    arguments = ["histocast", "prepare", "--input", tmp_path / "training.csv", *options]
    monkeypatch.setattr("sys.argv", [str(argument) for argument in arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 65
    error = capsys.readouterr().err
    assert all(part in error for part in said), error
    assert "Traceback" not in error
