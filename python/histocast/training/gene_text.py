"""Embedded gene descriptions, as ``histocast genes embed`` writes them, for the genes of a panel and beyond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from histocast.bundle import sha256_of_file
from histocast.errors import DataError, MissingInputError
from histocast.parquet_damage import refuse_damaged_parquet
from histocast.sections.counts import refuse_repeated
from histocast.sections.measured_panel import Panel


@dataclass(frozen=True)
class GeneText:
    """Embeddings of the panel, in its order, and of other genes that are described."""

    panel: NDArray[np.float32]
    """[gene, text]."""
    other_ids: tuple[str, ...]
    other_symbols: tuple[str, ...]
    others: NDArray[np.float32]
    """[other gene, text]."""
    digest: str
    encoder: str | None = None
    """Text encoder with its pooling; ``None`` where the table does not say."""
    encoder_revision: str | None = None
    sources: tuple[str, ...] = ()
    """Where the texts are from, as ``histocast genes describe`` names it."""

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self.panel.shape[1])


def read_gene_text(path: Path, panel: Panel, *, others: Sequence[str] | None = None) -> GeneText:
    """Read a table with the columns ``gene_id``, ``gene_symbol`` and ``embedding``.

    A panel gene is found by its id, else by its symbol, since counts may hold symbols only. Where the columns
    ``encoder``, ``encoder_revision`` and ``source`` are there too, they are kept.

    ``others``: symbols or ids of the genes outside the panel to take along; all that are described by default.
    Raises `MissingInputError`: there is no such file; `DataError`: it is no such table, was made by several encoders,
    or does not describe a gene that it should.
    """
    table = _read(path)
    ids, symbols = table.column("gene_id").to_pylist(), table.column("gene_symbol").to_pylist()
    embedding = _embeddings(table, path)
    rows = _rows_of(panel, ids, symbols, where=str(path))
    taken = set(rows)
    known = {*panel.gene_ids, *panel.gene_symbols}
    free = [row for row in range(len(ids)) if row not in taken and not {ids[row], symbols[row]} & known]
    if others is not None:
        free = _choose(free, ids, symbols, wanted=others, where=str(path))
    return GeneText(
        panel=embedding[rows],
        other_ids=tuple(ids[row] for row in free),
        other_symbols=tuple(symbols[row] for row in free),
        others=embedding[free],
        digest=f"sha256:{sha256_of_file(path)}",
        encoder=_one_value(table, "encoder", path),
        encoder_revision=_one_value(table, "encoder_revision", path),
        sources=_sources(table),
    )


def _choose(
    free: Sequence[int], ids: Sequence[str], symbols: Sequence[str], *, wanted: Sequence[str], where: str
) -> list[int]:
    row_of = {name: row for row in free for name in (ids[row], symbols[row])}
    if absent := [name for name in wanted if name not in row_of]:
        raise DataError(
            f"{', '.join(absent[:5])} described nowhere, or of the panel",
            expected="unseen_genes that are described and not trained on",
            where=where,
        )
    return [row_of[name] for name in wanted]


def _one_value(table: pa.Table, name: str, path: Path) -> str | None:
    if name not in table.column_names:
        return None
    found = sorted(set(table.column(name).to_pylist()), key=str)
    if len(found) > 1:
        raise DataError(
            f"embeddings of {' and '.join(map(str, found))}", expected=f"one {name.replace('_', ' ')}", where=str(path)
        )
    return found[0] if found else None


def _sources(table: pa.Table) -> tuple[str, ...]:
    """Each source once; a text of several names them joined: ``ncbi+go``."""
    if "source" not in table.column_names:
        return ()
    return tuple(
        sorted({source for joined in table.column("source").to_pylist() if joined for source in str(joined).split("+")})
    )


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise MissingInputError(
            "no such file", expected="embedded genes", where=str(path), advice="make it with 'histocast genes embed'"
        )
    with refuse_damaged_parquet(path, expected="embedded genes"):
        table = pq.read_table(path)
    if missing := {"gene_id", "gene_symbol", "embedding"} - set(table.column_names):
        raise DataError(
            f"columns missing: {', '.join(sorted(missing))}",
            expected="gene_id, gene_symbol, embedding",
            where=str(path),
            advice="make it with 'histocast genes embed'",
        )
    _refuse_other_types(table, path)
    return table


def _refuse_other_types(table: pa.Table, path: Path) -> None:
    for name in {"gene_id", "gene_symbol", "encoder", "encoder_revision", "source"} & set(table.column_names):
        kind = table.column(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise DataError(
                f"{name} is {kind}", expected="text", where=str(path), advice="make it with 'histocast genes embed'"
            )
    ids = [name for name in table.column("gene_id").to_pylist() if name]
    refuse_repeated(ids, "described gene", where=str(path))


def _embeddings(table: pa.Table, path: Path) -> NDArray[np.float32]:
    column = table.column("embedding").combine_chunks()
    fixed = pa.types.is_fixed_size_list(column.type)
    if not fixed or not pa.types.is_floating(column.type.value_type) or column.null_count:
        raise DataError(
            f"embedding is {column.type} with {column.null_count} nulls",
            expected="a fixed-size list of float32 a gene",
            where=str(path),
        )
    with np.errstate(over="ignore"):
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    found: NDArray[np.float32] = values.reshape(len(column), column.type.list_size)
    if not np.isfinite(found).all():
        raise DataError("an embedding that is not finite", expected="finite numbers", where=str(path))
    return found


def _rows_of(panel: Panel, ids: Sequence[str], symbols: Sequence[str], *, where: str) -> list[int]:
    by_id = {name: row for row, name in enumerate(ids)}
    by_symbol = {name: row for row, name in enumerate(symbols)}
    rows = [
        by_id.get(gene_id, by_symbol.get(symbol, -1))
        for gene_id, symbol in zip(panel.gene_ids, panel.gene_symbols, strict=True)
    ]
    absent = [symbol for row, symbol in zip(rows, panel.gene_symbols, strict=True) if row < 0]
    if absent:
        raise DataError(
            f"no description of {', '.join(absent[:5])}{' ...' if len(absent) > 5 else ''} ({len(absent)} genes)",
            expected="one of every gene of the panel",
            where=where,
            advice="describe and embed them, or leave them out of the panel",
        )
    return rows
