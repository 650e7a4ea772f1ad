"""The genes a prediction is asked for: of the bundle, or of descriptions given beside it, and what is known of each.

``evidence`` says on what a gene's prediction stands:

``trained``          measured values of the gene trained the model
``similar_text``     never measured; its description is as near to that of a training gene as at least half of the
                     training genes' are to each other
``dissimilar_text``  never measured, and described unlike the training genes

The distance of two descriptions is 1 - the cosine of their embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from histocast.artifacts import GENE_EMBEDDING, GENE_EMBEDDINGS, GENE_P90, GENES, read_table
from histocast.bundle import Bundle, GeneTextSpec
from histocast.errors import ConfigError, DataError, ErrorCollector
from histocast.fusion.panel import OtherNames, embedding_matrix, index_names, no_other_names, read_panel

EVIDENCE, TEXT_DISTANCE, NEAREST_GENE = "evidence", "text_distance", "nearest_gene"
TRAINED, SIMILAR_TEXT, DISSIMILAR_TEXT = LEVELS = ("trained", "similar_text", "dissimilar_text")

PARQUET_MAGIC = b"PAR1"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SelectedGenes:
    """What to predict, in the order asked for."""

    table: pa.Table
    """`artifacts.GENES` columns, ``evidence``, ``text_distance``, ``nearest_gene`` (symbol of the training gene
    described most alike, empty for training genes) and, where the graph takes descriptions, their ``embedding``."""
    index: NDArray[np.int64]
    """[gene] place on the gene axis of a graph that knows its panel."""


def ask_genes(
    folder: Path, bundle: Bundle, asked: Path | None, *, other_names: OtherNames = no_other_names
) -> SelectedGenes:
    """Find the genes asked for, and decide on what each stands.

    ``folder``: the bundle's.
    ``asked``: file with one gene per line, each one of the bundle's; or ``genes.parquet`` of ``histocast genes embed``,
        whose genes need not be known to the bundle. A gene that both describe is the bundle's. ``None``: all of the
        bundle's.
    ``other_names``: other names of a gene that ``asked`` names (see `histocast.fusion.panel`).
    Raises `MissingInputError`: there is no such file; `DataError`: it names unknown, ambiguous or repeated genes, or is
    another table; `ConfigError`: ``genes.parquet`` of the bundle does not fit it; descriptions were embedded otherwise
    than the bundle's; or the model knows its panel alone and is asked for others.
    """
    own = _read_own(folder, bundle)
    if asked is None:
        rows = np.arange(own.num_rows)
        found = own
    elif _is_parquet(asked):
        given = _read_descriptions(asked, bundle)
        rows, found = _join(own, given, bundle, where=str(asked))
    else:
        described = takes_descriptions(bundle)
        rows = np.asarray(read_panel(asked, own, described=described, other_names=other_names), np.int64)
        found = own.take(pa.array(rows))
    return SelectedGenes(_with_evidence(found, own, bundle.gene_text), rows)


def takes_descriptions(bundle: Bundle) -> bool:
    """Whether the fusion graph takes genes by their descriptions."""
    return any(tensor.name == "gene" for tensor in bundle.fusion.inputs)


def find_nearest(asked: Floats, training: Floats, *, itself: bool = False) -> tuple[Floats, NDArray[np.int64]]:
    """Distance [gene] of each description to the nearest of the training genes', 0 to 2, and the place of that gene.

    ``asked``, ``training``: [gene, dim] and [known, dim] embeddings.
    ``itself``: whether both are the same genes in the same order, none of which is its own neighbour.
    """

    def unit(values: Floats) -> Floats:
        length = np.linalg.norm(values, axis=1, keepdims=True).astype(np.float32)
        return np.asarray(values / np.maximum(length, np.float32(1e-12)), np.float32)

    known = unit(training).T
    distance, nearest = np.empty(len(asked), np.float32), np.empty(len(asked), np.int64)
    # A row at a time, so that neither ten thousand genes asked for nor the company they come in changes anything.
    for row, text in enumerate(unit(asked)):
        likeness = text @ known
        if itself:
            likeness[row] = -np.inf
        nearest[row] = likeness.argmax()
        distance[row] = np.clip(1.0 - likeness[nearest[row]], 0.0, 2.0)
    return distance, nearest


def near_distance(training: Floats) -> float:
    """Median distance of a training gene's description to the nearest other one's."""
    return float(np.median(find_nearest(training, training, itself=True)[0]))


def _read_own(folder: Path, bundle: Bundle) -> pa.Table:
    table, _ = read_table(folder / "genes.parquet", GENES)
    ids = table.column("gene_id").to_pylist()
    if len(ids) != bundle.gene_count or len(set(ids)) != len(ids):
        raise ConfigError(
            f"{len(ids)} rows with {len(set(ids))} gene ids",
            expected=f"{bundle.gene_count} different gene ids",
            where=str(folder / "genes.parquet"),
            advice="export the bundle again",
        )
    kept = [column.name for column in GENES.columns]
    return table.select([*kept, *(name for name in (GENE_P90, GENE_EMBEDDING) if name in table.column_names)])


def _is_parquet(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC


def _read_descriptions(path: Path, bundle: Bundle) -> pa.Table:
    """`artifacts.GENE_EMBEDDINGS`, made by the encoder that the bundle's descriptions went through."""
    table, _ = read_table(path, GENE_EMBEDDINGS)
    if not table.num_rows:
        raise DataError("no gene", expected="descriptions of genes", where=str(path))
    if not takes_descriptions(bundle):
        return table
    found = {
        _named(*pair) for pair in zip(table["encoder"].to_pylist(), table["encoder_revision"].to_pylist(), strict=True)
    }
    text = bundle.gene_text
    expected = None if text is None or text.encoder is None else _named(text.encoder, text.encoder_revision)
    if found != {expected}:
        raise ConfigError(
            f"descriptions embedded by {' and '.join(sorted(found))}",
            expected=f"{expected}, as those of bundle {bundle.name}"
            if expected
            else f"genes that bundle {bundle.name} describes itself: it does not say which text encoder it takes",
            where=str(path),
            advice="embed the texts again with that encoder" if expected else "export the bundle again",
        )
    return table


def _named(encoder: str, revision: str | None) -> str:
    return f"{encoder} of revision {revision}"


def _join(own: pa.Table, given: pa.Table, bundle: Bundle, *, where: str) -> tuple[NDArray[np.int64], pa.Table]:
    """Place of each given gene in the bundle's genes with the others put after them, and those rows."""
    rows_by_name = index_names(own)
    faults = ErrorCollector(where)
    first: dict[str | int, str] = {}
    rows: list[int] = []
    others: list[int] = []
    for place, (gene_id, symbol) in enumerate(
        zip(given["gene_id"].to_pylist(), given["gene_symbol"].to_pylist(), strict=True)
    ):
        known = rows_by_name.get(gene_id) or rows_by_name.get(symbol) or []
        if len(known) > 1:
            faults.add(
                f"{symbol!r} is the symbol of {len(known)} genes of the bundle", expected="one Ensembl id a gene"
            )
            continue
        key: str | int = known[0] if known else gene_id
        if key in first:
            faults.add(f"{symbol!r} is the same gene as {first[key]!r} before it", expected="each gene once")
            continue
        first[key] = symbol
        rows.append(known[0] if known else own.num_rows + len(others))
        if not known:
            others.append(place)
    faults.raise_if_any("embed a list that names each gene once")
    if others and not takes_descriptions(bundle):
        symbols = given["gene_symbol"].take(pa.array(others)).to_pylist()
        raise ConfigError(
            f"{len(others)} genes outside the panel: {', '.join(symbols[:5])}{' ...' if len(others) > 5 else ''}",
            expected=f"genes of the panel: {bundle.fusion.method} predicts the genes it was trained on alone",
            where=where,
            advice="leave them out, or take a bundle whose method takes genes by description (dkan, alignst)",
        )
    joined = pa.concat_tables([own, _as_genes(given.take(pa.array(others, pa.int64())), own.schema, where=where)])
    return np.asarray(rows, np.int64), joined.take(pa.array(rows))


def _as_genes(given: pa.Table, schema: pa.Schema, *, where: str) -> pa.Table:
    """Genes that only a description is known of, as rows of a bundle's table."""
    count = given.num_rows
    unknown = pa.array(np.full(count, np.nan, np.float32))
    columns = {
        "gene_id": given["gene_id"],
        "gene_symbol": given["gene_symbol"],
        "seen_in_training": pa.array([False] * count, pa.bool_()),
        "val_pcc": pa.nulls(count, pa.float32()),
        **dict.fromkeys(("mean", "interval_80", "interval_90"), unknown),
        GENE_P90: pa.nulls(count, pa.float32()),
    }
    if GENE_EMBEDDING in schema.names:
        stated = schema.field(GENE_EMBEDDING).type
        values = embedding_matrix(given, dim=stated.list_size, where=where)
        columns[GENE_EMBEDDING] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), stated.list_size)
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _with_evidence(found: pa.Table, own: pa.Table, text: GeneTextSpec | None) -> pa.Table:
    seen = found["seen_in_training"].to_numpy()
    distance, nearest = np.full(len(seen), np.nan, np.float32), np.full(len(seen), "", object)
    if GENE_EMBEDDING in found.column_names and not seen.all():
        dim = own.schema.field(GENE_EMBEDDING).type.list_size
        where = "genes.parquet of the bundle"
        trained = own.filter(own["seen_in_training"])
        training = embedding_matrix(trained, dim=dim, where=where)
        distance[~seen], place = find_nearest(embedding_matrix(found, dim=dim, where=where)[~seen], training)
        nearest[~seen] = trained["gene_symbol"].take(pa.array(place)).to_pylist()
    near = distance <= (0.0 if text is None else text.near_distance)
    level = np.where(seen, TRAINED, np.where(near, SIMILAR_TEXT, DISSIMILAR_TEXT))
    columns = {
        EVIDENCE: pa.array(level.tolist(), pa.string()),
        TEXT_DISTANCE: pa.array(distance, pa.float32(), from_pandas=True),
        NEAREST_GENE: pa.array(nearest.tolist(), pa.string()),
    }
    for name, values in columns.items():
        found = found.append_column(name, values)
    return found
