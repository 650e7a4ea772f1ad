"""Score gene sets of a GMT file on every slide: the mean z-score over the cohort of those genes that the model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from histocast.artifacts import SIGNATURES
from histocast.errors import DataError, ErrorCollector
from histocast.text_table import read_bytes

LEAST_SHARE = 0.5
"""Share of a set's genes that must be predicted: of less, a score would be that of another set."""


@dataclass(frozen=True)
class Signature:
    """A gene set, and where its genes are in the matrix."""

    name: str
    genes: int
    """Of the set."""
    columns: NDArray[np.int64]
    """Those of them that are predicted."""

    @property
    def is_scored(self) -> bool:
        """Whether enough of its genes are predicted."""
        return len(self.columns) >= max(LEAST_SHARE * self.genes, 1)


def read_gmt(path: Path) -> dict[str, tuple[str, ...]]:
    """Gene sets by name from a GMT file: name, description and genes, with tabs between them, one set per line.

    Raises `MissingInputError`: there is no such file; `DataError`: it is no text, or every line of it that is wrong.
    """
    expected = "name, description and genes with tabs between them"
    faults = ErrorCollector(path.name)
    try:
        text = read_bytes(path, expected=f"a GMT file: {expected}").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("not a text file", expected=f"a GMT file: {expected}", where=path.name) from error
    sets: dict[str, tuple[str, ...]] = {}
    for line, content in enumerate(text.splitlines(), start=1):
        name, *rest = (cell.strip() for cell in content.split("\t"))
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not content.strip():
            continue
        if not name or not genes:
            faults.add("no gene set", row=line, expected=expected)
        elif name in sets:
            faults.add(f"{name!r} a second time", row=line, expected="each set once")
        else:
            sets[name] = genes
    if not sets and not len(faults):
        faults.add("the file is empty", expected=f"a set on each line: {expected}")
    faults.raise_if_any("download the GMT file again, or correct it")
    return sets


def find_signatures(sets: dict[str, tuple[str, ...]], genes: pa.Table) -> tuple[Signature, ...]:
    """Find the genes of each set among those predicted, by symbol whatever its case, or Ensembl id.

    Raises `DataError`: of no set enough genes are predicted.
    """
    places = {name.casefold(): place for place, name in enumerate(genes["gene_symbol"].to_pylist())}
    places |= {name.casefold(): place for place, name in enumerate(genes["gene_id"].to_pylist())}
    found = []
    for name, members in sets.items():
        columns = {places[key] for gene in members if (key := gene.casefold().split(".")[0]) in places}
        found.append(Signature(name, len(members), np.array(sorted(columns), np.int64)))
    if not any(signature.is_scored for signature in found):
        best = max(found, key=lambda signature: len(signature.columns) / signature.genes)
        raise DataError(
            f"none of {len(found)} sets can be scored; of the best, {best.name}, {len(best.columns)} of {best.genes} genes "
            "are predicted",
            expected=f"at least {LEAST_SHARE:.0%} of a set's genes",
            where="--signatures",
            advice="take sets of genes that the bundle predicts, or predict more genes (--genes)",
        )
    return tuple(found)


def score_slides(
    values: NDArray[np.float32], signatures: Sequence[Signature], *, mean: NDArray[np.float64], sd: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Scores [slide, signature] of some slides; NaN of a signature that is not scored.

    ``values``: [slide, gene].
    ``mean``, ``sd``: [gene] over all slides of the cohort. A gene that does not vary tells nothing, and is left out.
    """
    scores = np.full((len(values), len(signatures)), np.nan, np.float32)
    for place, signature in enumerate(signatures):
        columns = signature.columns[sd[signature.columns] > 0]
        if signature.is_scored and len(columns):
            scores[:, place] = ((values[:, columns] - mean[columns]) / sd[columns]).mean(axis=1)
    return scores


def signature_rows(samples: Sequence[str], signatures: Sequence[Signature], scores: NDArray[np.float32]) -> pa.Table:
    """The rows of ``signatures.parquet`` of some slides."""
    sets = len(signatures)
    return pa.table(
        {
            "sample": np.repeat(np.array(samples, object), sets),
            "signature": [signature.name for signature in signatures] * len(samples),
            "score": pa.array(scores.ravel(), pa.float32(), from_pandas=True),
            "genes": pa.array([signature.genes for signature in signatures] * len(samples), pa.int32()),
            "predicted": pa.array([len(signature.columns) for signature in signatures] * len(samples), pa.int32()),
        },
        schema=SIGNATURES.arrow(),
    )
