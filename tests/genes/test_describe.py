"""A text is of the gene whose ids its source has, and of no other."""

from __future__ import annotations

import gzip
import io
import json
import urllib.parse
from collections.abc import Callable
from email.message import Message
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest

from histocast.artifacts import GENE_TEXTS, read_table
from histocast.errors import DataError, HistocastError, MissingInputError, StorageUnavailable
from histocast.genes.catalogue import Match
from histocast.genes.describe import DescribeFacts, describe_genes
from histocast.genes.digests import digest_of_text
from histocast.genes.gene_options import Sources
from histocast.genes.name_tables import open_catalogue
from histocast.genes.resolve import resolve_genes

NameGenes = Callable[..., Path]
# What the published pipeline took: the query, and the gene its search returned.
WRONG_HITS = {
    "FLG": "FGFR1",
    "DBI": "TSPO",
    "PSAP": "SFTPA1",
    "LAD1": "COL17A1",
    "KLK7": "KLK6",
    "S100A16": "HRNR",
    "DSC3": "DSC2",
    "KRT6C": "KRT6A",
    "H3-3B": "H3-3A",
}
TRUE_RENAMINGS = {
    "ATP5B": "ATP5F1B",
    "ATP5E": "ATP5F1E",
    "ATP5G2": "ATP5MC2",
    "SEPW1": "SELENOW",
    "H2AFJ": "H2AJ",
    "H1FX": "H1-10",
    "AES": "TLE5",
    "C4orf48": "NICOL1",
    "KIAA0100": "BLTP2",
    "PHB": "PHB1",
    "SLC9A3R1": "NHERF1",
    "TCEB2": "ELOB",
    "MT-ATP6": "ATP6",
    "MT-CO1": "COX1",
    "MT-CO2": "COX2",
    "MT-CO3": "COX3",
    "MT-CYB": "CYTB",
    "MT-ND1": "ND1",
    "MT-ND2": "ND2",
    "MT-ND3": "ND3",
    "MT-ND4": "ND4",
}


def texts(facts: DescribeFacts) -> dict[str, str]:
    table, _ = read_table(facts.path, GENE_TEXTS)
    return dict(zip(table["gene_symbol"].to_pylist(), table["text"].to_pylist(), strict=True))


def records(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def shared_records(shared_data: Path) -> dict[str, dict[str, Any]]:
    lines = (shared_data / "genes" / "ncbi_gene.jsonl").read_text().splitlines()
    return {record["query"]: record for record in map(json.loads, lines)}


@pytest.mark.parametrize(("asked", "returned"), WRONG_HITS.items())
def test_the_wrong_hits_of_the_published_pipeline_are_refused(
    shared_data: Path, name_genes: NameGenes, tmp_path: Path, asked: str, returned: str
) -> None:
    record = shared_records(shared_data)[asked]
    assert record["symbol"] == returned
    path = records(tmp_path / "hit.jsonl", record)
    facts = describe_genes(name_genes(asked), outdir=tmp_path, sources=Sources(ncbi=path))
    assert texts(facts)[asked].startswith(f"gene symbol: {asked}. Name: ")
    assert record["summary"][:60] not in texts(facts)[asked]
    assert facts.by_source == {"name": 1}
    assert len(facts.refused) == 1
    assert f"is of {returned} (HGNC:" in facts.refused[0]


@pytest.mark.parametrize(("asked", "returned"), WRONG_HITS.items())
def test_the_wrong_hits_are_put_right_where_their_own_gene_is_asked_for(
    shared_data: Path, name_genes: NameGenes, tmp_path: Path, asked: str, returned: str
) -> None:
    record = shared_records(shared_data)[asked]
    path = records(tmp_path / "hit.jsonl", record)
    facts = describe_genes(name_genes(asked, returned), outdir=tmp_path, sources=Sources(ncbi=path))
    assert record["summary"][:40] in texts(facts)[returned]
    assert record["summary"][:40] not in texts(facts)[asked]


@pytest.mark.parametrize(("asked", "returned"), TRUE_RENAMINGS.items())
def test_the_true_renamings_are_accepted(
    shared_data: Path, name_genes: NameGenes, tmp_path: Path, asked: str, returned: str
) -> None:
    record = shared_records(shared_data)[asked]
    assert record["symbol"] == returned
    path = records(tmp_path / "hit.jsonl", record)
    facts = describe_genes(name_genes(asked), outdir=tmp_path, sources=Sources(ncbi=path))
    assert (facts.by_source, facts.refused) == ({"ncbi": 1} if record["summary"] else {"name": 1}, [])


def test_no_other_record_of_the_shared_table_is_refused(
    shared_data: Path, name_genes: NameGenes, tmp_path: Path
) -> None:
    answers = [open_catalogue().find(query) for query in shared_records(shared_data)]
    queries = sorted({answer.gene.symbol for answer in answers if isinstance(answer, Match)})
    assert len(queries) > 450
    sources = Sources(ncbi=shared_data / "genes" / "ncbi_gene.jsonl")
    facts = describe_genes(name_genes(*queries), outdir=tmp_path, sources=sources)
    # H3-3B has a second record, found as H3F3B, which is its own.
    assert {line.split(":")[0] for line in facts.refused} == set(WRONG_HITS) - {"H3-3B"}
    assert "H3-3A" not in texts(facts)["H3-3B"]


def test_a_published_text_refined_from_a_wrong_hit_is_refused(
    shared_data: Path, name_genes: NameGenes, tmp_path: Path
) -> None:
    genes = shared_data / "genes"
    sources = Sources(ncbi=genes / "ncbi_gene.jsonl", refined=genes / "refined" / "skin.tsv")
    facts = describe_genes(name_genes("PSAP", "KRT5"), outdir=tmp_path, sources=sources)
    assert "surfactant" not in texts(facts)["PSAP"]
    assert texts(facts)["KRT5"].startswith("gene symbol: KRT5. Functionality:")
    assert facts.by_source == {"name": 1, "refined": 1}


def test_a_published_text_of_another_gene_is_refused(name_genes: NameGenes, tmp_path: Path) -> None:
    (tmp_path / "refined.tsv").write_text("symbol\tdescription\nFLG\tgene symbol: FGFR1. Functionality: kinase.\n")
    facts = describe_genes(name_genes("FLG"), outdir=tmp_path, sources=Sources(refined=tmp_path / "refined.tsv"))
    assert facts.refused == ["FLG: it calls itself FGFR1 (refined)"]


GO_HEADER = "symbol\tuniprot_id\tqualifier\tterm\taspect\tevidence\n"


def test_not_never_becomes_a_claim_and_expression_is_left_out(name_genes: NameGenes, tmp_path: Path) -> None:
    rows = (
        "ERBB2\tP04626\tenables\tATP binding\tmolecular_function\tIDA\n"
        "ERBB2\tP04626\tenables\tprotein binding\tmolecular_function\tIPI\n"
        "ERBB2\tP04626\tNOT|located_in\tnucleus\tcellular_component\tIDA\n"
        "ERBB2\tP04626\tinvolved_in\tmammary gland involution\tbiological_process\tIEP\n"
        "ERBB2\tP04626\tinvolved_in\tcell growth\tbiological_process\tND\n"
    )
    (tmp_path / "go.tsv").write_text(GO_HEADER + rows)
    names = name_genes("ERBB2")
    strict = describe_genes(names, outdir=tmp_path, sources=Sources(go=tmp_path / "go.tsv"), head=False)
    assert texts(strict)["ERBB2"] == "Gene Ontology: enables ATP binding."
    loose = Sources(go=tmp_path / "go.tsv", keep_expression_evidence=True)
    assert "involution" in texts(describe_genes(names, outdir=tmp_path, sources=loose))["ERBB2"]


def test_annotations_of_another_protein_are_refused(name_genes: NameGenes, tmp_path: Path) -> None:
    (tmp_path / "go.tsv").write_text(GO_HEADER + "FLG\tP11362\tenables\tkinase activity\tmolecular_function\tIDA\n")
    facts = describe_genes(name_genes("FLG"), outdir=tmp_path, sources=Sources(go=tmp_path / "go.tsv"))
    assert facts.refused == ["FLG: P11362 is not an accession of FLG (go)"]


def test_shared_annotations_say_nothing_that_is_denied(
    shared_data: Path, name_genes: NameGenes, tmp_path: Path
) -> None:
    path = shared_data / "genes" / "go_annotations.tsv.gz"
    rows = [line.split("\t") for line in gzip.decompress(path.read_bytes()).decode().splitlines()[1:]]
    claimed = {(row[0], row[2], row[3]) for row in rows}
    denied = [row for row in rows if row[2].startswith("NOT|") and (row[0], row[2][4:], row[3]) not in claimed]
    assert len(denied) > 10
    symbols = sorted({row[0] for row in denied})
    facts = describe_genes(name_genes(*symbols), outdir=tmp_path, sources=Sources(go=path), head=False)
    for symbol, _, qualifier, term, *_ in denied:
        relation = qualifier[4:].replace("_", " ")
        said = [
            clause
            for clause in texts(facts)[symbol].rstrip(".").split("; ")
            if clause.split("Ontology: ")[-1].startswith(relation)
        ]
        assert not any(term in clause.split(f"{relation} ", 1)[1].split(", ") for clause in said), (symbol, term)


GAF = (
    "!gaf-version: 2.2\n"
    "UniProtKB\tP04626\tERBB2\tenables\tGO:0005524\tPMID:1\tIDA\t\tF\t\t\tprotein\ttaxon:9606\t20200101\tX\t\t\n"
    "UniProtKB\tP04626\tERBB2\tNOT|located_in\tGO:0005634\tPMID:1\tIDA\t\tC\t\t\tprotein\ttaxon:9606\t20200101\tX\t\t\n"
    "UniProtKB\tP04626\tERBB2\tNOT\tGO:0005737\tPMID:1\tIDA\t\tC\t\t\tprotein\ttaxon:9606\t20200101\tX\t\t\n"
    "UniProtKB\tP04626\tERBB2\t\tGO:0005886\tPMID:1\tIDA\t\tC\t\t\tprotein\ttaxon:9606\t20200101\tX\t\t\n"
)


def test_gaf_files_are_read_with_the_names_of_their_terms(name_genes: NameGenes, tmp_path: Path) -> None:
    names = name_genes("ERBB2")
    path = tmp_path / "goa.gaf.gz"
    path.write_bytes(gzip.compress(GAF.encode()))
    facts = describe_genes(names, outdir=tmp_path, sources=Sources(go=path), head=False)
    assert texts(facts)["ERBB2"] == "Gene Ontology: enables ATP binding; located in plasma membrane."
    newer = tmp_path / "newer.gaf"
    newer.write_text(GAF.replace("GO:0005524", "GO:9999999"))
    with pytest.raises(DataError, match="GO:9999999"):
        describe_genes(names, outdir=tmp_path, sources=Sources(go=newer))
    obo = tmp_path / "go-basic.obo"
    terms = {"GO:9999999": "new binding", "GO:0005634": "a", "GO:0005737": "b", "GO:0005886": "c"}
    obo.write_text(
        "format-version: 1.2\n" + "".join(f"\n[Term]\nid: {key}\nname: {name}\n" for key, name in terms.items())
    )
    facts = describe_genes(names, outdir=tmp_path, sources=Sources(go=newer, go_terms=obo), head=False)
    assert texts(facts)["ERBB2"] == "Gene Ontology: enables new binding; located in c."


UNIPROT = {
    "results": [
        {
            "primaryAccession": "P20930",
            "genes": [{"geneName": {"value": "FLG"}}],
            "comments": [
                {
                    "commentType": "FUNCTION",
                    "texts": [{"value": "Aggregates keratin (PubMed:1, PubMed:22). {ECO:0000269}"}],
                },
                {"commentType": "DISEASE", "texts": [{"value": "Ichthyosis."}]},
            ],
            "uniProtKBCrossReferences": [{"database": "HGNC", "id": "HGNC:3748"}],
        },
        {"primaryAccession": "P11362", "genes": [{"geneName": {"value": "KRT5"}}], "comments": []},
    ]
}


def test_uniprot_is_read_as_json_and_as_table(name_genes: NameGenes, tmp_path: Path) -> None:
    names = name_genes("FLG", "KRT5")
    (tmp_path / "u.json").write_text(json.dumps(UNIPROT))
    facts = describe_genes(names, outdir=tmp_path, sources=Sources(uniprot=tmp_path / "u.json"), head=False)
    assert texts(facts)["FLG"] == "Function: Aggregates keratin."
    assert facts.refused == ["KRT5: P11362 is not an accession of KRT5 (uniprot)"]
    (tmp_path / "u.tsv").write_text(
        "Entry\tGene Names (primary)\tFunction [CC]\nP20930\tFLG\tFUNCTION: Aggregates keratin (PubMed:1).\n"
    )
    facts = describe_genes(names, outdir=tmp_path, sources=Sources(uniprot=tmp_path / "u.tsv"), head=False)
    assert texts(facts)["FLG"] == "Function: Aggregates keratin."


SOURCES = ("ncbi", "uniprot", "go", "refined")
NO_SOURCE = {
    "table": b"colour\nred\n",
    "binary": b"\xff\xfe\x81",
    "json": b"{]",
    "cut": gzip.compress(b"x" * 99)[:15],
    "empty": b"",
}


@pytest.mark.parametrize(
    ("source", "content"),
    # NCBI records stand a line each, so a file without a line is one without records.
    [(source, content) for source in SOURCES for content in NO_SOURCE if (source, content) != ("ncbi", "empty")],
)
def test_files_that_are_no_source_are_named(source: str, content: str, name_genes: NameGenes, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(NO_SOURCE[content])
    with pytest.raises(DataError, match=r"bad\.txt"):
        describe_genes(name_genes("FLG"), outdir=tmp_path, sources=Sources(**{source: path}))
    with pytest.raises(MissingInputError, match=r"absent\.txt"):
        describe_genes(name_genes("FLG"), outdir=tmp_path, sources=Sources(**{source: tmp_path / "absent.txt"}))


def test_texts_are_the_same_every_time_and_digested(name_genes: NameGenes, tmp_path: Path) -> None:
    names = name_genes("FLG", "AC090498.1", on_unknown="keep")
    first = describe_genes(names, outdir=tmp_path / "a", sources=Sources())
    second = describe_genes(names, outdir=tmp_path / "b", sources=Sources())
    assert first.path.read_bytes() == second.path.read_bytes()
    table, provenance = read_table(first.path, GENE_TEXTS)
    assert table["text"].to_pylist() == ["gene symbol: FLG. Name: filaggrin.", "gene symbol: AC090498.1."]
    assert table["digest"].to_pylist() == [digest_of_text(text) for text in table["text"].to_pylist()]
    assert provenance.inputs["names"].startswith("sha256:")


class _Response(io.BytesIO):
    """An HTTP response, as far as Biopython looks at it."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.headers = Message()
        self.headers["Content-Type"] = "application/json"


class _Entrez:
    """Stands where NCBI does: answers esummary in its JSON, and counts."""

    def __init__(self, *, fail_from: int = 99) -> None:
        self.asked: list[list[str]] = []
        self.fail_from = fail_from

    def __call__(self, request: Any, *_: object, **__: object) -> _Response:
        if len(self.asked) >= self.fail_from:
            raise OSError("connection reset")
        sent = (request.data or b"").decode() or urllib.parse.urlsplit(request.full_url).query
        ids = urllib.parse.parse_qs(sent)["id"][0].split(",")
        self.asked.append(ids)
        result: dict[str, Any] = {
            key: {"uid": key, "summary": f"Summary of {key}. [provided by RefSeq]"} for key in ids
        }
        return _Response(json.dumps({"result": {"uids": ids, **result}}).encode())


def test_entrez_is_asked_by_id_and_once(name_genes: NameGenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entrez = pytest.importorskip("Bio.Entrez", reason="the extra genes is not installed")
    monkeypatch.setattr("histocast.genes.ncbi.IDS_A_REQUEST", 2)
    monkeypatch.setattr(entrez, "sleep_between_tries", 0)
    names, sources = name_genes("FLG", "KRT5", "ERBB2", "CD3E"), Sources(entrez_email="someone@example.org")
    failing = _Entrez(fail_from=1)
    monkeypatch.setattr(entrez, "urlopen", failing)
    with pytest.raises(StorageUnavailable):
        describe_genes(names, outdir=tmp_path, sources=sources)
    whole = _Entrez()
    monkeypatch.setattr(entrez, "urlopen", whole)
    facts = describe_genes(names, outdir=tmp_path, sources=sources)
    asked = [gene_id for ids in failing.asked + whole.asked for gene_id in ids]
    assert sorted(asked) == sorted(["2312", "3852", "2064", "916"])
    assert texts(facts)["FLG"] == "gene symbol: FLG. Name: filaggrin. Summary of 2312."


def test_a_cut_answer_of_entrez_is_worth_another_try(
    name_genes: NameGenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entrez = pytest.importorskip("Bio.Entrez", reason="the extra genes is not installed")

    class Cut(_Response):
        def read(self, *_: object) -> bytes:
            raise IncompleteRead(b"{")

    monkeypatch.setattr(entrez, "urlopen", lambda *_, **__: Cut(b""))
    with pytest.raises(StorageUnavailable, match="did not answer"):
        describe_genes(name_genes("FLG"), outdir=tmp_path, sources=Sources(entrez_email="someone@example.org"))
    monkeypatch.setattr(entrez, "urlopen", lambda *_, **__: _Response(b'{"result": {"2312": "no record"}}'))
    with pytest.raises(DataError, match="no result"):
        describe_genes(name_genes("FLG"), outdir=tmp_path, sources=Sources(entrez_email="someone@example.org"))


def test_a_record_with_a_line_separator_of_unicode_stays_whole(name_genes: NameGenes, tmp_path: Path) -> None:
    record = {"query": "FLG", "symbol": "FLG", "hgnc_id": "HGNC:3748", "summary": "first\u2028second\x85third"}
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(record, ensure_ascii=False) + "\r\n", encoding="utf-8")
    facts = describe_genes(name_genes("FLG"), outdir=tmp_path, sources=Sources(ncbi=path), head=False)
    assert texts(facts)["FLG"] == "first second third"


def test_a_quotation_mark_swallows_no_line(name_genes: NameGenes, tmp_path: Path) -> None:
    (tmp_path / "u.tsv").write_text('Entry\tFunction [CC]\nP13647\t"Basal" keratin\nP20930\tAggregates keratin.\n')
    (tmp_path / "go.tsv").write_text(
        GO_HEADER
        + 'KRT5\tP13647\tenables\t"scaffold" activity\tmolecular_function\tIDA\n'
        + "FLG\tP20930\tenables\tcalcium ion binding\tmolecular_function\tIDA\n"
    )
    sources = Sources(uniprot=tmp_path / "u.tsv", go=tmp_path / "go.tsv")
    facts = describe_genes(name_genes("FLG", "KRT5"), outdir=tmp_path, sources=sources, head=False)
    assert texts(facts)["FLG"] == "Function: Aggregates keratin. Gene Ontology: enables calcium ion binding."
    assert texts(facts)["KRT5"] == 'Function: "Basal" keratin Gene Ontology: enables "scaffold" activity.'


MOUSE = (
    "#tax_id\tGeneID\tSymbol\tSynonyms\tdbXrefs\tdescription\ttype_of_gene\n"
    "10090\t13866\tErbb2\tNeu|HER2\tMGI:MGI:95410|Ensembl:ENSMUSG00000062312\terb-b2\tprotein-coding\n"
    "10090\t110308\tKrt5\tK5\tMGI:MGI:96702|Ensembl:ENSMUSG00000061527\tkeratin 5\tprotein-coding\n"
)


def test_mouse_genes_are_described_by_their_ids(tmp_path: Path) -> None:
    (tmp_path / "gene_info").write_text(MOUSE)
    (tmp_path / "panel.txt").write_text("ENSMUSG00000062312.14\nK5\n")
    catalogue = open_catalogue([tmp_path / "gene_info"], species="mouse")
    names = resolve_genes(tmp_path / "panel.txt", catalogue=catalogue, outdir=tmp_path).path
    record = {"query": "ERBB2", "symbol": "Erbb2", "ncbi_gene_id": "13866", "summary": "A receptor."}
    human = {"query": "Krt5", "symbol": "KRT5", "ncbi_gene_id": "3852", "summary": "A human keratin."}
    (tmp_path / "mgi.gaf").write_text(
        "!gaf-version: 2.2\n"
        "MGI\tMGI:95410\tErbb2\tenables\tGO:0005524\tMGI:1\tIDA\t\tF\t\t\tprotein\ttaxon:10090\t20200101\tMGI\t\t\n"
        "MGI\tMGI:1\tKrt5\tenables\tGO:0005524\tMGI:1\tIDA\t\tF\t\t\tprotein\ttaxon:10090\t20200101\tMGI\t\t\n"
    )
    entry = {
        "primaryAccession": "Q922U2",
        "genes": [{"geneName": {"value": "Krt5"}}],
        "comments": [{"commentType": "FUNCTION", "texts": [{"value": "Forms filaments."}]}],
        "uniProtKBCrossReferences": [{"database": "MGI", "id": "MGI:96702"}],
    }
    (tmp_path / "u.json").write_text(json.dumps({"results": [entry]}))
    sources = Sources(
        ncbi=records(tmp_path / "ncbi.jsonl", record, human), uniprot=tmp_path / "u.json", go=tmp_path / "mgi.gaf"
    )
    facts = describe_genes(names, outdir=tmp_path, sources=sources)
    assert texts(facts)["Erbb2"] == (
        "gene symbol: Erbb2. Name: erb-b2. A receptor. Gene Ontology: enables ATP binding."
    )
    assert texts(facts)["K5"] == "gene symbol: Krt5. Name: keratin 5. Function: Forms filaments."
    assert facts.refused == [
        "K5: the record found for K5 is of KRT5 (3852) (ncbi)",
        "K5: MGI:1 is not an accession of K5 (go)",
    ]
    entry["uniProtKBCrossReferences"] = [{"database": "MGI", "id": "MGI:1"}]
    (tmp_path / "u.json").write_text(json.dumps({"results": [entry]}))
    facts = describe_genes(names, outdir=tmp_path, sources=Sources(uniprot=tmp_path / "u.json"))
    assert texts(facts)["K5"] == "gene symbol: Krt5. Name: keratin 5."
    assert facts.refused == ["K5: Q922U2 is not an accession of K5 (uniprot)"]


def test_describing_says_which_table_it_needs(tmp_path: Path) -> None:
    with pytest.raises(HistocastError, match="gene-names"):
        describe_genes(tmp_path / "absent.parquet", outdir=tmp_path, sources=Sources())
