"""The panel of genes a user asks for, found among those a bundle predicts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from histocast.artifacts import GENE_EMBEDDING
from histocast.bundle import FusionSpec
from histocast.errors import ConfigError, ErrorCollector
from histocast.text_table import read_gene_list

GENES_PER_CALL = 256
"""Genes that a graph which takes descriptions is asked for at once, so that memory does not grow with the list."""

MOST_SHOWN = 24
"""Genes that a page has static maps of."""

OtherNames = Callable[[str], Sequence[str]]
"""Other names of the gene that a name means, the surest first; none where it means no gene, or several."""

_NAME = re.compile(r"[\w.@/()*',; \t-]{1,40}")
_VERSIONED_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})\.\d+", re.IGNORECASE)


def no_other_names(_name: str) -> Sequence[str]:
    """For names that are taken as they are."""
    return ()


def read_panel(
    path: Path, genes: pa.Table, *, described: bool = False, other_names: OtherNames = no_other_names
) -> list[int]:
    """Return the row in ``genes`` of each gene the panel file names, in the file's order.

    The file names one gene per line, by symbol or by Ensembl id (with or without version); empty lines and what
    follows ``#`` are skipped. A name that ``genes`` (`artifacts.GENES`) does not have is looked up by its other names.

    ``described``: whether other genes could be asked for by their descriptions, which the message then says.
    ``other_names``: other names of a gene, such as ``ERBB2`` for ``HER2``.
    Raises `MissingInputError`: there is no such file, or it may not be read; `DataError`: lists every line that names
    an unknown, ambiguous or repeated gene, or says that there is none.
    """
    faults = ErrorCollector(str(path))
    rows = _find_rows(read_gene_list(path, faults), genes, faults, other_names)
    if not rows and not len(faults):
        faults.add("no gene", expected="one gene symbol or Ensembl id per line")
    faults.raise_if_any(
        "genes.parquet of the bundle lists the genes it predicts; without --genes it predicts them all"
        + (
            "; for other genes run 'histocast genes prepare' and give --genes the genes.parquet that it writes"
            if described
            else ""
        )
    )
    return rows


def find_shown(names: str, genes: pa.Table, *, other_names: OtherNames = no_other_names) -> list[int]:
    """Return the row in ``genes`` of each gene of ``--report_genes``, which has commas between them.

    ``other_names`` is as in `read_panel`.

    Raises `DataError`: lists every name that is unknown, ambiguous or repeated, or says that there are too many.
    """
    faults = ErrorCollector("--report_genes")
    written = [name.strip() for name in names.split(",") if name.strip()]
    rows = _find_rows([(None, name) for name in written], genes, faults, other_names)
    if len(written) > MOST_SHOWN:
        faults.add(f"{len(written)} genes", expected=f"at most {MOST_SHOWN}; a page's viewer shows any other")
    faults.raise_if_any("name genes that are predicted, with commas between them")
    return rows


def _find_rows(
    lines: Sequence[tuple[int | None, str]], genes: pa.Table, faults: ErrorCollector, other_names: OtherNames
) -> list[int]:
    """The row in ``genes`` of each name, which may have the number of its line."""
    rows_by_name = index_names(genes)
    # Built once: looking for what looks alike is the slow part of a wrong panel.
    spellings = {name.casefold(): name for name in rows_by_name}
    line_of_row: dict[int, int | None] = {}
    for number, written in lines:
        name = _VERSIONED_ENSEMBL.sub(r"\1", written)
        rows = rows_by_name.get(name) or next(
            (rows_by_name[other] for other in other_names(name) if other in rows_by_name), []
        )
        if not rows:
            faults.add(
                # What is no name of a gene may be of another file altogether, and is not shown.
                f"unknown gene {name!r}" if _NAME.fullmatch(name) else f"{len(name)} characters that name no gene",
                row=number,
                expected=f"one of the {genes.num_rows} genes of the bundle, by symbol or Ensembl id",
                advice=_suggest(name, spellings),
            )
        elif len(rows) > 1:
            ids = ", ".join(str(genes.column("gene_id")[row]) for row in rows)
            faults.add(f"{name!r} is the symbol of {len(rows)} genes", row=number, expected=f"one of {ids}")
        elif rows[0] in line_of_row:
            first = line_of_row[rows[0]]
            said = f"{name!r} is named twice" if first is None else f"{name!r} is already on line {first}"
            faults.add(said, row=number, expected="each gene once")
        else:
            line_of_row[rows[0]] = number
    return list(line_of_row)


def gene_inputs(fusion: FusionSpec, genes: pa.Table) -> dict[str, NDArray[np.float32]]:
    """What a fusion graph is given about genes: ``gene`` [gene, dim], or nothing where it knows its panel.

    ``genes``: the genes to predict, rows of the bundle's ``genes.parquet``; the graph's gene axis follows them.
    Raises `ConfigError`: the graph takes genes by their descriptions, and the bundle holds no such embeddings.
    """
    stated = next((tensor for tensor in fusion.inputs if tensor.name == "gene"), None)
    if stated is None:
        return {}
    dim = stated.shape[-1]
    if not isinstance(dim, int):
        raise ConfigError(
            f"input 'gene' of shape {list(stated.shape)}", expected="[gene, dim] of a fixed dim", where="bundle.json"
        )
    return {"gene": embedding_matrix(genes, dim=dim, where="genes.parquet of the bundle")}


def embedding_matrix(genes: pa.Table, *, dim: int, where: str) -> NDArray[np.float32]:
    """The column of embeddings as [gene, dim].

    Raises `ConfigError`: there is no such column, or it is of another width or not finite.
    """
    found = genes.schema.field(GENE_EMBEDDING).type if GENE_EMBEDDING in genes.column_names else None
    if found is None or not pa.types.is_fixed_size_list(found) or found.list_size != dim:
        raise ConfigError(
            f"gene embeddings of type {found}",
            expected=f"a column {GENE_EMBEDDING!r} of {dim} numbers a gene",
            where=where,
            advice="embed the genes, or export the bundle, again",
        )
    values = genes.column(GENE_EMBEDDING).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix = np.ascontiguousarray(values.astype(np.float32).reshape(genes.num_rows, dim))
    if not np.isfinite(matrix).all():
        raise ConfigError("a gene embedding that is not finite", expected="finite numbers", where=where)
    return matrix


def index_names(genes: pa.Table) -> dict[str, list[int]]:
    """Rows of ``genes`` by Ensembl id and by symbol."""
    rows: dict[str, list[int]] = {}
    for column in ("gene_id", "gene_symbol"):
        for row, name in enumerate(genes.column(column).to_pylist()):
            known = rows.setdefault(name, [])
            if row not in known:
                known.append(row)
    return rows


def _suggest(name: str, spellings: dict[str, str]) -> str | None:
    if name.casefold() in spellings:
        return f"write {spellings[name.casefold()]!r}"
    if len(name.split()) > 1:
        return "write one gene per line, and nothing else"
    near = get_close_matches(name.casefold(), spellings, n=3, cutoff=0.75)
    return f"did you mean {' or '.join(repr(spellings[match]) for match in near)}?" if near else None
