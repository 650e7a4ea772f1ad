"""Read the tables that name genes: HGNC, NCBI gene_info, MGI, tables of one's own, and the one that is shipped.

Each is known by its header. Sources: HGNC complete set (www.genenames.org, CC0), NCBI gene_info (public domain), MGI
marker reports (www.informatics.jax.org, CC BY 4.0).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from histocast.errors import DataError, UsageError
from histocast.genes.catalogue import Catalogue, Gene, Match, Species
from histocast.genes.digests import digest_of, digest_of_file
from histocast.genes.one_gene import one_a_gene, supplement
from histocast.parquet_damage import read_parquet
from histocast.text_file import open_text, require_columns

if TYPE_CHECKING:
    import pyarrow as pa

SHIPPED_NAMES = Path(__file__).parent / "data" / "human.parquet"
NAMES_DATE = "histocast_names_date"
"""Key in the metadata of the shipped file: the day of its symbols and ids."""
_TAXON: dict[Species, str] = {"human": "9606", "mouse": "10090"}
_AUTHORITY: dict[Species, str] = {"human": "HGNC", "mouse": "MGI"}
Row = Mapping[str, Any]


def open_catalogue(names: Sequence[Path] = (), *, species: Species = "human") -> Catalogue:
    """The genes of ``names``, earlier files before later ones; without files the shipped human ones.

    A later file gives ids that an earlier one lacks, and adds the genes that no earlier one has, by any id or by the
    approved symbol.

    Raises `UsageError`: no file is given and none is shipped for the species; `MissingInputError` or `DataError`: a
    file is absent, or not a table of gene names.
    """
    if not names:
        if species != "human":
            raise UsageError(
                f"no names of {species} genes", expected="--names with NCBI's gene_info or MGI's MRK_List2.rpt"
            )
        return _open_shipped()
    genes: list[Gene] = []
    for path in names:
        added = read_names(path, species=species)
        genes = supplement(genes, added) if genes else list(added)
    source = ", ".join(path.name for path in names)
    return Catalogue(tuple(genes), species, digest_of([digest_of_file(path) for path in names]), source)


@cache
def _open_shipped() -> Catalogue:
    return Catalogue(tuple(_read_parquet(SHIPPED_NAMES)), "human", digest_of_file(SHIPPED_NAMES), shipped_names())


@cache
def shipped_names() -> str:
    """The shipped names and their date, in words."""
    import pyarrow.parquet as pq

    return f"the shipped HGNC table of {pq.read_schema(SHIPPED_NAMES).metadata[NAMES_DATE.encode()].decode()}"


def find_other_names(name: str) -> tuple[str, ...]:
    """Ensembl id, approved and previous symbols of the human gene that ``name`` means among the shipped names.

    Empty where it means no gene, or several.
    """
    match = open_catalogue().known(name)
    if not isinstance(match, Match):
        return ()
    gene = match.gene
    return tuple(other for other in (gene.ensembl_id, gene.symbol, *gene.previous) if other)


def read_names(path: Path, *, species: Species) -> Sequence[Gene]:
    """Read one table of gene names, whichever it is; rows of one gene are made one.

    Raises `MissingInputError` or `DataError`: it is absent, or none of the known tables, or holds no gene of the
    species.
    """
    if path.suffix == ".parquet":
        genes: Sequence[Gene] = _read_parquet(path)
    else:
        with open_text(path, expected="a table of gene names") as stream:
            rows, make = _known_table(stream, path)
            genes = one_a_gene(gene for row in rows if (gene := make(row, species)) is not None and gene.symbol)
    if not genes:
        raise DataError("no gene", expected=f"names of {species} genes", where=str(path))
    return genes


def _known_table(stream: TextIO, path: Path) -> tuple[Iterator[Row], Callable[[Row, Species], Gene | None]]:
    first = stream.readline()
    if first.lstrip().startswith("{"):
        return _json_documents(first + stream.read(), path), _from_hgnc
    first = first.rstrip("\r\n")
    delimiter = "\t" if "\t" in first else ","
    header = [cell.strip().strip('"').lstrip("#") for cell in first.split(delimiter)]
    for needed, make, quoting in _KNOWN:
        if needed <= set(header):
            return csv.DictReader(stream, fieldnames=header, delimiter=delimiter, quoting=quoting), make
    raise DataError(
        f"columns {', '.join(header[:8])}",
        expected="the HGNC complete set, NCBI gene_info, MGI's MRK_List2.rpt, or a table with gene_symbol",
        where=str(path),
    )


def _json_documents(text: str, path: Path) -> Iterator[Row]:
    try:
        yield from json.loads(text)["response"]["docs"]
    except (json.JSONDecodeError, RecursionError, KeyError, TypeError) as error:
        raise DataError("not HGNC's JSON", expected="response.docs", where=str(path)) from error


def _listed(value: object) -> tuple[str, ...]:
    """A list, or its members joined by ``|``; ``-`` is NCBI's empty one."""
    parts: Iterable[object] = value if isinstance(value, (list, tuple)) else str(value or "").split("|")
    return tuple(text for part in parts if (text := str(part).strip()) and text != "-")


def _first(value: object) -> str | None:
    return next(iter(_listed(value)), None)


def _from_hgnc(row: Row, species: Species) -> Gene | None:
    if species != "human" or row.get("status") not in (None, "Approved"):
        return None
    return Gene(
        symbol=str(row["symbol"]),
        name=str(row.get("name") or ""),
        authority_id=_first(row["hgnc_id"]),
        ensembl_id=_first(row.get("ensembl_gene_id")),
        ncbi_gene_id=_first(row.get("entrez_id")),
        uniprot_ids=_listed(row.get("uniprot_ids")),
        previous=_listed(row.get("prev_symbol")),
        aliases=_listed(row.get("alias_symbol")),
        families=_listed(row.get("gene_group_id") or row.get("gene_family_id")),
        locus_type=str(row.get("locus_type") or ""),
    )


def _from_gene_info(row: Row, species: Species) -> Gene | None:
    # NCBI lists enhancers and silencers among the genes, more of them than genes.
    if row["tax_id"] != _TAXON[species] or row["type_of_gene"] == "biological-region":
        return None
    # NCBI names the mitochondrial genes as mitochondrial genomes do (COX1); the authority's symbol (MT-CO1) goes first.
    symbol = _first(row.get("Symbol_from_nomenclature_authority")) or row["Symbol"]
    ids: dict[str, str] = {}
    for database, _, key in (part.partition(":") for part in _listed(row["dbXrefs"])):
        ids.setdefault(database, key)
    others = [alias for alias in (row["Symbol"], *_listed(row["Synonyms"])) if alias != symbol]
    return Gene(
        symbol=symbol,
        name=_first(row.get("Full_name_from_nomenclature_authority")) or row["description"] or "",
        authority_id=ids.get(_AUTHORITY[species]),
        ensembl_id=ids.get("Ensembl"),
        ncbi_gene_id=_first(row["GeneID"]),
        aliases=tuple(others),
        locus_type=row["type_of_gene"] or "",
    )


def _from_mgi(row: Row, species: Species) -> Gene | None:
    # Withdrawn markers stand in MRK_List1 beside the marker they became.
    if species != "mouse" or row.get("Marker Type") not in (None, "Gene", "Pseudogene") or row.get("Status") == "W":
        return None
    return Gene(
        symbol=str(row["Marker Symbol"]),
        name=str(row.get("Marker Name") or ""),
        authority_id=_first(row["MGI Accession ID"]),
        ensembl_id=_first(row.get("Ensembl Gene ID")),
        ncbi_gene_id=_first(row.get("EntrezGene ID") or row.get("Entrez Gene ID")),
        aliases=_listed(row.get("Marker Synonyms (pipe-separated)")),
        locus_type=str(row.get("Feature Type") or ""),
    )


def _from_table(row: Row, _species: Species) -> Gene:
    ensembl = _first(row.get("ensembl_id") or row.get("gene_id"))
    return Gene(
        symbol=str(row["gene_symbol"] or "").strip(),
        name=str(row.get("name") or ""),
        authority_id=_first(row.get("authority_id") or row.get("hgnc_id") or row.get("mgi_id")),
        ensembl_id=ensembl.split(".")[0] if ensembl and ensembl.startswith("ENS") else None,
        ncbi_gene_id=_first(row.get("ncbi_gene_id")),
        uniprot_ids=_listed(row.get("uniprot_ids")),
        previous=_listed(row.get("previous")),
        aliases=_listed(row.get("aliases")),
        families=_listed(row.get("families")),
    )


# HGNC quotes what holds a bar. NCBI and MGI quote nothing, and a name of theirs may begin with a quotation mark.
_KNOWN: tuple[tuple[frozenset[str], Callable[[Row, Species], Gene | None], Literal[0, 3]], ...] = (
    (frozenset({"hgnc_id", "symbol", "prev_symbol", "alias_symbol"}), _from_hgnc, csv.QUOTE_MINIMAL),
    (
        frozenset({"tax_id", "GeneID", "Symbol", "Synonyms", "dbXrefs", "description", "type_of_gene"}),
        _from_gene_info,
        csv.QUOTE_NONE,
    ),
    (frozenset({"MGI Accession ID", "Marker Symbol"}), _from_mgi, csv.QUOTE_NONE),
    (frozenset({"gene_symbol"}), _from_table, csv.QUOTE_MINIMAL),
)


def _read_parquet(path: Path) -> Sequence[Gene]:
    table = read_parquet(path, expected="a table of gene names")
    names = table.column_names
    require_columns(names, ("gene_symbol",), path)
    rows = (dict(zip(names, cells, strict=True)) for cells in zip(*map(_cells, table.columns), strict=True))
    return one_a_gene(replace(_from_table(row, "human"), locus_type=row.get("locus_type") or "") for row in rows)


def _cells(column: pa.ChunkedArray) -> list[Any]:
    """Values of a column; lists are cut from their joined values, since one by one they take ten times as long."""
    import pyarrow as pa

    if not pa.types.is_list(column.type):
        return list(column.to_pylist())
    array = column.combine_chunks()
    offsets, values = array.offsets.to_pylist(), array.values.to_pylist()
    return [values[start:end] for start, end in pairwise(offsets)]
