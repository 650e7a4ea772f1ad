"""Counts are read from every layout, to the same matrix, and faults are named."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.io import mmwrite
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix

from histocast.errors import DataError, MissingInputError
from histocast.sections.counts import without_version
from histocast.sections.gene_table import read_panel
from histocast.sections.read_counts import read_counts

SPOTS = ["10x11", "11x11", "12x11"]
IDS = ["ENSG00000141736", "ENSG00000111640", "ENSG00000075624", "ENSG00000026508"]
SYMBOLS = ["ERBB2", "GAPDH", "ACTB", "CD44"]
COUNTS = np.array([[4, 0, 7, 1], [0, 2, 0, 0], [9, 1, 3, 0]])


def write_tsv(path: Path, *, counts: np.ndarray = COUNTS, genes: list[str] = SYMBOLS, corner: bool = True) -> Path:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="," if ".csv" in path.name else "\t")
    writer.writerow(["", *genes] if corner else genes)
    writer.writerows([spot, *row] for spot, row in zip(SPOTS, counts.tolist(), strict=True))
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_h5ad(path: Path, *, x: np.ndarray = COUNTS, layer: np.ndarray | None = None, by_symbol: bool = False) -> Path:
    var = pd.DataFrame({"gene_symbol": SYMBOLS}, index=[f"{gene}.3" for gene in IDS])
    if by_symbol:
        var = pd.DataFrame({"gene_ids": IDS}, index=SYMBOLS)
    data = anndata.AnnData(X=csr_matrix(x.astype(np.float32)), obs=pd.DataFrame(index=SPOTS), var=var)
    if layer is not None:
        data.layers["counts"] = csr_matrix(layer)
    data.write_h5ad(path)
    return path


def write_visium_h5(folder: Path) -> Path:
    folder.mkdir()
    # Space Ranger stores features x barcodes by column; an antibody feature must not become a gene.
    matrix = csc_matrix(np.concatenate([COUNTS.T, [[50, 60, 70]]]))
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = matrix.shape
        group["barcodes"] = np.array(SPOTS, "S")
        features = group.create_group("features")
        features["id"] = np.array([*IDS, "AB1"], "S")
        features["name"] = np.array([*SYMBOLS, "CD3"], "S")
        features["feature_type"] = np.array(["Gene Expression"] * 4 + ["Antibody Capture"], "S")
    return folder


def write_visium_mtx(folder: Path) -> Path:
    matrix = folder / "filtered_feature_bc_matrix"
    matrix.mkdir(parents=True)
    with gzip.open(matrix / "matrix.mtx.gz", "wb") as stream:
        mmwrite(stream, coo_matrix(COUNTS.T), field="integer")
    with gzip.open(matrix / "barcodes.tsv.gz", "wt") as stream:
        stream.write("\n".join(SPOTS) + "\n")
    with gzip.open(matrix / "features.tsv.gz", "wt") as stream:
        stream.writelines(f"{gene}\t{symbol}\tGene Expression\n" for gene, symbol in zip(IDS, SYMBOLS, strict=True))
    return folder


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.table({"spot": SPOTS, **dict(zip(SYMBOLS, COUNTS.T.tolist(), strict=True))}), path)
    return path


@pytest.mark.parametrize(
    ("write", "has_ids"),
    [
        pytest.param(lambda folder: write_tsv(folder / "c.tsv"), False, id="tsv"),
        pytest.param(lambda folder: write_tsv(folder / "c.tsv.gz"), False, id="gzipped tsv"),
        pytest.param(lambda folder: write_tsv(folder / "c.csv"), False, id="csv"),
        pytest.param(lambda folder: write_tsv(folder / "c.tsv", corner=False), False, id="tsv as R writes it"),
        pytest.param(lambda folder: write_parquet(folder / "c.parquet"), False, id="parquet"),
        pytest.param(lambda folder: write_h5ad(folder / "c.h5ad"), True, id="anndata by Ensembl id"),
        pytest.param(lambda folder: write_h5ad(folder / "c.h5ad", by_symbol=True), True, id="anndata by symbol"),
        pytest.param(lambda folder: write_h5ad(folder / "c.h5ad", x=COUNTS / 3, layer=COUNTS), True, id="counts layer"),
        pytest.param(lambda folder: write_visium_h5(folder / "outs"), True, id="Visium h5"),
        pytest.param(lambda folder: write_visium_mtx(folder / "outs"), True, id="Visium mtx"),
        pytest.param(lambda folder: write_visium_mtx(folder / "o") / "filtered_feature_bc_matrix", True, id="mtx folder"),
    ],
)  # fmt: skip
def test_every_layout_gives_the_same_counts(write: Callable[[Path], Path], has_ids: bool, tmp_path: Path) -> None:
    found = read_counts(write(tmp_path))
    assert found.spots == tuple(SPOTS)
    assert found.gene_ids == tuple(IDS)
    assert found.gene_symbols == tuple(SYMBOLS)
    assert found.gene_id_source == ("counts" if has_ids else "names")
    assert found.matrix.dtype == np.int32
    np.testing.assert_array_equal(found.matrix.toarray(), COUNTS)


def test_real_counts_are_read_whole(shared_data: Path) -> None:
    found = read_counts(shared_data / "her2st" / "counts" / "C3.tsv.gz")
    assert found.matrix.shape == (180, 15_821)
    table = pd.read_csv(shared_data / "her2st" / "counts" / "C3.tsv.gz", sep="\t", index_col=0)
    assert (found.matrix.toarray() == table.to_numpy()).all()
    assert list(found.spots) == list(table.index)


def test_a_gene_table_gives_ids_to_symbols(tmp_path: Path) -> None:
    counts = write_tsv(tmp_path / "c.tsv")
    rows = [f"ENSG9{gene[5:]}.7\t{symbol}" for gene, symbol in zip(IDS[:3], SYMBOLS[:3], strict=True)]
    table = tmp_path / "genes.tsv"
    table.write_text("\n".join(["gene_id\tgene_symbol", *rows]) + "\n")
    found = read_counts(counts, genes=table)
    # The shipped names know the fourth.
    assert found.gene_ids == (*(f"ENSG9{gene[5:]}" for gene in IDS[:3]), IDS[3])
    assert found.gene_id_source == "table"


def test_only_ensembl_versions_are_dropped() -> None:
    assert without_version("ENSG00000141736.14") == "ENSG00000141736"
    assert without_version("ENSMUSG00000000001.5") == "ENSMUSG00000000001"
    assert without_version("FO538757.1") == "FO538757.1"


def damaged_gzip(folder: Path) -> Path:
    path = write_tsv(folder / "c.tsv.gz")
    path.write_bytes(path.read_bytes()[:-20])
    return path


def text_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(lambda f: text_file(f, "c.xlsx", "x"), "unknown layout", id="unknown layout"),
        pytest.param(lambda f: text_file(f, "c.tsv", ""), "without rows", id="empty"),
        pytest.param(lambda f: text_file(f, "c.tsv", "\tA\tB\n"), "without rows", id="header only"),
        pytest.param(lambda f: text_file(f, "c.tsv", "a b\n1 2\n"), "cells in the header", id="wrong delimiter"),
        pytest.param(lambda f: text_file(f, "c.tsv", "\tA\tB\n1x1\t1\t2\n2x1\t1\n"), "line 3: 2 cells", id="ragged"),
        pytest.param(lambda f: text_file(f, "c.tsv", "\tA\tB\n1x1\t1\tNA\n"), "'NA' is no number", id="text"),
        pytest.param(lambda f: text_file(f, "c.tsv", "\tA\tB\n1x1\t1\tnan\n"), "not counts", id="nan"),
        pytest.param(lambda f: text_file(f, "c.tsv", "\t1x1\t2x1\nA\t1\t2\n"), "named like spots", id="turned"),
        pytest.param(lambda f: write_tsv(f / "c.tsv", counts=-COUNTS), "-4 at spot '10x11', gene 'ERBB2'", id="negative"),
        pytest.param(lambda f: write_tsv(f / "c.tsv", counts=COUNTS / 4), "not counts", id="not whole"),
        pytest.param(lambda f: write_h5ad(f / "c.h5ad", x=np.log1p(COUNTS)), r"layers\['counts'\]", id="logarithms"),
        pytest.param(lambda f: text_file(f, "c.tsv", "\tA\n1x1\t1\n1x1\t2\n"), "1 spots appear more than once: 1x1", id="spot twice"),
        pytest.param(
            lambda f: write_tsv(f / "c.tsv", genes=[IDS[0] + ".1", IDS[0] + ".2", "A", "B"]),
            "1 genes appear more than once: ENSG00000141736",
            id="gene twice without version",
        ),
        pytest.param(damaged_gzip, "whole gzip", id="truncated gzip"),
        pytest.param(lambda f: text_file(f, "c.tsv.gz", "plain"), "whole gzip", id="no gzip"),
        pytest.param(lambda f: text_file(f, "c.h5ad", "plain"), "not a readable AnnData", id="no AnnData"),
        pytest.param(lambda f: text_file(f, "c.h5", "plain"), "not a readable 10x", id="no HDF5"),
        pytest.param(lambda f: text_file(f, "c.parquet", "plain"), "not a readable Parquet", id="no Parquet"),
    ],
)  # fmt: skip
def test_faults_are_named(write: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_counts(write(tmp_path))


def test_what_is_absent_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        read_counts(tmp_path / "c.tsv")
    (tmp_path / "outs").mkdir()
    with pytest.raises(MissingInputError, match=r"no filtered_feature_bc_matrix"):
        read_counts(tmp_path / "outs")


def test_a_symbol_with_two_ids_is_refused(tmp_path: Path) -> None:
    table = text_file(tmp_path, "g.csv", f"gene_id,gene_symbol\n{IDS[0]},ERBB2\n{IDS[1]},ERBB2\n")
    with pytest.raises(DataError, match=r"line 3.*'ERBB2'"):
        read_counts(write_tsv(tmp_path / "c.tsv"), genes=table)


def test_a_panel_is_read_and_its_faults_are_listed(tmp_path: Path, shared_data: Path) -> None:
    assert len(read_panel(shared_data / "genes" / "panels" / "her2st.txt")) == 250
    good = text_file(tmp_path, "p.txt", "\ufeff# breast\nERBB2\n\nENSG00000111640.15  # GAPDH\n")
    assert read_panel(good) == ("ERBB2", "ENSG00000111640")
    with pytest.raises(DataError, match="line 3: 'A' is on line 1 too"):
        read_panel(text_file(tmp_path, "twice.txt", "A\nB\nA\n"))
    with pytest.raises(DataError, match="no gene"):
        read_panel(text_file(tmp_path, "empty.txt", "\n# nothing\n"))
    for number, (line, said) in enumerate((('"ERBB2"', "quotes"), ("ERBB2;KRT8", "a semicolon"), ("A,B", "a comma"))):
        with pytest.raises(DataError, match=f"line 2: .* holds {said}"):
            read_panel(text_file(tmp_path, f"{number}.txt", f"GAPDH\n{line}\n"))
