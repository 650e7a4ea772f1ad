"""Gene Ontology annotations as sentences: GAF files, or tables of symbol, qualifier and term.

An annotation with ``NOT`` says what a gene product does not do. It is left out, since an encoder of text hears the
claim and not its negation.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from histocast.errors import DataError
from histocast.genes.resolve import NamedGene
from histocast.genes.texts import GeneIds, SourceTexts
from histocast.text_file import open_text, read_text, require_columns

SHIPPED_TERMS = Path(__file__).parent / "data" / "go-terms.parquet"
# Inferred from an expression pattern, by hand or in bulk: what a model that predicts expression should not be told.
FROM_EXPRESSION = frozenset({"IEP", "HEP"})
# "No biological data available", and the one term that says nothing of a protein.
NO_DATA, NO_NEWS = "ND", "protein binding"
_ASPECTS = {"F": "molecular_function", "P": "biological_process", "C": "cellular_component"}
_ORDER = tuple(_ASPECTS.values())
_TABLE = {"symbol", "qualifier", "term", "aspect"}
# Columns of GAF 2.x: database, object, symbol, qualifier, term, reference, evidence, with or from, aspect.
_GAF_COLUMNS = 9


@dataclass(frozen=True)
class _Annotation:
    accession: str
    symbol: str
    qualifier: str
    term: str
    aspect: str
    evidence: str


def read_annotations(
    path: Path, genes: Sequence[NamedGene], *, keep_expression_evidence: bool = False, terms: Path | None = None
) -> SourceTexts:
    """Read the GO annotations of ``genes`` as sentences: "enables calcium ion binding; part of the nucleosome".

    An annotation belongs to the gene whose UniProt accession (or MGI id) it has; by its symbol alone it is taken only
    where no accession is known of the gene.

    ``keep_expression_evidence``: keep annotations inferred from expression (IEP, HEP), where the file says the
        evidence.
    ``terms``: OBO file with the names of terms, for GAF files; the shipped ones without it.
    Raises `MissingInputError` or `DataError`: there is no such file, it is neither of these, or its terms are unknown.
    """
    ids = GeneIds(genes)
    claims: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    refused: dict[str, str] = {}
    left_out = {NO_DATA} | (frozenset() if keep_expression_evidence else FROM_EXPRESSION)
    for note in _annotations(path, terms):
        relations = note.qualifier.split("|")
        if "NOT" in relations or note.evidence in left_out or note.term == NO_NEWS:
            continue
        kind = "authority" if note.accession.startswith("MGI:") else "uniprot"
        named = ids.claim(note.symbol, refused, **{kind: note.accession})
        if named is not None:
            claims[named.gene_symbol][f"{note.aspect} {relations[-1]}"].add(note.term)
    texts = {symbol: _sentence(said) for symbol, said in claims.items()}
    return SourceTexts.of_records("go", texts, path, refused)


def _sentence(said: Mapping[str, set[str]]) -> str:
    def place(key: str) -> tuple[int, str]:
        aspect, relation = key.split(" ", 1)
        return _ORDER.index(aspect), relation

    clauses = [
        f"{key.split(' ', 1)[1].replace('_', ' ')} {', '.join(sorted(said[key]))}" for key in sorted(said, key=place)
    ]
    return "; ".join(clauses) + "."


def _annotations(path: Path, terms: Path | None) -> Iterator[_Annotation]:
    with open_text(path, expected="GO annotations") as stream:
        first = stream.readline()
        lines = chain([first], stream)
        yield from _from_gaf(lines, path, terms) if first.startswith("!") else _from_table(lines, path)


def _from_table(lines: Iterable[str], path: Path) -> Iterator[_Annotation]:
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    require_columns(rows.fieldnames, _TABLE, path, instead="a GAF file, or ")
    for number, row in enumerate(rows, start=2):
        if row["aspect"] not in _ORDER:
            raise DataError(
                f"aspect {row['aspect']!r}",
                expected=" or ".join(_ORDER),
                where=f"{path}, line {number}, column 'aspect'",
            )
        yield _Annotation(
            row.get("uniprot_id") or "",
            row["symbol"],
            row["qualifier"],
            row["term"],
            row["aspect"],
            row.get("evidence") or "",
        )


def _from_gaf(lines: Iterable[str], path: Path, terms: Path | None) -> Iterator[_Annotation]:
    names = _read_obo(terms) if terms else _shipped_terms()
    unknown: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("!"):
            continue
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) < _GAF_COLUMNS or cells[8] not in _ASPECTS:
            raise DataError("not an annotation", expected="GAF 2.x", where=f"{path}, line {number}")
        if cells[4] not in names:
            unknown.add(cells[4])
            continue
        # GAF 2.1 and older leave the relation to the aspect.
        qualifier = cells[3] if cells[3] not in {"", "NOT"} else f"{cells[3]}|{_PLAIN[cells[8]]}".lstrip("|")
        yield _Annotation(cells[1], cells[2], qualifier, names[cells[4]], _ASPECTS[cells[8]], cells[6])
    if unknown:
        raise DataError(
            f"{len(unknown)} terms without a name, {min(unknown)} among them",
            expected=f"terms of {terms.name if terms else 'the shipped list'}",
            where=str(path),
            advice="give the go-basic.obo of the same release with --go-terms",
        )


_PLAIN = {"F": "enables", "P": "involved_in", "C": "located_in"}


@cache
def _shipped_terms() -> Mapping[str, str]:
    import pyarrow.parquet as pq

    table = pq.read_table(SHIPPED_TERMS)
    return dict(zip(table["go_id"].to_pylist(), table["term"].to_pylist(), strict=True))


def _read_obo(path: Path) -> Mapping[str, str]:
    names: dict[str, str] = {}
    go_id = ""
    for line in read_text(path, expected="an OBO file").split("\n"):
        key, _, value = line.partition(": ")
        if line.startswith("["):
            go_id = ""
        elif key == "id":
            go_id = value.strip()
        elif key == "name" and go_id:
            names[go_id] = value.strip()
        elif key == "alt_id" and go_id in names:
            names[value.strip()] = names[go_id]
    if not names:
        raise DataError("no term", expected="an OBO file, such as go-basic.obo", where=str(path))
    return names
