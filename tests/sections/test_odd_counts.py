"""Counts as other programs write and damage them: read to the same matrix, or refused with the reason."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from histocast.errors import DataError
from histocast.sections.read_counts import read_counts

SPOTS = ["AAACAAGTATCTCCCA-1", "AAACACCAATAACTGC-1", "AAACAGAGCGACTCCT-1"]
IDS = ["ENSG00000141736", "ENSG00000111640", "ENSG00000075624", "ENSG00000026508"]
SYMBOLS = ["ERBB2", "GAPDH", "ACTB", "CD44"]
NUMBERS = ["2064", "2597", "60", "960"]
COUNTS = np.array([[4, 0, 7, 1], [0, 2, 0, 0], [9, 1, 3, 0]])
Write = Callable[[Path], Path]


def table(
    separator: str = "\t", *, genes: list[str] = SYMBOLS, spots: list[str] = SPOTS, values: object = COUNTS
) -> str:
    rows = [[spot, *map(str, row)] for spot, row in zip(spots, np.asarray(values), strict=True)]
    return "".join(separator.join(row) + "\n" for row in [["", *genes], *rows])


def text(content: str | bytes, name: str = "c.tsv", *, packed: bool = False) -> Write:
    data = content.encode() if isinstance(content, str) else content

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(gzip.compress(data) if packed else data)
        return folder / name

    return write


def parquet(name: str = "c.parquet", **columns: object) -> Write:
    def write(folder: Path) -> Path:
        genes = {gene: COUNTS[:, at] for at, gene in enumerate(SYMBOLS)}
        pq.write_table(pa.table({"spot": SPOTS, **genes, **columns}), folder / name)
        return folder / name

    return write


def h5ad(change: Callable[[h5py.File], object] | None = None, **parts: Any) -> Write:
    def write(folder: Path) -> Path:
        names = {"var": pd.DataFrame({"gene_ids": IDS}, index=SYMBOLS), "obs": pd.DataFrame(index=SPOTS)}
        anndata.AnnData(**{"X": csr_matrix(COUNTS.astype(np.float32)), **names, **parts}).write_h5ad(folder / "c.h5ad")
        with h5py.File(folder / "c.h5ad", "r+") as file:
            if change:
                change(file)
        return folder / "c.h5ad"

    return write


def h5(change: Callable[[h5py.Group], object] | None = None) -> Write:
    def write(folder: Path) -> Path:
        matrix = csc_matrix(COUNTS.T)
        with h5py.File(folder / "c.h5", "w") as file:
            group = file.create_group("matrix")
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(matrix, name)
            group["shape"], group["barcodes"] = matrix.shape, np.array(SPOTS, "S")
            for name, values in {"id": IDS, "name": SYMBOLS, "feature_type": ["Gene Expression"] * 4}.items():
                group[f"features/{name}"] = np.array(values, "S")
            if change:
                change(group)
        return folder / "c.h5"

    return write


def replace(group: h5py.Group, name: str, value: object) -> None:
    del group[name]
    group[name] = value


def mtx(entries: str = "4 3 1\n1 1 4\n", *, kind: str = "integer", features: str | None = None) -> Write:
    """A folder with one count."""

    def write(folder: Path) -> Path:
        lines = "".join(f"{gene}\t{symbol}\tGene Expression\n" for gene, symbol in zip(IDS, SYMBOLS, strict=True))
        files = {
            "matrix.mtx": f"%%MatrixMarket matrix coordinate {kind} general\n{entries}",
            "barcodes.tsv": "\n".join(SPOTS) + "\n\n",
            "features.tsv": lines if features is None else features,
        }
        for name, content in files.items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        return folder

    return write


def with_raw(x: object, raw: np.ndarray, **parts: Any) -> Write:
    """AnnData whose ``raw`` has a gene more than ``X``, which comes first and is counted nowhere."""

    def write(folder: Path) -> Path:
        var = pd.DataFrame({"gene_ids": ["ENSG00000000003", *IDS]}, index=["TSPAN6", *SYMBOLS])
        more = anndata.AnnData(np.c_[0 * raw[:, :1], raw].astype(np.float32), obs=pd.DataFrame(index=SPOTS), var=var)
        data = more[:, 1:].copy()
        data.X, data.raw = x, more
        for name, part in parts.items():
            setattr(data, name, part)
        data.write_h5ad(folder / "c.h5ad")
        return folder / "c.h5ad"

    return write


LIBRARIES = {"spatial": {"A1": {}, "B1": {}}}


def libraries(names: list[str | None], **parts: Any) -> Write:
    return h5ad(obs=pd.DataFrame({"library_id": names}, index=SPOTS), **parts)


def unsorted(file: h5py.File) -> None:
    """Write the first spot's counts from the last gene to the first, as concatenation leaves them."""
    for name in ("X/indices", "X/data"):
        file[name][:3] = file[name][:3][::-1]


READ: dict[str, Write] = {
    "tsv with commas": text(table(",")),
    "csv with semicolons": text(table(";"), "c.csv"),
    "CR alone": text(table().replace("\n", "\r")),
    "byte order mark and CRLF": text("\ufeff" + table().replace("\n", "\r\n")),
    "rows of blanks": text(table() + "\t\t\t\t\n \n\n"),
    "blanks around cells": text(table().replace("\t", " \t ")),
    "a last column without a name": text(table().replace("\n", "\t\n")),
    "packed without the ending": text(table(), packed=True),
    "capital ending": text(table(","), "C.CSV.GZ", packed=True),
    "capital Parquet": parquet("C.PARQUET"),
    "by column": h5ad(X=csc_matrix(COUNTS.astype(np.float32))),
    "unsorted": h5ad(unsorted),
    "dense": h5ad(X=COUNTS.astype(np.float64)),
    "categories": h5ad(var=pd.DataFrame({"gene_ids": pd.Categorical(IDS)}, index=SYMBOLS)),
    "ids with versions": h5ad(var=pd.DataFrame({"gene_name": SYMBOLS}, index=[f"{gene}.7" for gene in IDS])),
    "columns in capitals": h5ad(var=pd.DataFrame({"SYMBOL": SYMBOLS, "ENSEMBL": IDS}, index=list("0123"))),
    "numbered, with symbols": h5ad(var=pd.DataFrame({"gene_name": SYMBOLS}, index=list("0123"))),
    "numbered, an id absent": h5ad(
        var=pd.DataFrame({"gene_name": SYMBOLS, "gene_ids": [*IDS[:3], np.nan]}, index=list("0123"))
    ),
    "NCBI ids and symbols": h5ad(var=pd.DataFrame({"gene_name": SYMBOLS}, index=NUMBERS)),
    "one library of several": libraries(["A1", "A1", "A1"], uns=LIBRARIES),
    "one library": h5ad(uns={"spatial": {"A1": {}}}),
    "genome and a dash": h5ad(var=pd.DataFrame(index=[f"GRCh38-{gene}" for gene in SYMBOLS])),
    "genome and underscores": h5ad(var=pd.DataFrame(index=[f"GRCh38____{gene}" for gene in SYMBOLS])),
}


@pytest.mark.parametrize("case", READ)
def test_other_spellings_give_the_same_counts(case: str, tmp_path: Path) -> None:
    found = read_counts(READ[case](tmp_path))
    assert (found.spots, found.gene_ids, found.gene_symbols) == (tuple(SPOTS), tuple(IDS), tuple(SYMBOLS))
    np.testing.assert_array_equal(found.matrix.toarray(), COUNTS)


@pytest.mark.parametrize("x", [np.log1p(COUNTS).astype(np.float32), csr_matrix(COUNTS / 3), None], ids=str)
def test_counts_that_only_raw_holds_are_read_with_its_genes(x: object, tmp_path: Path) -> None:
    found = read_counts(with_raw(x, COUNTS)(tmp_path))
    assert found.gene_ids == ("ENSG00000000003", *IDS)
    np.testing.assert_array_equal(found.matrix.toarray()[:, 1:], COUNTS)
    # Counts in X or in the layer stand before those of raw.
    for write in (with_raw(COUNTS, 2 * COUNTS), with_raw(COUNTS / 3, 2 * COUNTS, layers={"counts": COUNTS})):
        np.testing.assert_array_equal(read_counts(write(tmp_path)).matrix.toarray(), COUNTS)


def test_genes_that_share_a_symbol_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    write = h5ad(var=pd.DataFrame({"gene_ids": IDS}, index=["ERBB2", "A", "A", "CD44"]))
    assert read_counts(write(tmp_path)).gene_ids == tuple(IDS)


REFUSED: dict[str, tuple[Write, str]] = {
    # Sparse arrays that point outside the matrix would be read from foreign memory, or end the process.
    "h5ad index beyond": (h5ad(lambda f: f["X/indices"].__setitem__(0, 999)), "damaged sparse matrix"),
    "h5ad index below": (h5ad(lambda f: f["X/indices"].__setitem__(0, -7)), "damaged sparse matrix"),
    "h5ad pointer": (h5ad(lambda f: f["X/indptr"].__setitem__(1, 10**6)), "damaged sparse matrix"),
    "h5 index beyond": (h5(lambda g: g["indices"].__setitem__(0, 999)), "damaged sparse matrix"),
    "h5 index below": (h5(lambda g: g["indices"].__setitem__(0, -7)), "damaged sparse matrix"),
    "h5 pointer": (h5(lambda g: g["indptr"].__setitem__(1, 10**6)), "damaged sparse matrix"),
    "h5 shape": (h5(lambda g: replace(g, "shape", [2**31 - 1, 3])), "a matrix of 2147483647 x 3"),
    "h5 barcodes": (h5(lambda g: replace(g, "barcodes", np.array(SPOTS[:2], "S"))), "a matrix of 4 x 3"),
    "h5 names": (h5(lambda g: replace(g, "features/name", np.array(["A"], "S"))), "4 ids, 1 names and 4 types"),
    "h5 text": (h5(lambda g: replace(g, "data", np.array(["a"] * 7, "S"))), r"of the type \|S1"),
    "h5 scalar": (h5(lambda g: replace(g, "data", 5)), "not a readable 10x matrix"),
    "h5 features": (h5(lambda g: replace(g, "features", [1])), "not a readable 10x matrix"),
    "h5 not UTF-8": (h5(lambda g: replace(g, "barcodes", np.array([b"\xe9"] * 3))), "not a readable 10x matrix"),
    "h5ad text": (
        h5ad(lambda f: replace(f, "X", np.array([[b"a"] * 4] * 3))),
        "of the type|not a readable AnnData",
    ),
    "h5ad of yes and no": (h5ad(X=COUNTS > 2), "of the type bool"),
    "mtx entries": (mtx("4 3 99999999999999\n1 1 1\n"), "not a readable 10x matrix folder"),
    "mtx value": (mtx(f"4 3 1\n1 1 {10**30}\n"), "not a readable 10x matrix folder"),
    "mtx index": (mtx("4 3 1\n9 1 1\n"), "not a readable 10x matrix folder"),
    "mtx cut": (mtx("4 3 3\n1 1 1\n"), "not a readable 10x matrix folder"),
    "mtx complex": (mtx("4 3 1\n1 1 1 2\n", kind="complex"), "of the type complex"),
    "mtx of Cell Ranger 2": (mtx(features="ENSG1\tA\n" * 4), "features with id, name and type"),
    "logarithms in X and raw": (with_raw(np.log1p(COUNTS), np.log1p(COUNTS)), "not counts.* at spot"),
    "several libraries by name": (libraries(["A1", "A1", "B1"]), "2 libraries: A1, B1"),
    "several libraries by picture": (h5ad(uns=LIBRARIES), "2 libraries: A1, B1"),
    "a symbol twice": (text(table(genes=["ERBB2", "ERBB2", "ACTB", "CD44"])), "told apart by Ensembl ids"),
    "an unknown symbol twice": (text(table(genes=["ERBB2", "ABC", "ABC", "CD44"])), "more than once: ABC"),
    "a symbol twice in AnnData": (h5ad(var=pd.DataFrame(index=["ERBB2", "A", "A", "CD44"])), "more than once: A"),
    "numbered genes": (text(table(genes=list("0123"))), "numbered from 0 and have no names"),
    "numbered in AnnData": (h5ad(var=pd.DataFrame(index=list("1234"))), "numbered from 1 and have no names"),
    "turned, barcodes": (text(table(genes=[*SPOTS, SPOTS[0][::-1]], spots=SYMBOLS[:3])), "named like spots"),
    "a spot without a name": (text(table(spots=[*SPOTS[:2], " "])), "1 spots without a name"),
    "a spot that is null": (parquet(spot=[*SPOTS[:2], None]), "1 spots without a name"),
    "a cell too long": (text(table(spots=[*SPOTS[:2], "A" * 200_000])), "not a table"),
    "lists": (parquet(ERBB2=[[1]] * 3), "'ERBB2' holds list"),
    "structs": (parquet(ERBB2=[{"a": 1}] * 3), "'ERBB2' holds struct"),
    "times": (parquet(ERBB2=pa.array([0] * 3, pa.timestamp("us"))), "'ERBB2' holds timestamp"),
    "nulls": (parquet(ERBB2=pa.nulls(3)), "'ERBB2' holds null"),
    "text": (parquet(ERBB2=["a"] * 3), "'ERBB2' holds text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_damaged_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    write, reason = REFUSED[case]
    with pytest.raises(DataError, match=reason):
        read_counts(write(tmp_path))


def test_a_parquet_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([SPOTS, [1, 2, 3], [1, 2, 3]], names=["spot", "A", "A"]), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="1 columns appear more than once: A"):
        read_counts(tmp_path / "c.parquet")
